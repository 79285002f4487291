"""What several measurements do alike: checks of their options, the training that they look at, entries and rows."""

import time
from collections.abc import Iterator

from normbench.errors import InputError
from normbench.training.schedule import Plan
from normbench.training.steps import Step, steps


def require_least(config, **least: int) -> None:
    """Raises InputError for an option of the measurement below its least. least: option → integer."""
    for key, number in least.items():
        if config.measure[key] < number:
            raise InputError(f"measure.{key}", config.measure[key], f"must be an integer ≥ {number}")


def training(network, task, plan: Plan, session) -> Iterator[Step]:
    """The steps of a training, each shown once it has been looked at. Which replicates diverge is noted in `lost`."""
    for done in steps(network, task, plan):
        network.lost |= ~done.losses.isfinite().cpu()
        yield done
        session.step((network.step - 1) // task.steps_per_epoch, lambda: None)
    network.forget_gradients()


def entries_of(networks, told: list[dict], started: float, lost: dict | None = None) -> list[dict]:
    """An entry of result.json a seed.

    networks: with `seeds` and `lost`, R, which diverged. told: a seed's outcomes. started: when, by the clock. lost:
    the outcomes of one that diverged; left out, it has none.
    """
    entries = []
    for seed, gone, one in zip(networks.seeds, networks.lost.tolist(), told, strict=True):
        outcomes = one if not gone else dict.fromkeys(one) if lost is None else lost
        entries.append({"seed": seed, "status": "diverged" if gone else "finished"} | outcomes)
    return with_cost(entries, started)


def with_cost(entries: list[dict], started: float) -> list[dict]:
    """The entries of a stack, with the seconds that it took."""
    cost = {"seconds": round(time.perf_counter() - started, 3), "stack": len(entries)}
    return [entry | cost for entry in entries]


def significant(value: float, digits: int) -> float:
    """A number of a row, with so many significant digits."""
    return float(f"{value:.{digits}g}")
