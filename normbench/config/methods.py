"""What the configuration has to know of a method. (normbench/norms/facts.py takes its place.)"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Facts:
    all_processes: bool = False
    images_option: str | None = None
    rate_of: str | None = None

    def statistic_images(self, options: Mapping, batch_size: int, processes: int = 1) -> int:
        if self.images_option is not None:
            return options[self.images_option]
        return batch_size if self.all_processes else batch_size // processes


FACTS = {
    "ghost_batch": Facts(images_option="ghost_size", rate_of="batch"),
    "sync_batch": Facts(all_processes=True, rate_of="batch"),
}


def facts_of(method: str) -> Facts:
    return FACTS.get(method, Facts())
