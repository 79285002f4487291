"""What nothing is trained for does not wait for torch, no training for its compiler: commands in one interpreter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from forked import Forked

ROOT = Path(__file__).parents[2]
# Of each command: its exit status, what of torch it ended with, and what it said.
CODE = """
import contextlib, io, json, os, sys
from normbench.__main__ import main
ended = []
for typed in json.loads(sys.argv[1]):
    os.environ.pop("NORMBENCH_COMMAND", None)
    sys.argv = ["normbench", *typed]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = main()
    ended.append((status, [name for name in ("torch", "torch._inductor") if name in sys.modules], said.getvalue()))
print(json.dumps(ended))
"""


TYPED = [
    (["--help"], 0, "batch_size: 128"),
    (["--cfg", "job", "norm=group"], 0, "num_groups: 8"),
    (["norm=gruop"], 2, "did you mean group?"),
    (["batch_size=0"], 2, "≥ 1"),
    (["batch_sise=2"], 2, "did you mean batch_size"),
    (["norm=ghost_batch", "norm.ghost_size=3"], 2, "must divide"),
    (["-m", "norm=batch,none", "optim.momentum=0"], 2, "optim.nesterov"),
    (["-m", "hydra/launcher=foo"], 2, "unknown launcher"),
]


@pytest.fixture
def ended(tmp_path):
    """Run commands in an empty folder: of each (exit status, what of torch is loaded, what it said)."""

    def run(*commands):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", CODE, json.dumps(commands)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_help_and_mistakes(ended):
    for (typed, wanted, words), (status, loaded, said) in zip(TYPED, ended(*(line[0] for line in TYPED)), strict=True):
        assert (status, loaded) == (wanted, []), typed
        assert words in said, typed


def test_runs_that_are_over(ended, tiny, tmp_path):
    typed = [word for word in tiny if word != "device=cpu"]  # to settle it too, without torch
    sweep = ["-m", "seed=0,1", *typed, "logging.progress=none"]
    first = Forked(tmp_path, *sweep)
    printed = first.communicate(timeout=120)
    assert first.returncode == 0, printed
    *over, forced = ended(sweep, ["seed=1", *typed], ["--dry-run", *sweep], ["seed=1", *typed, "force=true"])
    for status, loaded, said in over:
        assert (status, loaded) == (0, [])
        assert "finished" in said
    assert forced[:2] == [0, ["torch"]]  # its compiler takes another second


def test_a_mistake_in_the_network_of_one_run_shows_before_the_first(command, tiny, tmp_path):
    status, out, err = command("-m", "norm=group", "norm.num_groups=8,5", *tiny)
    assert (status, out) == (2, "")
    assert err.startswith("normbench: norm.num_groups=5: ")
    assert list(tmp_path.iterdir()) == []
