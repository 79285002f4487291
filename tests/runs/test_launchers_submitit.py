"""submitit: its local executor, and a real Slurm of one node where Debian's packages and root are there."""

import tempfile
from pathlib import Path

import pytest
import slurm
from launching import occupy, refused, results, threads

pytest.importorskip("hydra_plugins.hydra_submitit_launcher")

SLURM = ["hydra/launcher=submitit_slurm", "hydra.launcher.partition=tests", "hydra.launcher.mem_gb=1"]


def test_local_runs_equal_the_serial_ones_and_one_that_fails_stops_nothing(sweep, serial, tmp_path):
    output = tmp_path / "outputs"
    occupied = occupy(output, "seed=2")
    printed = sweep(output, "seed=0,1,2", "hydra/launcher=submitit_local").ends(1)
    assert f"{occupied}: File exists" in printed
    assert results(output) == serial
    assert threads(output) == {1}  # all start at once


@pytest.fixture(scope="module")
def slurm_conf():
    if reason := slurm.lacking():
        pytest.skip(reason)
    # Not in pytest's folder, which only root may enter: munged runs as munge.
    with tempfile.TemporaryDirectory(prefix="slurm") as folder:
        slurm.up(Path(folder))
        yield str(Path(folder) / "slurm.conf")
        slurm.down(Path(folder))


def test_slurm_runs_equal_the_serial_ones_and_one_that_fails_stops_nothing(slurm_conf, sweep, serial, tmp_path):
    output = tmp_path / "outputs"
    occupied = occupy(output, "seed=2")
    command = ["seed=0,1,2", *SLURM, "hydra.launcher.cpus_per_task=1"]
    printed = sweep(output, *command, SLURM_CONF=slurm_conf).ends(1)
    assert f"{occupied}: File exists" in printed
    assert results(output) == serial
    assert threads(output) == {1}
    (script,) = output.glob(".submitit/*/*_submission.sh")
    assert {"--job-name=normbench", "--partition=tests", "--mem=1GB", "--cpus-per-task=1"} <= set(
        script.read_text().split()
    )


def test_what_slurm_refuses_is_told_in_one_line(slurm_conf, tmp_path):
    output = tmp_path / "outputs"
    printed = refused(output, "seed=0,1", *SLURM, "hydra.launcher.partition=nope", SLURM_CONF=slurm_conf)
    told = [line for line in printed.splitlines() if not line.startswith("sbatch: error:")]
    assert len(told) == 1, printed
    assert told[0].startswith("normbench: hydra/launcher=submitit_slurm: ")
    assert "Invalid partition name" in told[0]


def test_without_slurm_that_is_told_in_one_line(tmp_path):
    told = refused(tmp_path / "outputs", "seed=0,1", "hydra/launcher=submitit_slurm", PATH=str(tmp_path))
    assert told.startswith("normbench: hydra/launcher=submitit_slurm: ")
    assert "srun" in told
    assert told.count("\n") == 1
