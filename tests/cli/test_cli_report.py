"""What a command prints at the end."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from normbench.config.overrides import plan
from normbench.runs.planned import runs_of
from normbench.runs.report import accuracy, mean_text, print_sweep, statuses


def test_names_print_as_they_are_whatever_they_look_like(sweep, capsys):
    runs, write = sweep
    for index, run in enumerate(runs):
        run.name = f"[bold]x{index}[nothing] :smile: $y$"
        write(index, result(entry()) | {"run_id": run.name})
    runs[1].job = replace(runs[1].job, overrides=("seed=1", "study=[red]x"))
    assert print_sweep(runs) == 0
    out = capsys.readouterr().out
    assert "[red]x" in out
    assert all(str(run.directory.path) in out for run in runs)


@pytest.mark.parametrize("n", [2, 3, 10, 40])
def test_the_interval_is_students(n):
    values = np.random.default_rng(n).normal(70, 3, n)
    low, high = stats.t.interval(0.95, n - 1, loc=values.mean(), scale=stats.sem(values))
    mean, half = map(float, mean_text(list(values)).split(" ± "))
    assert mean == pytest.approx(values.mean(), abs=0.00501)
    assert half == pytest.approx((high - low) / 2, abs=0.00501)


def test_one_value_has_no_interval():
    assert mean_text([71.234]) == "71.23"


def result(*replicates, status="finished"):
    return {"status": status, "replicates": list(replicates), "seconds": 61.0}


def test_accuracy_of_a_method_without_the_key_is_a_dash():
    assert accuracy(result({"val_acc": 10.0}, {"val_acc": 20.0}), "test_acc_precise") == "–"
    half = stats.t.ppf(0.975, 1) * 5
    assert accuracy(result({"val_acc": 10.0}, {"val_acc": 20.0}), "val_acc") == f"15.00 ± {half:.2f}"


def test_statuses():
    assert statuses(result({"status": "finished"}, {"status": "finished"})) == "finished"
    assert statuses(result({"status": "diverged"}, {"status": "finished"})) == "1 finished, 1 diverged"
    assert statuses(result({"status": "diverged"}, status="diverged")) == "diverged"
    assert statuses({"status": "failed"}) == "failed"


def entry(status="finished"):
    return {"status": status, "val_acc": 42.125, "test_acc": 41.5, "images_per_second": 1234.5}


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Three runs, and a function that writes the result of one."""
    monkeypatch.setenv("COLUMNS", "300")
    runs = runs_of(plan(["seed=0,1,2", f"output={tmp_path}", "device=cpu"], True)[0])

    def write(index, value):
        folder, seeds = runs[index].directory.path, [{"seed": runs[index].config.seed, "seconds": 61.0}]
        folder.mkdir(exist_ok=True)
        runs[index].directory.start(runs[index].config, {})
        if "replicates" in value:
            value = value | {
                "replicates": [seed | entry for seed, entry in zip(seeds, value["replicates"], strict=True)]
            }
        (folder / "result.json").write_text(json.dumps(value))

    return runs, write


def test_a_sweep_that_went_well_exits_0(sweep, capsys):
    runs, write = sweep
    for i in range(3):
        write(i, result(entry("diverged" if i == 1 else "finished")))
    assert print_sweep(runs) == 0  # divergence is an outcome, not a failure
    out = capsys.readouterr().out
    assert all(run.name in out for run in runs)
    assert "42.12" in out
    assert "41.50" in out
    assert "1:01" in out
    assert "3 runs; replicates: 1 diverged, 2 finished" in out


@pytest.mark.parametrize("how", ["failed", "absent", "told"])
def test_a_sweep_that_lost_a_run_exits_1_and_keeps_its_row(how, sweep, capsys):
    runs, write = sweep
    for i in (0, 2):
        write(i, result(entry()))
    name = runs[1].name
    if how == "told":
        runs[1].error = "disk full"
    if how == "failed":
        write(1, {"status": "failed", "error": "RuntimeError: out of paper"})
    assert print_sweep(runs) == 1
    out = capsys.readouterr().out
    word = {"failed": "RuntimeError: out of paper", "absent": "not finished", "told": "disk full"}[how]
    assert f"{name}: {word}" in out
    assert out.count(name) == 2  # its folder, and what became of it
    assert ("2 finished, 1 not finished" if how == "absent" else "1 failed, 2 finished") in out
