"""What stops a run, and what is damaged when it goes on."""

import json
import os
import shutil
import signal
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from forked import Forked
from small_runs import without_times
from training_runs import ROOT, metrics, only_folder

from normbench.config.overrides import normalize, plan
from normbench.config.resolve import resolve
from normbench.errors import UserError
from normbench.records.directory import RunDirectory
from normbench.runs import launchers, sweep
from normbench.runs.planned import runs_of
from normbench.runs.run import execute
from normbench.training.session import Session


@pytest.fixture(scope="module")
def words(tiny):
    return [*tiny, "evaluation.precise_images=0", "data.train_size=48", "logging.progress=none"]


def stop_at(patch, call, number=signal.SIGTERM):
    """Have a signal come at the call of `Session.poll`, counted from 1."""
    poll, calls = Session.poll, [0]

    def stopping(session, state):
        calls[0] += 1
        if calls[0] == call:
            session.request.number = number
        poll(session, state)

    patch.setattr(Session, "poll", stopping)
    return calls


def points(folder):
    """Of each curve of TensorBoard: its steps, as often as they are there."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}, purge_orphaned_data=False)
    board.Reload()
    return {tag: sorted(event.step for event in board.Scalars(tag)) for tag in board.Tags()["scalars"]}


def outcome(folder):
    result = json.loads((folder / "result.json").read_text(), object_hook=without_times)
    return result, metrics(folder), points(folder), (folder / "correct.npz").read_bytes()


@pytest.fixture(scope="module")
def stopped(words, compose, tmp_path_factory):
    """Two folders of outputs: with a run stopped in its second epoch, and with one that nobody stopped."""
    half, whole = tmp_path_factory.mktemp("half"), tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 6)
        with pytest.raises(BaseException, match="SIGTERM"):
            execute(resolve(compose(*words, f"output={half}")))
    execute(resolve(compose(*words, f"output={whole}")))
    assert len(metrics(only_folder(half))) == 1
    return half, whole


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def unsigned(path):
    """As an earlier version wrote it."""
    torch.save(torch.load(path, weights_only=True), path)


def of_another_run(path):
    RunDirectory(path.parent, ".").path.joinpath("x").mkdir()
    other = RunDirectory(path.parent, "x")
    other.save_checkpoint(torch.load(path, weights_only=True))
    shutil.move(other.path / path.name, path)
    other.path.rmdir()


def changed(change):
    def damage(path):
        state = torch.load(path, weights_only=True)
        RunDirectory(path.parents[1], path.parent.name).save_checkpoint(change(state))

    return damage


def a_folder(path):
    path.unlink()
    (path / "within").mkdir(parents=True)


DAMAGE = {
    "empty": (lambda path: path.write_bytes(b""), "damaged"),
    "cut": (lambda path: os.truncate(path, path.stat().st_size // 2), "damaged"),
    "flipped": (flipped, "damaged"),
    "flipped, of an earlier version": (lambda path: [unsigned(path), flipped(path)], "damaged"),
    "garbage": (lambda path: path.write_bytes(os.urandom(5000)), "damaged"),
    "a folder": (a_folder, "a folder"),
    "of another run": (of_another_run, "of another run, x"),
    "other content": (changed(lambda state: {"epoch": 1}), "of another version"),
    "other stacks": (changed(lambda state: state | {"finished": [{"seeds": [7]}]}), "of another version"),
    "other keys": (changed(lambda state: state | {"current": {"model": {}}}), "of another version"),
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_checkpoint_is_set_aside_and_the_run_begins_anew(how, stopped, words, command, tmp_path):
    shutil.copytree(stopped[0], tmp_path / "outputs")
    folder = only_folder(tmp_path / "outputs")
    damage, told = DAMAGE[how]
    damage(folder / "checkpoint.pt")
    status, _, err = command(*words, f"output={tmp_path}/outputs")
    line = f"{folder}/checkpoint.pt: {told}; set aside as checkpoint.pt.damaged, the run begins anew"
    assert (status, err) == (0, f"normbench: {line}\n")
    assert (folder / "checkpoint.pt.damaged").exists()
    assert outcome(folder) == outcome(only_folder(stopped[1]))
    assert command(*words, f"output={tmp_path}/outputs")[::2] == (0, "")


@pytest.mark.parametrize(
    ("begun", "then", "told"),
    [
        (1, 3, ""),
        (3, 1, "{}: seeds 0 to 2 begin anew, stack=1 in place of 3\n"),
        (2, 3, ""),
    ],
)
def test_replicates_stacked_otherwise_go_on(begun, then, told, words, compose, tmp_path, capsys, monkeypatch):
    """Stopped in the second epoch of seed 1 of 0 to 2, or of 0 and 1: the name and the numbers stay the same."""
    many = [*words, "replicates=3", "norm=none", "precision=float64", f"output={tmp_path}"]
    with monkeypatch.context() as patch:
        stop_at(patch, 18 if begun == 1 else 6)
        with pytest.raises(BaseException, match="SIGTERM"):
            execute(resolve(compose(*many, f"stack={begun}")))
    folder = only_folder(tmp_path)
    execute(resolve(compose(*many, f"stack={then}")))
    assert only_folder(tmp_path) == folder
    err = capsys.readouterr().err
    assert told.format(folder) in err
    assert ("begin anew" in err) is bool(told)
    found = metrics(folder)
    execute(resolve(compose(*many, "force=true")))
    expected = metrics(folder)
    assert [(row["seed"], row["epoch"]) for row in found] == [(row["seed"], row["epoch"]) for row in expected]
    for one, other in zip(found, expected, strict=True):
        assert [float(value or 0) for value in one.values()] == pytest.approx(
            [float(value or 0) for value in other.values()], rel=1e-8
        )


def test_a_checkpoint_of_an_earlier_version_goes_on(stopped, words, command, tmp_path):
    shutil.copytree(stopped[0], tmp_path / "outputs")
    folder = only_folder(tmp_path / "outputs")
    unsigned(folder / "checkpoint.pt")
    assert command(*words, f"output={tmp_path}/outputs")[::2] == (0, "")
    assert outcome(folder) == outcome(only_folder(stopped[1]))


def test_a_checkpoint_that_may_not_be_read_is_one_line(stopped, words, command, tmp_path, monkeypatch):
    """Also to root, who may read everything."""
    shutil.copytree(stopped[0], tmp_path / "outputs")

    read = Path.read_bytes

    def refuse(path):
        if path.name == "checkpoint.pt":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    status, _, err = command(*words, f"output={tmp_path}/outputs")
    path = only_folder(tmp_path / "outputs") / "checkpoint.pt"
    cure = "make it readable, or move it away to begin anew"
    assert (status, err) == (2, f"normbench: {path}: Permission denied; {cure}\n")
    assert path.exists()


def test_force_applies_once_however_often_it_is_stopped(words, command, tmp_path):
    """A run takes three steps an epoch and 6 more looks for its evaluations: 5 looks are within the second epoch."""
    given = ["-m", *words, f"output={tmp_path}/outputs", "seed=0,1", "force=true"]
    plain = [word for word in given if word != "force=true"]

    def steps(stop=0, overrides=given):
        """How many looks a session takes."""
        with pytest.MonkeyPatch.context() as patch:
            calls = stop_at(patch, stop)
            status = command(*overrides)[0]
        assert status == (143 if stop else 0)
        return calls[0]

    both = steps(overrides=plain)
    assert steps() == both  # again, from the start
    assert steps() == both
    half = both // 2
    steps(stop=half + 6)  # in the second epoch of the second run
    assert "1 finished, 1 stopped" in command(*given, "--dry-run")[1]
    assert 0 < steps() < half  # the first is not redone, the second goes on
    assert steps(overrides=plain) == 0
    assert steps() == both  # all of it was over
    steps(stop=6)
    assert half < steps() < both
    assert not list((tmp_path / "outputs").glob(".forced*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_while_the_result_is_written_stops_the_sweep(number, words, command, tmp_path, monkeypatch):
    write = RunDirectory.write_result

    def signalled(directory, result):
        signal.raise_signal(number)
        write(directory, result)

    monkeypatch.setattr(RunDirectory, "write_result", signalled)
    status, _, err = command("-m", *words, "seed=0,1", f"output={tmp_path}/outputs")
    assert status == 128 + number
    assert f"normbench: stopped by {number.name}; to go on: " in err.splitlines()[-1]
    folder = only_folder(tmp_path / "outputs")
    assert json.loads((folder / "result.json").read_text())["status"] == "finished"


def test_a_signal_beside_another_fault_is_honoured_too(words, command, tmp_path, monkeypatch):
    def full(directory, result):
        if result["status"] == "finished":
            signal.raise_signal(signal.SIGTERM)
        raise UserError("no space left")

    monkeypatch.setattr(RunDirectory, "write_result", full)
    status, _, err = command("-m", *words, "seed=0,1", f"output={tmp_path}/outputs")
    assert status == 143
    assert err.splitlines()[0] == "normbench: no space left"
    assert len([path for path in (tmp_path / "outputs").iterdir() if path.is_dir()]) == 1


def test_a_closed_terminal_does_not_stop_what_runs_under_nohup(words, command, tmp_path, monkeypatch):
    write = RunDirectory.write_result
    monkeypatch.setattr(RunDirectory, "write_result", lambda *a: [signal.raise_signal(signal.SIGHUP), write(*a)])
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert command(*words, f"output={tmp_path}/outputs")[0] == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_workers_of_joblib_that_are_killed_are_started_again_fewer_at_a_time(words, tmp_path, monkeypatch, capsys):
    """As long as anything advances; with one at a time and nothing gained it is given up."""
    jobs, _, _ = plan(normalize([*words, f"output={tmp_path}/outputs", "seed=0,1,2,3"]), True)
    runs = runs_of(jobs)
    checkpoint = runs[0].directory.path / "checkpoint.pt"
    checkpoint.parent.mkdir(parents=True)
    advances, workers = iter([True, True, True, False, False]), []

    def launch(todo, for_hydra, watch, since, most):
        workers.append(most or 4)
        if next(advances):
            checkpoint.write_text(str(len(workers)))
        return [{} for _ in todo], launchers.Broken("a worker was killed by SIGKILL(-9)", workers[-1])

    monkeypatch.setattr(sweep, "_launch", launch)
    sweep.run_sweep(runs, [])
    assert workers == [4, 4, 2, 1, 1][: len(workers)]
    assert len(workers) == 4
    assert {run.error for run in runs} == {"a worker was killed by SIGKILL(-9)"}
    assert "SIGKILL(-9); going on, 2 at a time" in capsys.readouterr().err


def test_what_killed_a_worker_is_told():
    loky = pytest.importorskip("joblib.externals.loky.process_executor")
    error = loky.TerminatedWorkerError("A worker process … terminated.\n\nThe exit codes are {SIGKILL(-9), EXIT(0)}\n")
    broken = launchers.broken("joblib", error, SimpleNamespace(n_jobs=3))
    assert broken.workers == 3
    assert "killed by SIGKILL(-9), EXIT(0), as the kernel does where memory is short" in broken.told


@pytest.mark.parametrize("call", [1, 2], ids=["first epoch", "last epoch"])
def test_tensorboard_catches_up_with_a_checkpoint_that_was_kept_before_it(call, stopped, words, command, tmp_path):
    from normbench.training.tensorboard import Board

    scalars, calls = Board.scalars, []

    def killed(board, rows):
        calls.extend([1] * bool(rows))
        if len(calls) == call:
            raise KeyboardInterrupt
        scalars(board, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Board, "scalars", killed)
        assert command(*words, f"output={tmp_path}/outputs")[0] == 130
    assert command(*words, f"output={tmp_path}/outputs")[0] == 0
    assert outcome(only_folder(tmp_path / "outputs")) == outcome(only_folder(stopped[1]))


def test_what_the_first_of_two_processes_meets_ends_both(words, compose, tmp_path):
    """A run that another process holds, a folder that cannot be made, a checkpoint that may not be read."""
    (tmp_path / "file").touch()
    config = resolve(compose(*words, f"output={tmp_path}/held"), 2)
    with RunDirectory.of(config, 2).locked():
        for output, told in ((tmp_path / "held", "another process is working on"), (tmp_path / "file", "File exists")):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = str(probe.getsockname()[1])
            shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            two = [Forked(ROOT, *words, f"output={output}", **shared, RANK=n, LOCAL_RANK=n) for n in "01"]
            said = [process.communicate(timeout=60)[1] for process in two]
            assert [process.returncode for process in two] == [2, 2], said
            assert told in said[0]
            assert said[0].count("\n") == 1
            assert said[1] == ""


def test_a_link_in_the_place_of_a_part_is_not_followed(tmp_path):
    directory, other = RunDirectory(tmp_path, "run"), tmp_path / "mine.txt"
    directory.path.mkdir()
    other.write_text("mine")
    (directory.path / ".checkpoint.pt.part").symlink_to(other)
    directory.save_checkpoint({"finished": [], "current": None})
    assert other.read_text() == "mine"
    assert not (directory.path / "checkpoint.pt").is_symlink()
    assert [path.name for path in directory.path.iterdir()] == ["checkpoint.pt"]
