"""Two sweeps of the same runs at a time, one of them killed at random moments, by turns; then one alone."""

import random
import time
from pathlib import Path

from attack import done, main, results, start, stop

SWEEP = ("-m", "seed=0,1")


def overlaps(root: Path, count: int) -> dict:
    done(root / "whole", *SWEEP)
    whole, draw = results(root / "whole"), random.Random(13)
    killed = sweeps = equal = 0
    while killed < count:
        output, two = root / f"sweep{sweeps}", []
        for _ in range(min(6, count - killed)):
            while len(two) < 2:
                two.append(start(output, *SWEEP))
            time.sleep(draw.uniform(0.3, 3))
            killed += stop(two.pop(draw.randrange(2)))
            two = [process for process in two if process.poll() is None]
        for process in two:
            process.communicate(timeout=120)
        done(output, *SWEEP)
        sweeps += 1
        equal += results(output) == whole
    return {"kills": killed, "sweeps": sweeps, "bit-equal": equal}


if __name__ == "__main__":
    main(overlaps, 50)
