"""An outcome that a probe declares is at home everywhere: claims, figures, tables, runs.csv and the terminal."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from scipy import stats
from small_runs import TINY

import normbench
from normbench.analysis.claims import decide, parse_claims
from normbench.analysis.columns import CONFIGURATION, ENVIRONMENT, MEASUREMENT, OTHER, label, of_configuration
from normbench.analysis.evidence import concerning
from normbench.analysis.figures import sweep_figure
from normbench.analysis.panels import default_panels
from normbench.analysis.study import study_of
from normbench.analysis.tables import summary
from normbench.analysis.tables_io import write
from normbench.errors import UserError
from normbench.records import metrics
from normbench.records.metrics import Outcome, of_measurement, of_measurements, outcome_of, outcomes
from normbench.runs.report import print_run

ROOT = Path(__file__).parents[2]
NORM = Outcome("first_gradient", "norm of the first gradient", "nats", "lower", digits=".3g")
COUNT = Outcome("dead_filters", "filters that are dead", better="lower", whole=True)


@pytest.fixture(autouse=True)
def probe(monkeypatch):
    """A measurement `probing` beside the training."""
    monkeypatch.setitem(metrics.MEASUREMENTS, "probing", (NORM, COUNT))


@pytest.fixture
def probed() -> pd.DataFrame:
    """Its runs: two methods at two batch sizes, five seeds, and no accuracy anywhere."""
    rows = []
    for method, size, seed in ((m, b, s) for m in ("batch", "group") for b in (8, 32) for s in range(5)):
        value = (0.02 if method == "batch" else 0.03) * (1 + seed / 50 + size / 1000)
        settings = {"model": "resnet8", "method": method, "options": "", "batch_size": size, "data": "cifar10"}
        settings |= {"stats_batch": size if method == "batch" else np.nan, "train_size": 100, "epochs": 1}
        settings |= {"optimizer": "sgd", "lr": 0.1, "study": "it", "run_id": f"{method}-{size}", "seed": seed}
        here = {"device": "cpu", "threads": 1, "torch": "2", "commit": "a" * 40, "dirty": False, "command": "it"}
        found = {"first_gradient": value, "dead_filters": seed, "seconds": 2.0, "stack": 1, "ms_per_step": np.nan}
        rows.append(settings | here | {"status": "finished", "peak_memory_mb": 100.0, "error": np.nan} | found)
    return pd.DataFrame(rows).assign(train_seconds=np.nan)


CLAIM = {"name": "it", "statement": "It is so.", "source": "Someone", "kind": "difference", "metric": "first_gradient"}
CLAIM |= {"a": {"method": "group", "batch_size": 8}, "b": {"method": "batch", "batch_size": 8}}
CLAIM |= {"direction": "greater", "margin": 0}


def values(table, method, size=8):
    return table[(table.method == method) & (table.batch_size == size)].first_gradient.to_numpy()


def test_a_claim_about_it(probed):
    [found] = decide(parse_claims([CLAIM]), probed)
    difference = values(probed, "group") - values(probed, "batch")
    assert (found.verdict, found.n) == ("holds", 5)
    assert found.p == pytest.approx(stats.ttest_1samp(difference, 0).pvalue)


def test_a_figure_of_it(probed):
    figure = sweep_figure(probed, [{"x": "batch_size", "y": "first_gradient"}])
    [line] = [line for line in figure.axes[0].lines if line.get_label() == "batch"]
    assert line.get_ydata()[0] == pytest.approx(values(probed, "batch").mean())
    assert figure.axes[0].get_ylabel() == "norm of the first gradient (nats)"
    assert [panel["y"] for panel in default_panels(probed)] == ["first_gradient"]


def test_tables_of_it(probed, tmp_path):
    text = summary("it", "A probe.", probed, decide(parse_claims([CLAIM]), probed))
    gap = values(probed, "group") - values(probed, "batch")
    assert f"| {gap.mean():+.3g} [" in text.split("## Results")[0]
    results = text.split("## Results")[1].split("## Not counted")[0]
    assert "norm of the first gradient, nats" in results
    assert "filters that are dead" in results
    some = values(probed, "batch")
    low, high = stats.t.interval(0.95, 4, some.mean(), stats.sem(some))
    assert f"{some.mean():.3g} ± {(high - low) / 2:.3g}" in results
    assert not any(words in text for words in ("Accuracy", "BCa", "Paired differences", "Further outcomes"))
    write(probed, tmp_path / "runs.csv")
    assert len(study_of(str(tmp_path), None).runs) == len(probed)
    write(probed.drop(columns=["first_gradient", "dead_filters"]), tmp_path / "runs.csv")
    with pytest.raises(UserError, match="without diverged_epoch, val_acc, test_acc"):
        _ = study_of(str(tmp_path), None).runs


def test_beside_a_training(probed):
    """The same seeds and settings, measured in two ways: a claim and a panel take the rows that have the metric."""
    trained = probed.drop(columns=["first_gradient", "dead_filters"]).assign(test_acc=50.0 + probed.seed, val_acc=50.0)
    trained["run_id"] += "-trained"
    both = pd.concat([probed.assign(**{MEASUREMENT: "probing"}), trained.assign(**{MEASUREMENT: "train"})])
    [alone], [found] = decide(parse_claims([CLAIM]), probed), decide(parse_claims([CLAIM]), both)
    assert found == alone
    accuracy = CLAIM | {"metric": "test_acc", "kind": "level", "level": 51, "direction": "greater"}
    del accuracy["b"], accuracy["margin"]
    assert decide(parse_claims([accuracy]), both)[0].estimate == pytest.approx(52)
    assert set(concerning(both, "first_gradient")[MEASUREMENT]) == {"probing"}
    assert len(concerning(both, "seconds")) == len(concerning(both, "batch_size")) == len(both)
    for y, count in (("first_gradient", 5), ("test_acc", 5)):
        figure = sweep_figure(both, [{"x": "batch_size", "y": y}])
        assert f"n = {count} per point" in [text.get_text() for text in figure.axes[0].texts]
    assert "Further outcomes" in summary("it", "Both.", both, [])


def test_its_columns_and_its_line_on_the_terminal(capsys):
    assert [o.name for o in of_measurement("probing")][:2] == ["first_gradient", "dead_filters"]
    train, both = ([o.name for o in of_measurements(names)] for names in (["train"], ["probing", "train"]))
    assert [name for name in both if name in train] == train
    assert set(both) - set(train) == {"first_gradient", "dead_filters"}
    assert "dead_filters" in metrics.whole(both)
    entry = {"seed": 0, "status": "finished", "first_gradient": 0.0123456, "dead_filters": 3, "seconds": 1.0}
    config = OmegaConf.create({"measure": {"name": "probing"}, "output": "outputs"})
    print_run({"run_id": "it", "status": "finished", "replicates": [entry], "seconds": 1.0}, config)
    out = capsys.readouterr().out
    assert "0.0123" in out
    assert "val acc" not in out


# --- What holds of every outcome. -------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", outcomes().values(), ids=lambda outcome: outcome.name)
def test_every_outcome_speaks_for_itself(outcome):
    assert outcome.words
    assert outcome.words != outcome.name
    assert label(outcome.name) == outcome.label
    assert outcome.better in ("higher", "lower", None)
    assert outcome.table in ("results", "further", None)
    known = outcomes()
    assert all(other is None or other in known for other in (outcome.reached, outcome.sought))
    assert (outcome.limits == (0, 100)) == (outcome.unit == "%")
    if outcome.chance:  # of a gap between two accuracies that are both at chance, 0
        assert outcome.chance(10) == (0 if outcome.name == "gap" else 10)
        assert outcome.name == "gap" or outcome.name.split("_")[1] == "acc"


def test_the_columns_of_a_measurement_are_those_of_the_tables_in_results():
    for path in sorted((ROOT / "results").glob("*/runs.csv")):
        there = path.read_text().split("\n", 1)[0].split(",")
        told = json.loads((path.parent / "configurations.json").read_text())
        measured = {{**told["common"], **one}["measure.name"] for one in told["runs"].values()}
        ours = [outcome.name for outcome in of_measurements(measured)]
        assert [name for name in there if name in ours] == [name for name in ours if name in there]
        known = {*ours, *CONFIGURATION, *ENVIRONMENT, *OTHER}
        assert [name for name in there if name not in known and "." not in name] == []
        table = pd.DataFrame(columns=there)
        assert set(of_configuration(table)) == {name for name in there if name not in {*ours, *ENVIRONMENT, *OTHER}} - {
            "options"
        }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run that was asked for everything."""
    output = tmp_path_factory.mktemp("runs")
    asked = ["augment.tta=flip", "evaluation.target_acc=50", "evaluation.suggest_lr=true", f"output={output}"]
    return output / normbench.run(*TINY, *asked)["run_id"]


def test_what_a_run_writes_is_declared(finished):
    [entry] = json.loads((finished / "result.json").read_text())["replicates"]
    assert set(entry) <= {"seed", "status", *(outcome.name for outcome in of_measurement("train"))}
    head = (finished / "metrics.csv").read_text().split("\n", 1)[0]
    assert head.split(",") == list(metrics.METRICS)
    assert set(metrics.CURVES) - {"run_id"} < set(metrics.METRICS)


def test_an_unknown_column_is_an_outcome_without_claims_of_its_own():
    assert outcome_of("data.noise").label == "data.noise"
    assert outcome_of("data.noise").limits == (float("-inf"), float("inf"))
