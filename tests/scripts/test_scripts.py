"""The scripts as a user runs them: on a study, on any folder, and with mistakes."""

from pathlib import Path

import pytest
from forked import Forked

SECTIONS = ("Further outcomes", "Test-time augmentation")
FURTHER = ("augment.tta=flip", "evaluation.target_acc=99.9")


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """A sweep typed by hand, with test-time augmentation and a target that no run of this size reaches."""
    root = tmp_path_factory.mktemp("folder")
    typed = [word for word in tiny if not word.startswith(("batch_size", "epochs"))]
    process = Forked(root, "-m", "norm=batch,group", "batch_size=4,8", "epochs=2", "replicates=2", *FURTHER, *typed)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return root


def test_any_folder_of_runs_gets_tables_and_figures(folder, script):
    collected = script("collect", "outputs", cwd=folder)
    assert collected.returncode == 0, collected.stderr
    assert collected.stdout == "outputs/runs.csv: 4 runs, 8 replicates: 8 finished\n"
    tabled = script("table", "outputs", cwd=folder)
    assert tabled.returncode == 0, tabled.stderr
    text = (folder / "outputs" / "summary.md").read_text()
    assert text.startswith("# outputs\n")
    assert "| batch | 4 | 2 | finished |" in text
    assert "| 8 | group − batch | 2 |" in text
    further, views = (text.split(f"## {title}\n")[1].split("\n## ")[0] for title in SECTIONS)
    assert further.count("(0 of 2) |") == 4
    assert "| group | 8 | 2 |" in views
    plotted = script("plot", "outputs", cwd=folder)
    assert plotted.returncode == 0, plotted.stderr
    names = {f"{name}.{kind}" for name in ("figure", "curves") for kind in ("png", "svg")}
    assert {Path(line).name for line in plotted.stdout.split()} == names
    assert all((folder / "outputs" / name).stat().st_size > 5000 for name in names)


def test_elsewhere(folder, run_script, tmp_path):
    run_script("collect", folder / "outputs", "--to", tmp_path / "there", cwd=tmp_path)
    run_script("table", tmp_path / "there", cwd=tmp_path)
    assert {path.name for path in (tmp_path / "there").iterdir()} == {
        *("runs.csv", "curves.csv", "correct.npz", "configurations.json", "summary.md")
    }


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("collect", ["demmo"], ["study=demmo", "did you mean demo?", "choices: "]),
        ("collect", ["."], ["no folder in it is a run"]),
        ("collect", ["demo", "norm=gruop"], ["norm=gruop", "did you mean group?"]),
        ("collect", ["demo"], ["outputs: none of the 11 runs of demo is there"]),
        ("table", ["demo"], ["results/demo/runs.csv: no such table"]),
        ("plot", ["demmo"], ["study=demmo", "did you mean demo?"]),
        ("plot", ["."], ["runs.csv: no such table"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(name, arguments, words, told, tmp_path):
    line = told(name, *arguments)
    assert line.count("\n") == 1, line
    for word in words:
        assert word in line
    assert list(tmp_path.iterdir()) == []


def test_so_it_is_in_a_process_of_its_own(script, tmp_path):
    done = script("collect", "demmo", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1, done.stderr
    assert "did you mean demo?" in done.stderr
