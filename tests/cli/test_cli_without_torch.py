"""What nothing is trained for does not wait for torch: commands in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The command, and whether it ended with torch loaded.
CODE = """
import sys
from normbench.__main__ import main
sys.argv = ["normbench", *sys.argv[1:]]
status = main()
print("torch" in sys.modules)
sys.exit(status)
"""


@pytest.fixture
def loads_torch(tmp_path):
    """Run a command in an empty folder: (exit status, whether it loaded torch, what it said)."""

    def run(*typed):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", CODE, *typed],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        *said, loaded = done.stdout.splitlines()
        return done.returncode, {"True": True, "False": False}[loaded], "\n".join([*said, done.stderr])

    return run


@pytest.mark.parametrize(
    ("typed", "status", "words"),
    [
        (["--help"], 0, "batch_size: 128"),
        (["--cfg", "job", "norm=group"], 0, "num_groups: 8"),
        (["norm=gruop"], 2, "did you mean group?"),
        (["batch_size=0"], 2, "≥ 1"),
        (["batch_sise=2"], 2, "did you mean batch_size"),
        (["norm=ghost_batch", "norm.ghost_size=3"], 2, "must divide"),
        (["-m", "norm=batch,none", "optim.momentum=0"], 2, "optim.nesterov"),
        (["-m", "hydra/launcher=foo"], 2, "unknown launcher"),
    ],
)
def test_help_and_mistakes(typed, status, words, loads_torch):
    ended, loaded, said = loads_torch(*typed)
    assert (ended, loaded) == (status, False)
    assert words in said


def test_runs_that_are_over(loads_torch, tiny):
    typed = [word for word in tiny if word != "device=cpu"]  # to settle it too, without torch
    sweep = ["-m", "seed=0,1", *typed, "logging.progress=none"]
    assert loads_torch(*sweep)[:2] == (0, True)
    for again in (sweep, ["seed=1", *typed], ["--dry-run", *sweep]):
        status, loaded, said = loads_torch(*again)
        assert (status, loaded) == (0, False), again
        assert "finished" in said
    assert loads_torch("seed=1", *typed, "force=true")[:2] == (0, True)


def test_a_mistake_in_the_network_of_one_run_shows_before_the_first(loads_torch, tiny, tmp_path):
    status, _, said = loads_torch("-m", "norm=group", "norm.num_groups=8,5", *tiny)
    assert status == 2
    assert said.strip().startswith("normbench: norm.num_groups=5: ")
    assert list(tmp_path.iterdir()) == []
