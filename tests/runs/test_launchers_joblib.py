"""joblib: all cores of a machine, in real processes."""

import os
import signal
import time

import pytest
from launching import checkpoints, occupy, results, serially, threads

pytest.importorskip("hydra_plugins.hydra_joblib_launcher")

JOBLIB = "hydra/launcher=joblib"


def test_runs_share_the_cores_and_equal_the_serial_ones_and_one_that_fails_stops_nothing(sweep, serial, tmp_path):
    output = tmp_path / "outputs"
    occupied = occupy(output, "seed=2")
    printed = sweep(output, "seed=0,1,2", JOBLIB).ends(1)
    assert f"{occupied}: File exists" in printed
    assert results(output) == serial
    assert threads(output) == {1}  # two cores, two runs at a time


def test_stopped_in_every_way_it_goes_on_to_the_same_results(sweep, serial, tmp_path):
    output = tmp_path / "outputs"

    for number, told in ((signal.SIGINT, "all"), (signal.SIGTERM, "parent")):
        stopped = sweep(output, "seed=0,1", JOBLIB)
        stopped.keeps_a_checkpoint()
        at = time.time()
        stopped.signal_all(number) if told == "all" else stopped.process.send_signal(number)
        printed = stopped.ends(128 + number)
        assert f"normbench: stopped by {number.name}; to go on: python -m normbench -m" in printed
        assert "Traceback" not in printed
        assert any(path.stat().st_mtime > at for path in checkpoints(output))  # kept because of the signal
        ended = time.monotonic() + 10
        while stopped.left():
            assert time.monotonic() < ended
            time.sleep(0.1)

    killed = sweep(output, "seed=0,1", JOBLIB)
    killed.keeps_a_checkpoint()
    os.kill(killed.process.pid, signal.SIGKILL)
    killed.ends(-signal.SIGKILL)
    # Its workers may go on with what they have: the next sweep waits for their runs, and takes over what they leave.
    serially(output)
    assert results(output) == serial
