"""The folder of a run: whole files, one process at a time, plain words when the disk is full."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from normbench.config.values import plain
from normbench.errors import UserError
from normbench.records.checkpoint import Unfit
from normbench.records.configuration import configuration_of
from normbench.records.damage import Damaged
from normbench.records.directory import RunDirectory
from normbench.records.metrics import METRICS
from normbench.records.series import series_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def directory(tmp_path):
    made = RunDirectory(tmp_path, "run")
    made.path.mkdir()
    return made


def said(directory):
    """What result.json holds, whatever it is."""
    return json.loads((directory.path / "result.json").read_text())


def row(seed, epoch):
    return dict.fromkeys(METRICS, 0.5) | {"seed": seed, "epoch": epoch}


def test_metrics_have_the_columns_in_order_and_rows_by_seed(directory):
    directory.write_metrics([row(1, 1), row(0, 2), row(1, 2), row(0, 1)])
    lines = (directory.path / "metrics.csv").read_text().splitlines()
    assert lines[0] == (
        "seed,epoch,step,samples,lr,train_loss,train_acc,val_loss,val_acc,val_ece,grad_norm,image_size,epoch_seconds,"
        "seconds"
    )
    assert [line.split(",")[:2] for line in lines[1:]] == [["0", "1"], ["0", "2"], ["1", "1"], ["1", "2"]]


def test_metrics_keep_every_digit_and_say_nan(directory):
    directory.write_metrics([row(0, 1) | {"train_loss": math.nan, "val_loss": 0.1 + 0.2}])
    cells = dict(zip(METRICS, (directory.path / "metrics.csv").read_text().splitlines()[1].split(","), strict=True))
    assert float(cells["val_loss"]) == 0.1 + 0.2
    assert math.isnan(float(cells["train_loss"]))


def test_json_is_strict(directory):
    value = {"a": math.nan, "b": [math.inf, -math.inf, 1.5], "c": {"d": math.nan}, "e": None, "f": True}
    directory.write_result(value)

    def refuse(word):
        raise AssertionError(word)

    read = json.loads((directory.path / "result.json").read_text(), parse_constant=refuse)
    assert read == {"a": None, "b": [None, None, 1.5], "c": {"d": None}, "e": None, "f": True}


def test_no_result_yet(directory, tmp_path):
    assert directory.result() is None
    assert RunDirectory(tmp_path, "absent").result() is None
    (tmp_path / "file").touch()
    assert RunDirectory(tmp_path, "file").result() is None
    assert directory.load_checkpoint() is None


def test_checkpoints_come_back_bit_for_bit(directory):
    state = {"finished": [], "current": {"x": torch.randn(5), "rows": [row(0, 1)], "diverged": {3: 1}, "n": None}}
    directory.save_checkpoint(state)
    loaded = directory.load_checkpoint()
    assert torch.equal(loaded["current"].pop("x"), state["current"].pop("x"))
    assert loaded == state


def test_a_checkpoint_runs_no_code(directory):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(directory.path / "evil"),))

    torch.save({"x": Evil()}, directory.path / "checkpoint.pt")
    with pytest.raises(Unfit, match="damaged") as refused:
        directory.load_checkpoint()
    assert "Weights only load failed" in str(refused.value.__cause__)
    assert not (directory.path / "evil").exists()


def test_forgetting(directory):
    (directory.path / "tensorboard").mkdir()
    names = ["result.json", "checkpoint.pt", "metrics.csv", "tensorboard/events.out.1", "mine.txt"]

    def touch():
        for name in names:
            (directory.path / name).touch()

    touch()
    directory.forget(everything=False)
    assert [n for n in names if (directory.path / n).exists()] == names[1:]
    touch()
    directory.forget(everything=True)
    assert [n for n in names if (directory.path / n).exists()] == ["mine.txt"]


def test_a_reader_never_sees_half_a_file(directory):
    """Two contents of different length, written in turn under a reader's eyes."""
    contents = [{"n": n, "filler": "x" * size} for n, size in ((0, 10), (1, 300_000))]
    directory.write_result(contents[0])
    over = threading.Event()

    def write():
        for n in range(60):
            directory.write_result(contents[n % 2])
        over.set()

    thread = threading.Thread(target=write)
    thread.start()
    seen = set()
    while not over.is_set():
        seen.add(json.loads((directory.path / "result.json").read_text())["n"])
    thread.join()
    assert seen == {0, 1}
    assert [path.name for path in directory.path.iterdir()] == ["result.json"]


