"""A disk that fills up at random sizes, and has room again; needs to mount a file system."""

import random
import subprocess
from pathlib import Path

from attack import done, ended, main, results, start


def disks(root: Path, count: int) -> dict:
    done(root / "whole")
    whole, draw = results(root / "whole"), random.Random(13)
    full = equal = told = 0
    for at in range(count):
        disk = root / f"disk{at}"
        disk.mkdir()
        size = draw.randrange(4, 500)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(disk)]).returncode:
            return {"skipped": "no file system can be mounted"}
        try:
            status, said = ended(start(disk / "outputs"))
            full += status == 2
            told += status == 2 and said.count("\n") == 1 and "No space left on device" in said
            subprocess.run(["mount", "-o", "remount,size=8000k", str(disk)], check=True)
            done(disk / "outputs")
            equal += results(disk / "outputs") == whole
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    return {"disks": count, "full": full, "told in one line": told, "bit-equal with room again": equal}


if __name__ == "__main__":
    main(disks, 20)
