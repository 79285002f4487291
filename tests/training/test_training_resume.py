"""A run broken off at any moment goes on to the bits of the uninterrupted one."""

import json
import signal
import sys
import time
from functools import cache

import pytest
from training_runs import STEPS, TECHNIQUES, command, forked, metrics, only_folder, outcomes

from normbench.measures import MEASURES, Measurement
from normbench.signals import Stopped
from normbench.training.session import Session

OPTIONS = ("norm=batch", "replicates=3", "stack=2", "model.dropout=0.1", "augment.mixup=0.3")


@pytest.fixture(scope="module")
def whole(run_in, tmp_path_factory):
    """whole("norm=group", …) → result, rows and folder of a run that nobody stops, made once."""
    return cache(lambda *options: run_in(tmp_path_factory.mktemp("whole"), *options))


@pytest.mark.parametrize("stop_at", [1, 5, 12, 13, 14, 20, 26, 29, 31, 33, 40, 62])
def test_stopped_at_any_moment_and_resumed(whole, run, monkeypatch, stop_at):
    """A run is watched at each step and at each batch of an evaluation and of the precise statistics."""
    assert_goes_on(whole, run, monkeypatch, OPTIONS, stop_at)


# In the second epoch; with views also while the test images are evaluated under them.
@pytest.mark.parametrize(("technique", "stop_at"), [*((name, 8) for name in TECHNIQUES), ("views", 14)])
def test_so_it_is_under_every_technique(whole, run, monkeypatch, technique, stop_at):
    options = ("norm=batch", *STEPS, *TECHNIQUES[technique])
    assert_goes_on(whole, run, monkeypatch, options, stop_at)


def assert_goes_on(whole, run, monkeypatch, options, stop_at):
    """Whether a run that is stopped when it is watched for the `stop_at`-th time ends as one that is not."""
    result, rows, folder = whole(*options)
    calls, poll = [0], Session.poll

    def stopping(session, state):
        calls[0] += 1
        if calls[0] == stop_at:
            session.request.number = signal.SIGTERM
        poll(session, state)

    monkeypatch.setattr(Session, "poll", stopping)
    with pytest.raises(Stopped) as stopped:
        run(*options)
    assert stopped.value.exit_status == 143
    resumed, resumed_rows, other = run(*options)
    assert calls[0] > stop_at
    assert "repeated" not in resumed
    assert resumed_rows == rows
    assert outcomes(resumed) == outcomes(result)
    assert (other / "correct.npz").read_bytes() == (folder / "correct.npz").read_bytes()


def wait_for(path, process):
    deadline = time.monotonic() + 60
    while not path():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


LONG = ("norm=group", "data.train_size=1600", "batch_size=2", "epochs=1", "checkpoint_seconds=0.2")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    output = tmp_path_factory.mktemp("whole")
    process = command(*LONG, output=output)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    folder = only_folder(output)
    return metrics(folder), outcomes(json.loads((folder / "result.json").read_text()))


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)],
    ids=["kill", "term", "int"],
)
def test_a_real_process_ended_by_a_signal_goes_on(tmp_path, uninterrupted, number, status):
    start = command if number == signal.SIGINT else forked  # one in a fresh interpreter
    process = start(*LONG, output=tmp_path)
    wait_for(lambda: list(tmp_path.glob("*/checkpoint.pt")), process)
    time.sleep(0.3)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert "Traceback" not in errors
    if number != signal.SIGKILL:
        assert "to go on: python -m normbench data=patterns" in errors
    folder = only_folder(tmp_path)
    assert not (folder / "result.json").exists()

    again = forked(*LONG, "logging.progress=lines", output=tmp_path)
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0
    assert "going on from step" in errors
    assert only_folder(tmp_path) == folder
    assert (metrics(folder), outcomes(json.loads((folder / "result.json").read_text()))) == uninterrupted


def test_a_failed_run_is_recorded_and_taken_up_again(run, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("of ours")

    with monkeypatch.context() as patch:
        patch.setitem(MEASURES, "train", Measurement(broken))
        with pytest.raises(ZeroDivisionError):
            run("norm=none")
    result, rows, folder = run("norm=none")
    assert result["status"] == "finished"
    assert len(rows) == 2

    with monkeypatch.context() as patch:
        patch.setitem(MEASURES, "train", Measurement(broken))
        with pytest.raises(ZeroDivisionError):
            run("norm=none", "force=true")
    record = json.loads((folder / "result.json").read_text())
    assert (record["status"], record["error"]) == ("failed", "ZeroDivisionError: of ours")


def test_two_processes_share_each_batch(tmp_path):
    """torchrun with sync_batch equals one process with batch, and writes its records once."""
    options = ["precision=float64", "replicates=2", "stack=2", "optim.clip_norm=1.0"]
    options += ["augment.mixup=0.3", "augment.cutmix=1", "augment.resize=[[0,16],[0.5,32]]", "augment.tta=flip"]
    launcher = ("-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "normbench")
    two = command("norm=sync_batch", *options, output=tmp_path / "two", launcher=launcher)
    one = forked("norm=batch", *options, output=tmp_path / "one")
    errors = [process.communicate(timeout=150)[1] for process in (two, one)]
    assert (two.returncode, one.returncode) == (0, 0), errors
    folders = only_folder(tmp_path / "two"), only_folder(tmp_path / "one")
    for a, b in zip(*map(metrics, folders), strict=True):
        for key in a:
            assert float(a[key]) == pytest.approx(float(b[key]), rel=1e-8, abs=1e-8), key
    results = [json.loads((folder / "result.json").read_text()) for folder in folders]
    for a, b in zip(*map(outcomes, results), strict=True):
        for key in a.keys() - {"status", "diverged_epoch"}:
            assert a[key] == pytest.approx(b[key], rel=1e-8, abs=1e-8), key
    assert json.loads((folders[0] / "env.json").read_text())["processes"] == 2


def test_the_live_bar_on_a_terminal(tmp_path):
    """In a real pseudo-terminal: epoch, loss, validation accuracy, images a second, time left."""
    pty = pytest.importorskip("pty")
    import os

    command_line = [sys.executable, "-m", "normbench", "data=patterns", "data.train_size=1600", "batch_size=16"]
    command_line += ["epochs=2", "model.width=8", "data.test_size=50", f"output={tmp_path}", "threads=1"]
    child, terminal = pty.fork()
    if child == 0:
        os.environ |= {"TERM": "xterm-256color", "COLUMNS": "160"}
        os.execvp(command_line[0], command_line)
    shown = b""
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    text = shown.decode()
    for expected in ("epoch 1/2", "epoch 2/2", "loss", "val", " %", "images/s", "0:0", "test acc"):
        assert expected in text
