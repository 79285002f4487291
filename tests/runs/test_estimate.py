"""How long runs take, before they are run."""

import json
import time

import pytest

from normbench.config.overrides import normalize, plan
from normbench.runs import estimate, trial
from normbench.runs.estimate import estimates
from normbench.runs.planned import runs_of
from normbench.runs.report import print_plan


def test_what_is_no_training_is_timed_by_no_training(tmp_path, capsys):
    words = ["measure=axes,invariances", "model=resnet8", "data=patterns", "device=cpu", f"output={tmp_path}"]
    runs = runs_of(plan(normalize(words), multirun=True)[0])
    assert estimates(runs) == [None, None]
    print_plan(runs, estimates(runs))
    told = " ".join(capsys.readouterr().out.split())
    assert "2 runs: 2 missing; 2 runs left whose time is not known. Nothing was run." in told


def planned(folder, *typed):
    return runs_of(plan(normalize(["data=patterns", "device=cpu", f"output={folder}", *typed]), multirun=True)[0])


def over(run, seconds):
    """Its folder, as if it had taken so many seconds."""
    result = {"run_id": run.name, "status": "finished", "seconds": seconds}
    found = [{"seed": seed, "status": "finished", "seconds": seconds} for seed in run.seeds]
    run.directory.path.mkdir(parents=True)
    run.directory.start(run.config, {})
    (run.directory.path / "result.json").write_text(json.dumps(result | {"replicates": found}))


@pytest.fixture
def no_trial(monkeypatch):
    monkeypatch.setattr(estimate, "_trials", lambda some: [])


def test_a_run_takes_what_its_likes_took(tmp_path, no_trial):
    [done] = planned(tmp_path, "norm=batch", "epochs=2", "batch_size=8")
    over(done, 10.0)
    [twice] = planned(tmp_path, "norm=batch", "epochs=4", "batch_size=8", "seed=7")
    assert estimates([twice]) == [estimate.Estimate(pytest.approx(20.0), rough=False)]


def test_the_nearest_finished_run_stands_in_for_one_of_the_kind(tmp_path, no_trial):
    for words, seconds in ((["norm=batch", "batch_size=8"], 10.0), (["norm=group", "batch_size=64"], 30.0)):
        [done] = planned(tmp_path, "epochs=2", "replicates=1", *words)
        over(done, seconds)
    near = planned(tmp_path, "epochs=2", "norm=group", "batch_size=32,128")
    found = estimates([*near, *planned(tmp_path, "model=vgg", "epochs=2")])
    assert [one and one.rough for one in found] == [True, True, None]
    assert [one.seconds for one in found[:2]] == pytest.approx([30.0, 30.0], rel=0.03)


def test_a_kind_is_compared_once_with_each_other_kind(tmp_path, no_trial, monkeypatch):
    """Whatever the number of their runs, and only where no run of its own is over."""
    compared, nearest = [], estimate._nearest
    monkeypatch.setattr(estimate, "_nearest", lambda kind, paces: compared.append(len(paces)) or nearest(kind, paces))
    runs = planned(tmp_path, "batch_size=4,8,16", "optim.lr=0.1,0.2,0.3", "seed=0,1")
    for run in runs:
        if run.config.batch_size != 16:
            over(run, 10.0)
    assert [one.rough for one in estimates(runs)] == [run.config.batch_size == 16 for run in runs]
    assert compared == [2]


def test_trials_end_with_their_time_the_most_work_first(tmp_path, monkeypatch):
    timed = []

    def slow(config, seconds):
        timed.append((config.model.width, config.epochs))
        time.sleep(0.06)
        return 1e-3

    monkeypatch.setattr(estimate, "BUDGET", 0.1)
    monkeypatch.setattr(trial, "trial", slow)
    runs = planned(tmp_path, "model=resnet8", "model.width=4,6,8,10", "epochs=1,2")
    found = estimates(runs)
    assert len(timed) == 2
    assert all(epochs == 2 for _, epochs in timed)
    assert sum(one is None for one in found) == 4
    assert all(one.rough for one in found if one)
