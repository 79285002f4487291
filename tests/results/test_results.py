"""What results/ holds follows from its runs.csv, and from nothing typed by hand."""

import re
import shutil
from pathlib import Path

import pytest

from normbench.analysis.tables_io import read
from normbench.config.files import study_names
from normbench.records.metrics import OVER

ROOT = Path(__file__).parents[2]
# What scripts/collect.py writes; the rest follows from it.
KEPT = {"runs.csv", "curves.csv", "series.csv", "claims.json", "configurations.json", "correct.npz"}
RESULTS = sorted(path.parent for path in (ROOT / "results").glob("*/runs.csv"))


def test_there_are_results_and_each_is_of_a_study():
    assert {"batch_size_short", "tune_lr"} <= {folder.name for folder in RESULTS} <= set(study_names())


@pytest.mark.parametrize("folder", RESULTS, ids=lambda folder: folder.name)
def test_results_come_again_byte_for_byte_from_their_tables(folder, run_script, tmp_path):
    for name in KEPT & {path.name for path in folder.iterdir()}:
        shutil.copy(folder / name, tmp_path)
    for script in ("table", "plot"):
        run_script(script, folder.name, "--to", tmp_path, cwd=ROOT)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    others = {
        "gradients": ("histograms", "moments", "depth"),
        "gradients_by_depth": ("products",),
        "step": ("relative_loss", "channels_none"),
    }
    trained = () if (folder / "series.csv").exists() else ("curves",)
    figures = {f"{name}.{kind}" for name in ("figure", *others.get(folder.name, trained)) for kind in ("png", "svg")}
    assert {"summary.md", *figures} <= set(made)
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert made.keys() == kept.keys()
    assert [name for name in made if made[name] != kept[name]] == []


def test_a_probe_is_of_real_images_by_committed_code():
    summary = (ROOT / "results" / "probe_inputs" / "summary.md").read_text()
    assert "- Scale: cifar10, " in summary
    assert re.search(r"^- Commit: [0-9a-f]{7}$", summary, re.M)


@pytest.mark.parametrize("folder", RESULTS, ids=lambda folder: folder.name)
def test_results_are_of_real_runs_by_committed_code(folder):
    runs = read(folder / "runs.csv", ("run_id",))
    over = runs[runs["status"].isin(OVER)]
    assert len(over)
    assert set(runs["data"]) == {"cifar10"}
    assert over["commit"].str.fullmatch("[0-9a-f]{40}").all()
    assert not over["dirty"].astype(bool).any()
    assert over["command"].str.startswith("python -m normbench -m ").all()
    assert not runs.duplicated(["run_id", "seed"]).any()
    assert not re.search(r"/(home|tmp|root|work)/", runs.to_csv())  # no paths of a machine
