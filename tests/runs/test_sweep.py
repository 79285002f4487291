"""Sweeps as real processes: interrupted, repeated, overlapping, failing; and what they say of themselves."""

import re
import signal
import time

import pandas as pd
import pytest
from filelock import FileLock
from forked import Forked
from small_runs import MEASURED

from normbench.config.overrides import normalize, plan
from normbench.runs.collect import collect
from normbench.runs.planned import runs_of

GRID = ("-m", "norm=batch,group,none", "batch_size=8,16", "replicates=2", "epochs=2")


@pytest.fixture(scope="module")
def typed(tiny):
    keep = [word for word in tiny if not word.startswith(("batch_size", "epochs"))]
    return [*GRID, *keep, "logging.tensorboard=false", "output=runs"]


@pytest.fixture(scope="module")
def undisturbed(typed, popen, tmp_path_factory):
    """The folder of a sweep that nothing happened to, and what it said on stderr: in an interpreter of its own."""
    root = tmp_path_factory.mktemp("undisturbed")
    process = popen(root, *typed)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return root, out, err


def rows(root) -> pd.DataFrame:
    """runs.csv of a sweep without what a clock measured."""
    runs, curves = collect(str(root / "runs"))
    assert len(curves) == 6 * 2 * 2
    return runs.drop(columns=[*runs.columns.intersection(MEASURED), "command"])


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def results(root):
    return sorted((root / "runs").glob("*/result.json"))


def test_a_sweep_tells_how_far_it_is(undisturbed):
    _, out, err = undisturbed
    told = re.findall(r"^sweep: (\d) of 6 runs are over(, about [\d:]+ left)?$", err, re.M)
    assert [number for number, _ in told] == list("123456")
    assert [bool(left) for _, left in told] == [True] * 5 + [False]
    assert "6 runs; replicates: 12 finished" in out


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"])
def test_stopped_in_the_middle_and_repeated_it_ends_as_if_undisturbed(number, typed, undisturbed, tmp_path):
    first = Forked(tmp_path, *typed, "checkpoint_seconds=0")
    wait_for(lambda: len(results(tmp_path)) >= 2)
    wait_for(lambda: len(list((tmp_path / "runs").glob("*/checkpoint.pt"))) > len(results(tmp_path)))
    first.send_signal(number)
    _, err = first.communicate(timeout=60)
    assert first.returncode == (-9 if number == signal.SIGKILL else 143)
    before = {path: path.stat().st_mtime_ns for path in results(tmp_path)}
    assert 2 <= len(before) < 6
    if number == signal.SIGTERM:
        assert err.splitlines()[-1].startswith("normbench: stopped by SIGTERM; to go on: python -m normbench -m norm=")

    second = Forked(tmp_path, *typed)
    _, err = second.communicate(timeout=300)
    assert second.returncode == 0, err
    assert f"sweep: {len(before)} of 6 runs were over already" in err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    pd.testing.assert_frame_equal(rows(tmp_path), rows(undisturbed[0]))


def test_two_sweeps_at_a_time_on_one_folder_share_the_work(typed, undisturbed, tmp_path):
    both = [Forked(tmp_path, *typed), Forked(tmp_path, *typed)]
    ended = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    assert all("6 runs; replicates: 12 finished" in out for out, _ in ended)
    pd.testing.assert_frame_equal(rows(tmp_path), rows(undisturbed[0]))
    # Each run was done by one of them: only the process that did it prints its last epoch.
    last_epochs = [line.split()[0] for _, err in ended for line in err.splitlines() if "epoch 2/2" in line]
    assert len(last_epochs) == len(set(last_epochs)) == 6


def test_a_run_that_another_process_leaves_is_taken_over(typed, undisturbed, tmp_path):
    """The lock of a run is held by somebody who then gives it up unfinished."""
    name = rows(undisturbed[0])["run_id"].iloc[0]
    (tmp_path / "runs" / name).mkdir(parents=True)
    with FileLock(tmp_path / "runs" / name / ".lock"):
        process = Forked(tmp_path, *typed)
        wait_for(lambda: len(results(tmp_path)) == 5)
        time.sleep(1)
        assert process.poll() is None  # it waits
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert f"waiting for what another process is working on: {name}" in err
    pd.testing.assert_frame_equal(rows(tmp_path), rows(undisturbed[0]))


def test_a_repeated_sweep_does_nothing_and_force_does_all_again(typed, undisturbed):
    root = undisturbed[0]
    before, times = rows(root), {path: path.stat().st_mtime_ns for path in results(root)}
    again = Forked(root, *typed)
    out, err = again.communicate(timeout=60)
    assert again.returncode == 0
    assert err.splitlines() == ["sweep: 6 of 6 runs were over already"]
    assert "6 runs; replicates: 12 finished" in out
    assert {path: path.stat().st_mtime_ns for path in times} == times
    forced = Forked(root, *typed, "force=true")
    _, err = forced.communicate(timeout=300)
    assert forced.returncode == 0, err
    assert all(path.stat().st_mtime_ns > times[path] for path in times)
    pd.testing.assert_frame_equal(rows(root), before)


