"""From folders to runs.csv: every status, every row, the same bytes."""

import json
import shutil

import pandas as pd
import pytest

from normbench.analysis.study import study_of
from normbench.analysis.tables_io import read, write
from normbench.config.identity import run_id
from normbench.config.overrides import normalize, plan
from normbench.config.values import Values, plain, to_yaml
from normbench.errors import InputError, UserError
from normbench.records import metrics
from normbench.records.metrics import CURVES
from normbench.runs.collect import _named, collect
from normbench.runs.keep import _of
from normbench.runs.planned import runs_of

ENV = {
    "packages": {"torch": "2.99"},
    "commit": "abc1234",
    "dirty": False,
    "device": "a device",
    "threads": 1,
    "command": "python -m normbench -m something",
}


def entry(seed, accuracy, status="finished", **more):
    return {
        "seed": seed,
        "status": status,
        "diverged_epoch": 2 if status == "diverged" else None,
        "val_acc": accuracy,
        "val_loss": None if status == "diverged" else 1.5,
        "test_acc": accuracy + 0.25,
        "test_loss": None if status == "diverged" else 1.25,
        "seconds": 12.5,
        "stack": 2,
        "ms_per_step": 3.5,
        "images_per_second": 100.0,
        **more,
    }


def put(run, result=None, **env):
    """The folder that a run leaves."""
    folder = run.directory.path
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(run.config))
    (folder / "env.json").write_text(json.dumps(ENV | env))
    if result is not None:
        (folder / "result.json").write_text(json.dumps({"peak_memory_mb": 512.0, "seconds": 25.0, **result}))
    return folder


@pytest.fixture
def sweep(tmp_path):
    """The runs of a sweep, none begun, and a function that gives one a folder."""
    typed = ["norm=batch,group,none", "batch_size=8", "replicates=2", "device=cpu", f"output={tmp_path / 'runs'}"]
    runs = runs_of(plan(normalize([*typed, "study=mine"]), True)[0])

    return runs, lambda index, *what, **env: put(runs[index], *what, **env), tmp_path / "runs"


def test_every_replicate_is_a_row_whatever_became_of_it(sweep):
    _, put, root = sweep
    put(0, {"status": "finished", "replicates": [entry(0, 50.125), entry(1, 10.0, "diverged")]})
    put(1, {"status": "failed", "error": "RuntimeError: out of paper"}, commit="def5678", dirty=True)
    put(2)
    table, curves = collect(str(root))
    table = table.set_index(["method", "seed"])
    assert len(table) == 6
    assert table["status"].tolist() == ["finished", "diverged", "failed", "failed", "stopped", "stopped"]
    assert table["test_acc"].dropna().tolist() == [50.375, 10.25]
    assert table.loc[("batch", 1), "diverged_epoch"] == 2
    assert table.loc[("batch", 0), "stats_batch"] == 8
    assert table["stats_batch"].isna().tolist() == [False, False, True, True, True, True]
    assert table.loc[("group", 0), "error"] == "RuntimeError: out of paper"
    options = "affine=True channels_per_group=0 eps=1e-05 num_groups=8 scale=True shift=True"
    assert table.loc[("group", 0), "options"] == options
    assert table["commit"].tolist() == ["abc1234"] * 2 + ["def5678"] * 2 + ["abc1234"] * 2
    assert table["torch"].unique().tolist() == ["2.99"]
    assert table["study"].unique().tolist() == ["mine"]
    assert table.loc[("batch", 0), "peak_memory_mb"] == 512
    assert table["lr"].unique().tolist() == [0.2]
    assert curves.empty
    assert list(curves) == list(CURVES)


def test_keys_that_differ_get_columns_and_no_others(tmp_path):
    typed = ["norm=ghost_batch", "norm.ghost_size=2,4", "batch_size=8", "augment.mixup=0,0.2", "device=cpu"]
    for run in runs_of(plan(normalize([*typed, f"output={tmp_path}"]), True)[0]):
        run.directory.path.mkdir()
        (run.directory.path / "config.yaml").write_text(to_yaml(run.config))
    table, _ = collect(str(tmp_path))
    assert [column for column in table if "." in column] == ["augment.mixup", "norm.ghost_size"]
    assert sorted(zip(table["augment.mixup"], table["stats_batch"], strict=True)) == [
        (0, 2),
        (0, 4),
        (0.2, 2),
        (0.2, 4),
    ]


