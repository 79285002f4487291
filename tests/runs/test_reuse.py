"""Evidence carried on from results/STUDY: by sweeps and by collect, without the folders of the runs."""

import csv
import json
import shutil

import numpy as np
import pytest
from test_collect import entry, put

from normbench.analysis.study import chosen
from normbench.config.overrides import normalize, plan
from normbench.errors import UserError
from normbench.records.correct import FILE, correctness, packed
from normbench.runs.collect import gather
from normbench.runs.keep import keep
from normbench.runs.planned import at_work, runs_of
from normbench.runs.provenance import CONFIGURATIONS, configurations, fixed_claims
from normbench.runs.sweep import prepared

TYPED = ("norm=batch,group", "batch_size=2", "device=cpu")


def planned(folder, *typed):
    return runs_of(plan(normalize(["experiment=demo", f"output={folder}", *TYPED, *typed]), True)[0])


def over(run, accuracy=40.0, **env):
    folder = put(
        run, {"status": "finished", "replicates": [entry(seed, accuracy + seed / 3) for seed in run.seeds]}, **env
    )
    lines = [f"{seed},1,5,40,0.1,2.5,10.5,2.25,{11 + seed}.0,1.0,3.0" for seed in run.seeds]
    head = "seed,epoch,step,samples,lr,train_loss,train_acc,val_loss,val_acc,grad_norm,seconds"
    (folder / "metrics.csv").write_text("\n".join([head, *lines]) + "\n")
    (folder / FILE).write_bytes(packed({str(seed): np.arange(20) < seed for seed in run.seeds}))


@pytest.fixture
def results(tmp_path):
    """results/demo of two methods with seeds 0 to 2, whose runs are gone."""
    for run in planned(tmp_path / "outputs"):
        over(run, commit="0" * 40)
    found = gather("demo", str(tmp_path / "outputs"), TYPED)
    keep(found, found.runs, made(tmp_path / "results"), "demo")
    shutil.rmtree(tmp_path / "outputs")
    return tmp_path / "results"


def made(folder):
    folder.mkdir(exist_ok=True)
    return folder


def lines(path):
    return list(csv.DictReader(path.open()))


@pytest.mark.parametrize("told", [True, False], ids=["configurations", "names"])
def test_a_study_extended_by_two_seeds_from_its_table_alone(results, tmp_path, told):
    """Into the folder that the rows came from; also from a table that has no configurations beside it."""
    if not told:
        (results / CONFIGURATIONS).unlink()
    before, curves = lines(results / "runs.csv"), lines(results / "curves.csv")
    jobs, _, _ = plan(
        normalize(["experiment=demo", *TYPED, "replicates=5", f"output={tmp_path / 'new'}", f"reuse={results}"]), True
    )
    work = at_work(prepared(jobs)[0])
    assert [(run.config.norm.name, run.config.seed, run.config.replicates) for run in work] == [
        ("batch", 3, 2),
        ("group", 3, 2),
    ]
    for run in work:
        over(run, 50.0, commit="1" * 40)
    found = gather("demo", str(tmp_path / "new"), [*TYPED, "replicates=5"], [str(results)])
    keep(found, found.runs, results, "demo")
    after = lines(results / "runs.csv")
    assert [row for row in after if row["commit"] == "0" * 40] == before
    assert [(row["method"], row["seed"]) for row in after] == [
        (m, str(s)) for m in ("batch", "group") for s in range(5)
    ]
    assert {row["commit"] for row in after if int(row["seed"]) > 2} == {"1" * 40}
    assert [line for line in lines(results / "curves.csv") if int(line["seed"]) < 3] == curves
    assert len(lines(results / "curves.csv")) == 10
    right = correctness(results)
    assert sorted((seed, one.sum()) for (_, seed, _), one in right.items()) == sorted(2 * [(s, s) for s in range(5)])
    assert set(json.loads((results / CONFIGURATIONS).read_text())["runs"]) == {row["run_id"] for row in after}
    again = gather("demo", str(tmp_path / "nowhere"), [*TYPED, "replicates=5"], [str(results)])
    keep(again, again.runs, made(tmp_path / "again"), "demo")
    for path in results.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_a_column_that_the_earlier_table_had_no_need_of_is_filled(results, tmp_path):
    [other] = planned(tmp_path / "new", "norm=batch", "augment.mixup=0.2")
    over(other)
    found = gather("demo", str(tmp_path / "new"), ["norm=batch", *TYPED[1:], "augment.mixup=0,0.2"], [str(results)])
    assert found.runs.groupby("augment.mixup")["seed"].count().to_dict() == {0: 3, 0.2: 3}


