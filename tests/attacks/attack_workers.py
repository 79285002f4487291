"""A worker of joblib is killed, as the kernel does for memory, before any run of its sweep is over."""

import os
import signal
import time
from pathlib import Path

from attack import RUN, done, main, results
from small_runs import last_of_each

SWEEP = ("-m", "seed=0,1", "threads=1")


def workers(root: Path, count: int) -> dict:
    import subprocess
    import sys

    done(root / "whole", *SWEEP)
    whole, told, equal, killed = results(root / "whole"), 0, 0, 0
    for at in range(count):
        output = root / f"joblib{at}"
        words = last_of_each([*RUN, *SWEEP, f"output={output}", "hydra/launcher=joblib"])
        command = [sys.executable, "-m", "normbench", *words]
        process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        victims = []
        while process.poll() is None and not victims:
            if list(output.glob("*/checkpoint.pt")):
                victims = [pid for pid in holders(output) if pid != process.pid]
            time.sleep(0.01)
        assert not list(output.glob("*/result.json"))
        for victim in victims[:1]:
            os.kill(victim, signal.SIGKILL)
            killed += 1
        _, err = process.communicate(timeout=300)
        told += "a worker was killed by SIGKILL(-9)" in err and process.returncode == 0
        equal += results(output) == whole
    return {"workers killed": killed, "told and gone on": told, "sweeps": count, "bit-equal": equal}


def holders(output: Path) -> list[int]:
    """The processes that hold the lock of a run: the workers that are at work."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            files = [os.readlink(link) for link in (folder / "fd").iterdir()]
        except OSError:
            continue
        if any(file.startswith(str(output)) and file.endswith("/.lock") for file in files):
            found.append(int(folder.name))
    return found


if __name__ == "__main__":
    main(workers, 5)
