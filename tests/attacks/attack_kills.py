"""kill -9 at random moments, and just before or after a file is moved to its place; then the same command."""

import random
import time
from pathlib import Path

from attack import done, ended, main, results, start, stop

A_RUN = 5  # kills, at most


def kills(root: Path, count: int) -> dict:
    """Runs, killed again and again and then left in peace: at random and at file events by turns."""
    done(root / "whole")
    whole, draw = results(root / "whole"), random.Random(13)
    killed = {"at random": 0, "at file events": 0}
    runs = equal = 0
    while sum(killed.values()) < count:
        output = root / f"run{runs}"
        for _ in range(min(A_RUN, count - sum(killed.values()))):
            if runs % 2:
                status, said = ended(start(output, KILL_AT=str(draw.randrange(1, 40))))
                assert status in (0, -9), said
                killed["at file events"] += status == -9
            else:
                process = start(output)
                time.sleep(draw.uniform(0.3, 3))
                killed["at random"] += stop(process)
        done(output)
        runs += 1
        equal += results(output) == whole
    return {f"kills {how}": number for how, number in killed.items()} | {"runs": runs, "bit-equal": equal}


if __name__ == "__main__":
    main(kills, 100)
