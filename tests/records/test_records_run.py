"""What a run leaves on disk, from real runs on generated images."""

import csv
import itertools
import json
import math
import os
import shutil
import subprocess
import time
from types import SimpleNamespace

import pytest
import torch
from forked import Forked
from omegaconf import OmegaConf
from small_runs import without_times

from normbench.config.identity import run_id
from normbench.config.resolve import resolve
from normbench.records.metrics import METRICS
from normbench.runs.run import execute


def rows_of(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def strict(path):
    def refuse(word):
        raise AssertionError(f"{path}: {word} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.fixture(scope="module")
def typed(tiny):
    return [*tiny, "replicates=3", "stack=2", "logging.progress=none"]


@pytest.fixture(scope="module")
def finished(typed, popen, tmp_path_factory):
    """The folder of a run by the real command, and what the command printed."""
    root = tmp_path_factory.mktemp("finished")
    process = popen(root, *typed)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert err == ""
    (folder,) = (root / "outputs").iterdir()
    return folder, out


def test_the_files_of_a_run(finished, typed, compose):
    folder, _ = finished
    assert {path.name for path in folder.iterdir()} == {
        ".lock",
        "config.yaml",
        "correct.npz",
        "env.json",
        "metrics.csv",
        "result.json",
        "checkpoint.pt",
        "tensorboard",
    }
    config = resolve(compose(*typed))
    assert folder.name == run_id(config)
    assert OmegaConf.load(folder / "config.yaml") == config


def test_metrics(finished):
    rows = rows_of(finished[0])
    assert tuple(rows[0]) == METRICS
    assert [(row["seed"], row["epoch"]) for row in rows] == [(s, e) for s in "012" for e in "12"]
    assert [row["step"] for row in rows] == ["2", "4"] * 3
    assert [row["samples"] for row in rows] == ["32", "64"] * 3
    for row in rows:
        assert 0 <= float(row["train_acc"]) <= 100
        # 20 images: percent in steps of 5
        assert float(row["val_acc"]) % 5 == pytest.approx(0)
        assert 1 < float(row["train_loss"]) < 5
        assert float(row["grad_norm"]) > 0
        assert float(row["lr"]) > 0
        assert float(row["seconds"]) > 0


def test_result(finished):
    folder, out = finished
    result = strict(folder / "result.json")
    assert (result["run_id"], result["status"], result["method"]) == (folder.name, "finished", "batch")
    assert (result["model"], result["data"], result["batch_size"]) == ("resnet8", "patterns", 16)
    assert [entry["seed"] for entry in result["replicates"]] == [0, 1, 2]
    last = {row["seed"]: row for row in rows_of(folder) if row["epoch"] == "2"}
    for entry in result["replicates"]:
        assert entry["status"] == "finished"
        assert entry["val_acc"] == pytest.approx(float(last[str(entry["seed"])]["val_acc"]))
        assert entry["val_loss"] == pytest.approx(float(last[str(entry["seed"])]["val_loss"]), rel=1e-6)
        assert {"test_acc", "test_loss", "test_acc_precise", "val_acc_precise"} <= entry.keys()
        assert f"{entry['test_acc']:.2f}" in out


def test_environment(finished, typed):
    env = strict(finished[0] / "env.json")
    assert env["command"] == " ".join(["python", "-m", "normbench", *typed])
    assert env["threads"] == 1
    assert env["packages"]["torch"]
    assert {"commit", "dirty", "device", "python"} <= env.keys()


def test_the_checkpoint_loads_as_plain_values(finished):
    state = torch.load(finished[0] / "checkpoint.pt", weights_only=True)
    assert [stack["seeds"] for stack in state["finished"]] == [[0, 1], [2]]
    assert state["current"] is None


@pytest.fixture(scope="module")
def events(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(finished[0] / "tensorboard"), size_guidance={"histograms": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


def test_tensorboard_is_one_run(finished):
    entries = list((finished[0] / "tensorboard").iterdir())
    assert entries
    assert all(entry.is_file() and entry.name.startswith("events.out.tfevents") for entry in entries)


@pytest.mark.parametrize("key", ["train_loss", "train_acc", "val_loss", "val_acc", "val_ece", "grad_norm", "lr"])
def test_tensorboard_scalars_are_metrics(key, finished, events):
    rows = rows_of(finished[0])
    for seed in "012":
        curve = [(event.step, event.value) for event in events.Scalars(f"{key}/seed{seed}")]
        expected = [(int(row["step"]), float(row[key])) for row in rows if row["seed"] == seed]
        assert [step for step, _ in curve] == [step for step, _ in expected]
        assert [value for _, value in curve] == pytest.approx([value for _, value in expected], rel=1e-6)


def test_tensorboard_histograms(events):
    tags = events.Tags()["histograms"]
    gammas = [tag for tag in tags if tag.startswith("gamma/")]
    gradients = [tag for tag in tags if tag.startswith("gradient/")]
    assert len(gammas) == 7  # ResNet-8: the stem and two convolutions in each of three blocks
    assert len(gradients) == 7 * 3 + 2  # a weight, γ and β each; weight and bias of the classifier
    assert set(tags) == set(gammas) | set(gradients)
    histograms = events.Histograms(min(gammas))
    assert {event.step for event in histograms} == {2, 4}
    assert {event.histogram_value.num for event in histograms} == {8 * 2, 8}  # channels × replicates of a stack
    assert all(0.5 < event.histogram_value.min <= event.histogram_value.max < 1.5 for event in histograms)
    assert any(event.histogram_value.max > 0 for tag in gradients for event in events.Histograms(tag))


def test_tensorboard_hparams(finished, events):
    from tensorboard.plugins.hparams import plugin_data_pb2
    from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG

    content = events.SummaryMetadata(SESSION_START_INFO_TAG).plugin_data.content
    start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    assert start.hparams["norm.name"].string_value == "batch"
    assert start.hparams["batch_size"].number_value == 16
    assert start.hparams["optim.lr"].number_value == pytest.approx(0.2)
    entries = strict(finished[0] / "result.json")["replicates"]
    for key in ("val_acc", "test_acc"):
        (event,) = events.Scalars(f"mean/{key}")
        assert event.value == pytest.approx(sum(entry[key] for entry in entries) / 3, rel=1e-6)


def test_tensorboard_scalars_are_metrics_after_a_resume_too(tiny, compose, tmp_path, monkeypatch):
    """Interrupted in the second stack, after its first epoch and again in the middle of its second."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from normbench.signals import Stopped
    from normbench.training.session import Session

    config = compose(*tiny, "replicates=2", "stack=1", "epochs=3", f"output={tmp_path}", "logging.progress=none")
    done = []

    def stopping(kind, after):
        original = getattr(Session, kind)

        def call(self, *arguments):
            original(self, *arguments)
            done.append(kind)
            if done.count(kind) == after:
                self.request.number = 15

        return call

    for kind, after in (("add", 4), ("step", 3)):  # each stack has 3 epochs of 2 steps
        done.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Session, kind, stopping(kind, after))
            with pytest.raises(Stopped):
                execute(resolve(config))
    assert execute(resolve(config))["status"] == "finished"

    (folder,) = tmp_path.iterdir()
    assert len(list((folder / "tensorboard").iterdir())) == 3  # one a session
    accumulator = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "histograms": 0})
    accumulator.Reload()
    for seed in "01":
        expected = [(int(row["step"]), float(row["val_loss"])) for row in rows_of(folder) if row["seed"] == seed]
        curve = [(event.step, event.value) for event in accumulator.Scalars(f"val_loss/seed{seed}")]
        assert [step for step, _ in curve] == [step for step, _ in expected] == [2, 4, 6]
        assert [value for _, value in curve] == pytest.approx([value for _, value in expected], rel=1e-6)
    tag = next(tag for tag in accumulator.Tags()["histograms"] if tag.startswith("gamma/"))
    assert [event.step for event in accumulator.Histograms(tag)].count(2) >= 2  # a stack each


# --- Again. -----------------------------------------------------------------------------------------------------------


def snapshot(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def timeless_rows(folder):
    return [without_times(row) for row in rows_of(folder)]


def scores(result):
    return [without_times(entry) for entry in result["replicates"]]


def test_a_finished_run_is_not_repeated_and_force_redoes_it_to_the_same_bits(finished, typed, command, tmp_path):
    shutil.copytree(finished[0].parent, tmp_path / "outputs")
    folder = tmp_path / "outputs" / finished[0].name
    before = snapshot(folder)

    status, out, err = command(*typed)
    assert (status, err) == (0, "")
    assert "finished already" in out
    assert "force=true" in out
    said = out.replace("This run was finished already; force=true runs it again.\n", "")
    assert said == finished[1]  # the same table
    after = snapshot(folder)
    assert {path: entry for path, entry in after.items() if path.name != ".lock"} == {
        path: entry for path, entry in before.items() if path.name != ".lock"
    }

    result, metrics = strict(folder / "result.json"), timeless_rows(folder)
    status, out, err = command(*typed, "force=true")
    assert (status, err) == (0, "")
    assert "finished already" not in out
    assert list((tmp_path / "outputs").iterdir()) == [folder]
    assert (folder / "metrics.csv").stat().st_mtime_ns > before[folder / "metrics.csv"][0]
    assert timeless_rows(folder) == metrics
    assert scores(strict(folder / "result.json")) == scores(result)
    assert len(list((folder / "tensorboard").iterdir())) == 1  # the first run's curves are gone


def test_a_run_that_diverges_is_an_outcome(tiny, command, tmp_path):
    status, out, err = command(
        *tiny, "norm=none", "optim.lr=1e30", "lr_scaling=none", "optim.warmup_samples=0", "logging.progress=none"
    )
    assert (status, err) == (0, "")
    assert "diverged" in out
    (folder,) = (tmp_path / "outputs").iterdir()
    result = strict(folder / "result.json")
    (entry,) = result["replicates"]
    assert (result["status"], entry["status"], entry["diverged_epoch"]) == ("diverged", "diverged", 1)
    assert (entry["test_acc"], entry["val_acc"], entry["test_loss"]) == (10.0, 10.0, None)
    (row,) = rows_of(folder)
    assert row["epoch"] == "1"
    assert not math.isfinite(float(row["train_loss"]))


def test_a_failed_run_is_recorded_and_taken_up_again(tiny, compose, tmp_path, monkeypatch):
    from normbench.measures import MEASURES, Measurement

    config = compose(*tiny, f"output={tmp_path}", "logging.progress=none", "logging.tensorboard=false")
    train = MEASURES["train"]

    def broken(*_):
        raise RuntimeError("out of paper")

    monkeypatch.setitem(MEASURES, "train", Measurement(broken))
    with pytest.raises(RuntimeError, match="out of paper"):
        execute(resolve(config))
    (folder,) = tmp_path.iterdir()
    result = strict(folder / "result.json")
    assert (result["status"], result["error"]) == ("failed", "RuntimeError: out of paper")
    assert result["run_id"] == folder.name
    monkeypatch.setitem(MEASURES, "train", train)
    assert execute(resolve(config))["status"] == "finished"
    assert strict(folder / "result.json")["status"] == "finished"


def test_without_tensorboard_there_is_no_folder_for_it(tiny, compose, tmp_path):
    execute(resolve(compose(*tiny, f"output={tmp_path}", "logging.progress=none", "logging.tensorboard=false")))
    (folder,) = tmp_path.iterdir()
    assert not (folder / "tensorboard").exists()


def test_a_line_an_epoch_in_a_log(tiny, compose, tmp_path, capfd):
    execute(resolve(compose(*tiny, f"output={tmp_path}", "logging.tensorboard=false", "seed=5")))
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    (folder,) = tmp_path.iterdir()
    for n, (line, row) in enumerate(zip(lines, rows_of(folder), strict=True), 1):
        assert line.startswith(folder.name)
        assert f"epoch {n}/2" in line
        assert f"train loss {float(row['train_loss']):.3f}" in line
        assert f"val acc {float(row['val_acc']):.1f} %" in line
        assert "images/s" in line
        assert "left" in line


# --- Two at once, and no room. ----------------------------------------------------------------------------------------


def test_the_second_process_on_a_run_says_so_and_stops(tiny, popen, tmp_path):
    typed = [*tiny, "epochs=100000", "logging.tensorboard=false"]
    first = popen(tmp_path, *typed, "logging.progress=lines", "output=runs")
    try:
        line = first.stderr.readline()
        assert "epoch 1/" in line
        second = Forked(tmp_path, *typed, "output=runs", "force=true")
        out, err = second.communicate(timeout=60)
        assert second.returncode == 2
        assert out == ""
        assert err.count("\n") == 1
        assert "another process is working on this run" in err
        assert "runs/resnet8-batch" in err
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()
    (folder,) = (path for path in (tmp_path / "runs").iterdir() if path.is_dir())
    assert rows_of(folder)
    assert not (folder / "result.json").exists()


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a file system of so many KiB; skips where that is not allowed."""
    mounted = []

    def mount(kilobytes):
        folder = tmp_path / f"disk{kilobytes}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError as error:
            pytest.skip(f"no file system can be mounted: {error}")
        if done.returncode:
            pytest.skip(f"no file system can be mounted: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


def assert_readable(folder, epochs):
    """Every file that is there is whole."""
    if (folder / "config.yaml").exists():
        assert OmegaConf.load(folder / "config.yaml").epochs == epochs
    for name in ("env.json", "result.json"):
        if (folder / name).exists():
            strict(folder / name)
    if (folder / "metrics.csv").exists():
        rows = rows_of(folder)
        assert [row["epoch"] for row in rows] == [str(n + 1) for n in range(len(rows))]
        assert all(None not in row.values() for row in rows)
    if (folder / "checkpoint.pt").exists():
        assert torch.load(folder / "checkpoint.pt", weights_only=True)["current"]["epoch"] >= 1
    assert not list(folder.glob(".*.part"))


def test_a_full_disk_is_one_line(small_disk, tiny, popen, tmp_path):
    """TensorBoard's histograms fill it; its writer is a thread of its own."""
    disk = small_disk(1000)
    process = popen(tmp_path, *tiny, f"output={disk}", "epochs=50", "logging.progress=none")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert out == ""
    assert err.count("\n") == 1, err
    assert "No space left on device" in err
    assert str(disk) in err
    (folder,) = disk.iterdir()
    assert len(rows_of(folder)) >= 1
    assert_readable(folder, 50)
    for events in (folder / "tensorboard").iterdir():
        os.truncate(events, 0)  # make room …
    assert not (folder / "result.json").exists()


@pytest.mark.parametrize("kilobytes", [4, 16, 60, 120, 200, 300, 420])
def test_a_disk_that_fills_up_sooner_or_later(kilobytes, small_disk, tiny, command):
    disk = small_disk(kilobytes)
    status, out, err = command(*tiny, f"output={disk}", "epochs=30", "logging.progress=none")
    assert (status, out) == (2, ""), err
    assert err.count("\n") == 1, err
    assert "No space left on device" in err
    for folder in disk.iterdir():
        assert_readable(folder, 30)


def test_a_run_goes_on_when_there_is_room_again(small_disk, tiny, command, tmp_path):
    disk = small_disk(500)
    filler = disk / "filler"
    filler.write_bytes(b"x" * 300_000)
    words = [*tiny, "epochs=4", "logging.progress=none", "logging.tensorboard=false", "model.width=12"]
    status, _, err = command(*words, f"output={disk}")
    if status == 0:
        pytest.fail("the disk was not small enough for this test")
    assert "No space left on device" in err
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,size=4000k", str(disk)], check=True)
    assert command(*words, f"output={disk}")[0] == 0
    assert command(*words, f"output={tmp_path}/elsewhere")[0] == 0
    (folder,), (other,) = disk.iterdir(), (tmp_path / "elsewhere").iterdir()
    assert timeless_rows(folder) == timeless_rows(other)


def test_a_folder_that_cannot_be_written(tiny, tmp_path, popen):
    if os.geteuid() == 0:
        pytest.skip("root writes everywhere")
    (tmp_path / "locked").mkdir(mode=0o500)
    process = popen(tmp_path, *tiny, "output=locked/runs", "logging.progress=none")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert err.count("\n") == 1
    assert "Permission denied" in err


def test_a_sweep_on_a_full_disk_ends_with_its_table(small_disk, tiny, command):
    disk = small_disk(60)
    status, out, err = command("-m", "seed=0,1", *tiny, f"output={disk}", "logging.progress=none")
    assert status == 1
    assert "2 failed" in out
    assert out.count("No space left on device") == 2
    assert "Traceback" not in err


def test_time_is_told_in_training_seconds(finished):
    """Replicates that train together share their seconds."""
    result = strict(finished[0] / "result.json")
    first, second, third = (entry["seconds"] for entry in result["replicates"])
    assert first == second
    assert result["seconds"] == pytest.approx(first + third, abs=0.002)
    assert 0 < result["seconds"] < time.process_time() + 120
    rows = rows_of(finished[0])
    for seed, entry in zip("012", result["replicates"], strict=True):
        epochs = [float(row["epoch_seconds"]) for row in rows if row["seed"] == seed]
        assert 0 < sum(epochs) <= entry["train_seconds"] + 0.002 < entry["seconds"]


def test_time_is_that_of_all_sessions_and_training_apart_from_evaluation(tiny, compose, tmp_path, monkeypatch):
    """By a clock on which a step takes a second, an evaluation a hundred, and nothing else any time."""
    from normbench.signals import Stopped
    from normbench.tasks import classify
    from normbench.training import clock
    from normbench.training.session import Session

    now = [0.0]

    def taking(seconds, function):
        def call(*arguments, **options):
            now[0] += seconds
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(classify, "evaluate", taking(100, classify.evaluate))
    monkeypatch.setattr(Session, "step", taking(1, Session.step))
    poll, calls = Session.poll, itertools.count(1)

    def stopping(session, state):
        if next(calls) == 4:  # after two steps, an evaluation and a step
            session.request.number = 15
        poll(session, state)

    typed = (*tiny, "norm=none", "logging.progress=none", "logging.tensorboard=false")
    told = []
    for name in ("whole", "stopped"):
        config = compose(*typed, f"output={tmp_path / name}")
        if name == "stopped":
            with monkeypatch.context() as patch:
                patch.setattr(Session, "poll", stopping)
                with pytest.raises(Stopped):
                    execute(resolve(config))
            now[0] += 10_000  # what passes in between does not count
        result = execute(resolve(config))
        (folder,) = (tmp_path / name).iterdir()
        told.append([(float(row["epoch_seconds"]), float(row["seconds"])) for row in rows_of(folder)])
        (entry,) = result["replicates"]
        assert (entry["train_seconds"], entry["seconds"], result["seconds"]) == (4, 404, 404)
    assert told == [[(2, 102), (2, 204)]] * 2
