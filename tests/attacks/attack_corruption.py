"""Every file of a run's folder × every damage; then the dry-run, the sweep and collect.

Right is: no traceback anywhere, the sweep ends with status 0 and the results of an undamaged one, or with one line that
names the file; given again it does not fail in another way.
"""

import csv
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

from attack import ended, main, results, start, stop_in_the_middle

FILES = (
    "config.yaml",
    "env.json",
    "metrics.csv",
    "checkpoint.pt",
    "correct.npz",
    "result.json",
    "tensorboard",
    ".lock",
)
SCRIPT = Path(__file__).parents[2] / "scripts" / "collect.py"
SWEEP = ("-m", "seed=0,1")
SPEAKERS = ("normbench: ", f"{SCRIPT}: ")  # how a line about something wrong begins


def flip(path: Path, draw) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(8):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def a_folder(path: Path, draw) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = {
    "empty": lambda path, draw: path.write_bytes(b""),
    "cut": lambda path, draw: os.truncate(path, path.stat().st_size // 2),
    "flipped": flip,
    "garbage": lambda path, draw: path.write_bytes(draw.randbytes(3000)),
    "a folder": a_folder,
    "unreadable": lambda path, draw: path.chmod(0),
    "another's": None,
}


def corruption(root: Path, count: int) -> dict:
    """count: damages at most, drawn from all of them."""
    stop_in_the_middle(root / "begun", *SWEEP)  # the first run over, the second stopped
    shutil.copytree(root / "begun", root / "whole")
    assert ended(start(root / "whole", *SWEEP))[0] == 0
    whole, draw = results(root / "whole"), random.Random(13)
    cases = [(file, damage, at) for file in FILES for damage in DAMAGES for at in (0, 1)]
    # A run that is over is not written to TensorBoard again, and its reader takes no folder for an event file.
    beyond = {("tensorboard", damage, 0) for damage in DAMAGES} | {("tensorboard", "a folder", 1)}
    cases = [case for case in cases if case not in beyond]
    figures = {"cases": 0, "equal": 0, "one line": 0, "wrong": []}
    for file, damage, at in draw.sample(cases, min(count, len(cases))):
        output = root / "damaged"
        shutil.copytree(root / "begun", output)
        folders = sorted(path for path in output.iterdir() if path.is_dir())
        path = folders[at] / file
        if path.is_dir():
            path = next(path.iterdir())
        if path.is_file() and path.stat().st_size:
            other = folders[1 - at] / path.relative_to(folders[at])
            if damage != "another's":
                DAMAGES[damage](path, draw)
            elif other.is_file():
                shutil.copy(other, path)
            figures["cases"] += 1
            judge(figures, f"{file} {damage} ({'over' if at == 0 else 'stopped'})", output, path, whole)
        shutil.rmtree(output)
    return figures


def judge(figures: dict, case: str, output: Path, path: Path, whole: dict) -> None:
    command = [sys.executable, str(SCRIPT), str(output), "--to", str(output / "tables")]
    collect = lambda: subprocess.run(command, capture_output=True, text=True)  # noqa: E731
    said = [ended(start(output, *SWEEP, "--dry-run")), ended(start(output, *SWEEP)), ended(start(output, *SWEEP))]
    last = collect()
    said.append((last.returncode, last.stdout + last.stderr))
    named = path.relative_to(output).parts[0]
    if any("Traceback" in text for _, text in said):
        figures["wrong"].append(f"{case}: a traceback")
    elif said[1][0] == 0 and same(output, whole):
        figures["equal"] += 1
    elif any(named in line for _, text in said for line in text.splitlines() if line.startswith(SPEAKERS)):
        figures["one line"] += 1
    else:
        figures["wrong"].append(f"{case}: status {said[1][0]}")


def same(output: Path, whole: dict) -> bool:
    try:
        return results(output) == whole
    except (ValueError, csv.Error, OSError):  # what is damaged is still so
        return False


if __name__ == "__main__":
    main(corruption, 200)