def test_kill_9_while_writing_leaves_a_whole_file(directory):
    code = """
import sys, torch
from normbench.records.damage import Damaged
from normbench.records.directory import RunDirectory
from normbench.records.metrics import METRICS
from normbench.records.series import series_of
directory = RunDirectory(*sys.argv[1:])
n = 0
print("ready", flush=True)
while True:
    n += 1
    directory.save_checkpoint({"n": n, "x": torch.full((100_000,), float(n))})
    directory.write_metrics([dict.fromkeys(METRICS, n)] * 2000)
    directory.write_result({"n": n, "x": [n] * 5000})
"""
    command = [sys.executable, "-c", code, str(directory.path.parent), directory.path.name]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    # One process is stopped and looked at again and again: stopped, it has written as much as when it is killed.
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    try:
        process.stdout.readline()
        time.sleep(0.2)
        looked = set()
        for n in range(40):
            if n == 39:
                process.kill()
            else:
                process.send_signal(signal.SIGSTOP)
            time.sleep(0.005)
            state = directory.load_checkpoint()
            assert torch.equal(state["x"], torch.full((100_000,), float(state["n"])))
            looked.add(state["n"])
            assert len(set(said(directory)["x"])) == 1
            lines = (directory.path / "metrics.csv").read_text().splitlines()
            assert len(lines) == 2001
            assert len(set(lines)) == 2
            process.send_signal(signal.SIGCONT)
            time.sleep(0.007)
        assert len(looked) > 3
    finally:
        process.kill()
        process.communicate()
    directory.write_result({"n": -1})  # what the dead process left behind is in nobody's way
    assert said(directory) == {"n": -1}


def test_a_failed_write_leaves_the_old_file_and_no_part(directory, monkeypatch):
    directory.write_result({"n": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"result\.json: No space left on device") as caught:
        directory.write_result({"n": 2})
    assert "\n" not in str(caught.value)
    assert said(directory) == {"n": 1}
    assert [path.name for path in directory.path.iterdir()] == ["result.json"]


def test_the_lock_is_for_one(directory):
    with (
        directory.locked(),
        pytest.raises(UserError, match="another process is working on this run"),
        RunDirectory(directory.path.parent, "run").locked(),
    ):
        raise AssertionError("locked twice")
    with directory.locked():  # free again
        pass


def test_the_lock_of_a_dead_process_is_free(directory):
    code = """
import sys, time
from normbench.config.values import plain
from normbench.records.checkpoint import Unfit
from normbench.records.configuration import configuration_of
from normbench.records.damage import Damaged
from normbench.records.directory import RunDirectory
with RunDirectory(*sys.argv[1:]).locked():
    print("locked", flush=True)
    time.sleep(60)
"""
    command = [sys.executable, "-c", code, str(directory.path.parent), "run"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(UserError, match="another process"), directory.locked():
            pass
    finally:
        process.kill()
        process.communicate()
    with directory.locked():
        pass


def test_the_lock_is_released_after_an_error(directory):
    with pytest.raises(ZeroDivisionError), directory.locked():
        1 / 0  # noqa: B018
    with directory.locked():
        pass


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match=r"^output=.*file: .*file: File exists"),
        RunDirectory(tmp_path / "file", "run").locked(),
    ):
        pass


def test_start_writes_what_the_run_is(directory):
    config = OmegaConf.create({"a": {"b": 1.5}, "c": [1, 2], "d": None})
    directory.start(config, {"commit": None})
    assert OmegaConf.load(directory.path / "config.yaml") == config
    assert json.loads((directory.path / "env.json").read_text()) == {"commit": None}


ODD = ("a: b", "two\nlines\n\nand: more", "x " * 60, "#", "- no", "1e-05", "* none", "ünï", "null", "")


def test_a_configuration_is_read_as_its_whole_text(compose, tmp_path):
    for place, text in enumerate(ODD):
        config = compose("augment.resize=[[0,16],[0.5,24]]").with_value("study", text).with_value("reuse", [text, "b"])
        RunDirectory(tmp_path, str(place)).start(config.with_value("norm.note", text), {})
        file = tmp_path / str(place) / "config.yaml"
        read = plain(configuration_of(file))
        assert read == plain(config.with_value("norm.note", text))
        assert list(read) == list(OmegaConf.load(file))


def test_what_many_configurations_have_in_common_is_parsed_once(compose, tmp_path, monkeypatch):
    parsed, load = [], yaml.load
    monkeypatch.setattr(yaml, "load", lambda content, loader: parsed.append(len(content)) or load(content, loader))
    for seed in range(20):
        RunDirectory(tmp_path, str(seed)).start(compose(f"seed={seed}"), {})
    files = [tmp_path / str(seed) / "config.yaml" for seed in range(20)]
    assert [configuration_of(file)["seed"] for file in files] == list(range(20))
    assert sum(parsed) < 2 * files[0].stat().st_size


def test_a_configuration_that_is_not_as_it_was_signed_is_parsed_whole(compose, tmp_path):
    RunDirectory(tmp_path, "run").start(compose(), {})
    file = tmp_path / "run" / "config.yaml"
    file.write_text(file.read_text().replace("seed: 0", "seed: 7"))
    assert configuration_of(file)["seed"] == 7
    file.write_text(file.read_text() + "seed: [\n")
    with pytest.raises(Damaged, match="not what a run writes"):
        configuration_of(file)


def test_an_empty_series_is_damaged(tmp_path):
    """A run writes the head of its table at least."""
    assert series_of(tmp_path / "metrics.csv") == []
    (tmp_path / "metrics.csv").write_bytes(b"")
    with pytest.raises(Damaged, match="it is empty"):
        series_of(tmp_path / "metrics.csv")
