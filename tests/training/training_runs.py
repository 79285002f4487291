"""Small runs for the tests of training: in this process or as real commands."""

import csv
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "data=patterns",
    "data.train_size=96",
    "data.val_size=100",
    "data.test_size=100",
    "evaluation.batch_size=100",
    "evaluation.precise_images=60",
    "epochs=2",
    "batch_size=8",
    "threads=1",
    "model.width=8",
    "logging.progress=none",
    "logging.tensorboard=false",
    "logging.grad_norm_steps=5",
]


def metrics(folder: Path) -> list[dict]:
    """metrics.csv as text, without the times."""
    with open(folder / "metrics.csv") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def outcomes(result: dict) -> list[dict]:
    """The entries of a result without what a clock measured and how many were stacked."""
    clock = ("seconds", "ms_per_step", "images_per_second", "stack")
    return [{key: value for key, value in entry.items() if key not in clock} for entry in result["replicates"]]


def command(*overrides, output, launcher=("-m", "normbench")) -> subprocess.Popen:
    """A real process: `python -m normbench …`."""
    return subprocess.Popen(
        [sys.executable, *launcher, *SMALL, f"output={output}", *overrides],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def only_folder(output: Path) -> Path:
    """The folder of the only run in an output folder."""
    (folder,) = (path for path in Path(output).iterdir() if path.is_dir())
    return folder