def test_runs_of_a_probe_beside_trainings(tmp_path, monkeypatch):
    """The union of their columns, in declared order; a series that is not of epochs is no curve."""
    monkeypatch.setitem(metrics.MEASUREMENTS, "gradients", (metrics.Outcome("first_gradient", "the first gradient"),))
    [trained, probed] = runs_of(
        plan(normalize(["norm=batch", "seed=0,1", f"output={tmp_path}", "device=cpu"]), True)[0]
    )
    put(trained, {"status": "finished", "replicates": [entry(0, 50.0)]})
    found = {"seed": 1, "status": "finished", "first_gradient": 0.5, "seconds": 1.0, "stack": 1}
    probed.config = Values(plain(probed.config) | {"measure": {"name": "gradients"}})
    probed.name = run_id(probed.config)
    folder = put(probed, {"status": "finished", "replicates": [found]})
    (folder / "metrics.csv").write_text("seed,step,norm\n1,0,0.5\n")
    table, curves = collect(str(tmp_path))
    assert curves.empty
    table = table.set_index("measure.name")
    assert sorted(table.index) == ["gradients", "train"]
    assert table.loc["gradients", "first_gradient"] == 0.5
    assert table.loc["train", "test_acc"] == 50.25
    assert pd.isna(table.loc["gradients", "test_acc"])
    names = [outcome.name for outcome in metrics.of_measurements(["train", "gradients"])]
    assert [column for column in table if column in names] == names
    (tmp_path / trained.name / "config.yaml").unlink()
    alone, _ = collect(str(tmp_path))
    assert "measure.name" not in alone
    assert not {"test_acc", "regret", "diverged_epoch"} & set(alone)


def test_the_regret_of_suggested_rates(tmp_path):
    """By hand: accuracies of three seeds over decades. The best rate, by validation: batch 0.1, group 0.01, none 1."""
    rates = (0.001, 0.01, 0.1, 1.0)
    val = {
        "batch": ((20, 21, 22), (30, 33, 31), (42, 40, 44), (41, 40, 43)),
        "group": ((20, 21, 22), (35, 36, 37), (30, 31, 33), (12, 14, 13)),
        "none": ((20, 21, 22), (30, 31, 32), (40, 41, 42), (50, 51, 52)),
    }
    test = {0.001: 1, 0.01: 2, 0.1: 4, 1.0: 8}  # points above those: the test images would choose another rate
    suggested = {
        ("batch", 0): 0.02,  # nearest to 0.01
        ("batch", 1): 0.04,  # to 0.1 on a log scale, though not in difference
        ("batch", 2): 4.0,  # beyond the grid by more than half a decade
        ("group", 0): 2.0,  # by less
        ("group", 1): None,
        ("group", 2): 0.01,
        ("none", 0): 0.1,  # but there the best rate may lie beyond the grid
        ("none", 1): 0.1,
        ("none", 2): None,
    }
    typed = ["norm=batch,group,none", f"optim.lr={','.join(map(str, rates))}", "replicates=3", "device=cpu"]
    for run in runs_of(plan(normalize([*typed, f"output={tmp_path}"]), True)[0]):
        method, lr = run.config.norm.name, run.config.optim.lr
        entries = [entry(seed, accuracy) for seed, accuracy in enumerate(val[method][rates.index(lr)])]
        for one in entries:
            one["test_acc"] = one["val_acc"] + test[lr]
            if lr == 0.1:
                one["suggested_lr"] = suggested[method, one["seed"]]
        put(run, {"status": "finished", "replicates": entries})
    table, _ = collect(str(tmp_path))
    asked = table[table["lr"] == 0.1].set_index(["method", "seed"])
    assert asked["lr_found"].to_dict() == {key: rate is not None for key, rate in suggested.items()}
    assert asked["regret"].dropna().to_dict() == {
        ("batch", 0): 46 - 32,
        ("batch", 1): 0,
        ("group", 0): 37 - 20,
        ("group", 2): 0,
    }
    assert table.loc[table["lr"] != 0.1, ["lr_found", "regret"]].isna().all(axis=None)
    for name in table.loc[table["lr"].isin([0.001, 1]), "run_id"].unique():
        (tmp_path / name / "result.json").unlink()
    table, _ = collect(str(tmp_path))
    assert table["lr_found"].sum() == 7
    assert table["regret"].isna().all()  # two rates are no grid


def test_the_same_folders_give_the_same_bytes_and_the_table_reads_back(sweep, tmp_path):
    _, put, root = sweep
    folder = put(1, {"status": "finished", "replicates": [entry(0, 100 / 3), entry(1, 2 / 3)]})
    (folder / "metrics.csv").write_text(
        "seed,epoch,step,samples,lr,train_loss,train_acc,val_loss,val_acc,grad_norm,seconds\n"
        "0,1,5,40,0.1,2.5,10.5,2.25,11.5,1.0,3.0\n"
    )
    for name in ("a", "b"):
        for kind, table in zip(("runs", "curves"), collect(str(root)), strict=True):
            write(table, tmp_path / name / f"{kind}.csv")
        copy = root.with_name("copied")
        shutil.move(root, copy)  # not a matter of the order in which a file system lists them
        shutil.copytree(copy, root)
        shutil.rmtree(copy)
    for kind in ("runs", "curves"):
        assert (tmp_path / "a" / f"{kind}.csv").read_bytes() == (tmp_path / "b" / f"{kind}.csv").read_bytes()
    back = read(tmp_path / "a" / "runs.csv", ("run_id",))
    assert back["val_acc"].tolist() == [100 / 3, 2 / 3]  # to the last bit
    write(back, tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "a" / "runs.csv").read_bytes()
    assert read(tmp_path / "a" / "curves.csv", CURVES)["val_acc"].tolist() == [11.5]