def test_one_that_fails_and_one_that_diverges_stop_nothing(typed, tmp_path):
    typed = [word for word in typed if not word.startswith(("norm=", "batch_size="))]
    # A folder where a file is to be written makes one run fail; an enormous rate makes another diverge.
    typed += ["batch_size=16", "norm=none,group", "optim.lr=0.01,1e9", "lr_scaling=none"]
    runs = runs_of(plan(normalize([*typed[1:], f"output={tmp_path / 'runs'}"]), True)[0])
    failing = next(run for run in runs if run.config.norm.name == "group" and run.config.optim.lr < 1)
    (failing.directory.path / "metrics.csv").mkdir(parents=True)
    process = Forked(tmp_path, *typed)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1, err
    assert "sweep: 3 of 4 runs are over" in err
    statuses = sorted(run.directory.status() for run in runs)
    assert statuses == ["diverged", "diverged", "finished", "stopped"]
    assert failing.directory.status() == "stopped"
    assert re.search(rf"^{re.escape(failing.name)}: .*metrics\.csv", out, re.M)

    table, _ = collect(str(tmp_path / "runs"))
    assert len(table) == 8  # no row is lost
    lost = table[(table["method"] == "none") & (table["lr"] > 1)]
    assert set(lost["status"]) == {"diverged"}
    assert set(lost["test_acc"]) == {10.0}
    assert lost["diverged_epoch"].notna().all()

    (failing.directory.path / "metrics.csv").rmdir()
    mended = Forked(tmp_path, *typed)
    out, err = mended.communicate(timeout=120)
    assert mended.returncode == 0, err
    assert "sweep: 3 of 4 runs were over already" in err


def test_a_dry_run_lists_status_and_time_and_runs_nothing(typed, undisturbed, tmp_path):
    process = Forked(tmp_path, "--dry-run", *typed)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "6 runs: 6 missing; about " in out
    assert "timing 6 kinds of run" in err
    assert not (tmp_path / "runs").exists()

    root = undisturbed[0]
    process = Forked(root, *typed, "--dry-run")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert "6 runs: 6 finished; about 0:00 of training left" in out


def over(*seeds):
    """What result.json says at the least of a run that is over."""
    entries = [{"seed": seed, "status": "finished", "seconds": 1.0} for seed in seeds]
    return {"status": "finished", "seconds": 1.0, "replicates": entries}


# --- The status of a run. ---------------------------------------------------------------------------------------------


def test_the_status_of_a_folder(tmp_path):
    [run] = runs_of(plan(normalize(["device=cpu", f"output={tmp_path}"]), False)[0])
    directory = run.directory
    assert directory.status() == "missing"
    with directory.locked():
        assert directory.status() == "running"
    assert directory.status() == "missing"  # nothing was begun
    directory.start(run.config, {})
    assert directory.status() == "stopped"
    for status in ("finished", "diverged", "failed"):
        directory.write_result(over(0) | {"status": status})
        assert directory.status() == status


def test_the_same_run_twice_in_a_grid_is_one_run():
    jobs, _, _ = plan(normalize(["optim.lr=0.1,0.10,0.2", "device=cpu", "data=patterns"]), True)
    assert [run.config.optim.lr for run in runs_of(jobs)] == [0.1, 0.2]


@pytest.mark.parametrize("status", ["finished", "missing"])
def test_a_sweep_in_one_process_resolves_each_run_once(status, tmp_path, monkeypatch):
    from normbench.runs import planned, sweep

    resolved, executed = [], []
    resolve = sweep.resolve
    for module in (sweep, planned):
        monkeypatch.setattr(module, "resolve", lambda *what: resolved.append(what) or resolve(*what))
    monkeypatch.setattr("normbench.runs.run.execute", lambda config, since: executed.append(config) or {})
    monkeypatch.setattr("normbench.runs.sweep.print_line", lambda result: None)
    typed = normalize(["norm=batch,none", "device=cpu", f"output={tmp_path}", "logging.progress=none"])
    runs = runs_of(plan(typed, True)[0])
    if status == "finished":
        runs[0].directory.path.mkdir()
        runs[0].directory.start(runs[0].config, {})
        runs[0].directory.write_result(over(0))
    sweep.run_sweep(runs, [f"output={tmp_path}"])
    assert len(resolved) == 2
    assert executed == [run.config for run in runs if run.directory.status() != "finished"]
    assert [run.error for run in runs] == [None, None]