def test_without_being_asked_nothing_is_reused(results, tmp_path):
    jobs, _, _ = plan(normalize(["experiment=demo", *TYPED, f"output={tmp_path / 'new'}"]), True)
    assert [run.directory.status() for run in at_work(prepared(jobs)[0])] == ["missing"] * 2


@pytest.mark.parametrize("damage", ["missing", "runs.csv", CONFIGURATIONS])
def test_a_folder_that_is_none_is_one_line(results, damage):
    if damage == "missing":
        shutil.rmtree(results)
    else:
        (results / damage).write_text("not this")
    with pytest.raises(UserError) as error:
        gather("demo", "outputs", TYPED, [str(results)])
    assert str(results) in str(error.value)
    assert "\n" not in str(error.value)


def test_rows_may_be_chosen(results, tmp_path):
    found = gather("demo", "nowhere", TYPED, [str(results)])
    runs = chosen(found.runs, {"method": ["batch"], "seed": [0.0, 2.0]})
    keep(found, runs, made(tmp_path / "some"), "demo")
    assert [(row["method"], row["seed"]) for row in lines(tmp_path / "some" / "runs.csv")] == [
        ("batch", "0"),
        ("batch", "2"),
    ]
    assert [row["seed"] for row in lines(tmp_path / "some" / "curves.csv")] == ["0", "2"]
    assert sorted(seed for _, seed, _ in correctness(tmp_path / "some")) == [0, 2]
    with pytest.raises(UserError, match=r"--where metod=a,b: .*did you mean method\?"):
        chosen(found.runs, {"metod": ["a", "b"]})


def test_what_runs_have_in_common_is_said_once():
    told = configurations({"a": {"x": 1, "y": [1, 2], "z": None}, "b": {"x": 1, "y": [1, 3], "z": None}})
    assert told == {"common": {"x": 1, "z": None}, "runs": {"a": {"y": [1, 2]}, "b": {"y": [1, 3]}}}


# --- What git shows of claims. ----------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with a study of two claims, one of which was changed in a second commit: (commits, file)."""
    import subprocess

    from normbench.config import files
    from normbench.runs import provenance

    def git(*arguments):
        done = subprocess.run(["git", "-C", tmp_path, *arguments], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    file = made(made(tmp_path / "conf") / "experiment") / "mine.yaml"
    git("init", "-q")
    git("config", "user.email", "a@b")
    git("config", "user.name", "a")
    commits = []
    for level in (1, 2):
        file.write_text(f"claims:\n  - {{name: kept, level: 5}}\n  - {{name: changed, level: {level}}}\n")
        git("add", ".")
        git("commit", "-qm", "a study")
        commits.append(git("rev-parse", "HEAD"))
    for module in (files, provenance):
        monkeypatch.setattr(module, "conf_dir", lambda: tmp_path / "conf")
    return commits


def fixed(runs):
    return {name: told["fixed"] for name, told in fixed_claims("mine", runs).items()}


def test_claims_are_fixed_where_git_shows_them_at_each_commit_of_the_rows(checkout):
    import pandas as pd

    first, second = checkout

    def rows(*commits, dirty=False, status="finished"):
        return pd.DataFrame({"commit": commits, "dirty": dirty, "status": status})

    assert fixed(rows(second, second)) == {"kept": True, "changed": True}
    assert fixed(rows(first, second)) == {"kept": True, "changed": False}
    assert fixed(rows(second, dirty=True)) == {"kept": False, "changed": False}
    assert fixed(rows(second, "0" * 40)) == {"kept": None, "changed": None}
    assert fixed(rows(first, "0" * 40)) == {"kept": None, "changed": False}
    assert fixed(rows(second, None)) == {"kept": None, "changed": None}
    assert fixed(rows(first, status="missing")) == {"kept": None, "changed": None}
    assert fixed_claims("mine", rows(second))["changed"]["text"] == {"name": "changed", "level": 2}


def test_a_renamed_study_has_its_claims_where_git_has_them_under_the_former_name(checkout, tmp_path):
    import pandas as pd

    first, second = checkout
    there = tmp_path / "conf" / "experiment" / "mine.yaml"
    renamed = there.with_name("renamed.yaml")
    renamed.write_text(f"formerly: mine\n{there.read_text()}")
    rows = pd.DataFrame({"commit": [first, second], "dirty": False, "status": "finished"})
    told = {name: of["fixed"] for name, of in fixed_claims("renamed", rows).items()}
    assert told == {"kept": True, "changed": False}
    renamed.write_text(there.read_text())
    assert not any(of["fixed"] for of in fixed_claims("renamed", rows).values())