@pytest.fixture
def demo(tmp_path):
    """The folder of the demo study, one run of which another machine did, with a precision and a stack of its own."""
    typed = normalize(["experiment=demo", f"output={tmp_path}", "device=cpu"])
    run = runs_of(plan(typed, True)[0])[0]
    config = run.config.with_value("device", "cuda").with_value("precision", "bfloat16")
    folder = tmp_path / run_id(config)
    folder.mkdir()
    (folder / "config.yaml").write_text(to_yaml(config))
    replicates = [entry(seed, 40.0) for seed in range(3)]
    (folder / "result.json").write_text(json.dumps({"status": "finished", "seconds": 25.0, "replicates": replicates}))
    return tmp_path


def of_demo(folder):
    """The names of the runs in a folder."""
    return {path.name for path in folder.glob("resnet*")}


def test_a_study_has_a_row_for_each_replicate_it_plans_wherever_it_was_done(demo):
    table, _ = collect("demo", str(demo))
    assert table["status"].value_counts().to_dict() == {"missing": 30, "finished": 3}
    assert set(table.loc[table["status"] == "finished", "run_id"]) == of_demo(demo)
    assert set(table["study"]) == {"demo"}
    assert table.loc[table["status"] == "finished", "precision"].unique().tolist() == ["bfloat16"]
    smaller, _ = collect("demo", str(demo), ["norm=batch", "batch_size=2,8"])
    assert smaller["status"].tolist() == ["finished"] * 3 + ["missing"] * 3


def test_a_folder_stands_for_one_run_alone(demo):
    table, _ = collect("demo", str(demo), ["precision=float32,bfloat16", "batch_size=2", "norm=batch"])
    assert not table.duplicated(["run_id", "seed"]).any()
    assert table["status"].value_counts().to_dict() == {"missing": 3, "finished": 3}


def test_other_folders_are_passed_over(demo):
    for name, text in (("conf", "a: 1\n"), ("broken", "a: [\n"), ("list", "- 1\n"), ("empty", "")):
        (demo / name).mkdir()
        (demo / name / "config.yaml").write_text(text)
    table, _ = collect(str(demo))
    assert set(table["run_id"]) == of_demo(demo)
    assert not (demo / "conf" / ".lock").exists()


def test_mistakes_in_one_line(tmp_path):
    with pytest.raises(UserError, match="no folder in it is a run"):
        collect(str(tmp_path))
    with pytest.raises(InputError, match=r"study=demmo: .*did you mean demo\?"):
        collect("demmo")
    with pytest.raises(InputError, match="study=demmo"):
        study_of("demmo", None)
    with pytest.raises(UserError, match="none of the 11 runs of demo is there"):
        collect("demo", str(tmp_path))
    with pytest.raises(InputError, match="epochz=3"):
        collect("demo", str(tmp_path), ["epochz=3"])
    with pytest.raises(UserError, match="no such table"):
        read(tmp_path / "runs.csv", ())
    for text in ("", "a,b\n1,2\n", "a,b\n1,2\n3,4,5\n"):
        (tmp_path / "runs.csv").write_text(text)
        with pytest.raises(UserError, match=r"no table that scripts/collect\.py wrote"):
            read(tmp_path / "runs.csv", ("run_id",))


def test_a_row_with_nothing_is_still_typed(demo):
    table, _ = collect("demo", str(demo))
    write(table, demo / "runs.csv")
    back = read(demo / "runs.csv", table.columns)
    assert back["seed"].tolist() == table["seed"].tolist()
    assert pd.api.types.is_numeric_dtype(back["test_acc"])


@pytest.mark.parametrize("values", [(0.0, 0.5), (0.2, 0.0)])
def test_a_choice_speaks_for_its_own_values_alone(values):
    """augment=mixup says that mixup is 0.2; augment=standard says nothing of a mixup that was typed."""
    runs = [
        {"augment.name": name, "augment.mixup": value}
        for name, value in zip(("mixup", "standard"), values, strict=True)
    ]
    assert _named("augment.mixup", runs) == (values == (0.2, 0.0))


def test_a_table_without_rows_keeps_its_columns():
    assert list(_of(pd.DataFrame(columns=CURVES), {("run", 0)})) == list(CURVES)
