"""A terminal that is closed (SIGHUP) at random moments, in a run and in a sweep by turns; then the same command."""

import random
import signal
import time
from pathlib import Path

from attack import done, main, results, start, stop


def hangups(root: Path, count: int) -> dict:
    draw, told, hung, equal = random.Random(13), 0, 0, 0
    kinds = ((), ("-m", "seed=0,1"))
    whole = []
    for at, words in enumerate(kinds):
        done(root / f"whole{at}", *words)
        whole.append(results(root / f"whole{at}"))
    for at in range(count):
        words, output = kinds[at % 2], root / f"hung{at}"
        process = start(output, *words)
        while process.poll() is None and not list(output.glob("*/checkpoint.pt")):
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.3))
        hung += stop(process, signal.SIGHUP)
        told += process.returncode == 128 + signal.SIGHUP and "stopped by SIGHUP" in process.communicate()[1]
        done(output, *words)
        equal += results(output) == whole[at % 2]
    return {"hang-ups": hung, "told and ended with 129": told, "repeated": count, "bit-equal": equal}


if __name__ == "__main__":
    main(hangups, 20)
