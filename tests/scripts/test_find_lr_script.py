"""scripts/find_lr.py as a user runs it, and its figure read back."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from small_runs import TINY

from normbench.analysis.figures import save
from normbench.analysis.lr_curve import LrTest, suggest
from normbench.analysis.lr_figure import lr_figure
from normbench.config.identity import run_id
from normbench.config.overrides import normalize, plan
from normbench.config.resolve import resolve

COLUMNS = ["seed", "step", "lr", "optimizer_lr", "loss", "smoothed", "smoothed_lr", "diverged"]
# Brightness is told within a few steps.
TYPED = (*TINY, "data.train_size=320", "data.labels=brightness", "norm=none", "batch_size=32", "replicates=2")


@pytest.fixture(scope="module")
def found(script, tmp_path_factory):
    """A test that ends with all replicates diverged: folder, what was printed, the table."""
    root = tmp_path_factory.mktemp("found")
    done = script("find_lr", *TYPED, "--low", "1e-4", "--high", "1e6", "--steps", "100", cwd=root)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    config = resolve(plan(normalize(list(TYPED)), False)[0][0].config)
    folder = root / "outputs" / "find_lr" / run_id(config)
    return folder, done.stdout.splitlines(), pd.read_csv(folder / "curves.csv")


def test_the_table(found):
    _, _, table = found
    assert list(table) == COLUMNS
    assert list(table.seed.unique()) == [0, 1]
    grid = np.geomspace(1e-4, 1e6, 100)
    for _, rows in table.groupby("seed"):
        assert list(rows.step) == list(range(1, len(rows) + 1))
        assert rows.lr.to_numpy() == pytest.approx(grid[: len(rows)])
        assert rows.optimizer_lr.to_numpy() == pytest.approx(grid[: len(rows)] / 4)  # 32 of 128 images
        assert list(rows.diverged) == [False] * (len(rows) - 1) + [True]  # the curve is cut there
        assert rows.smoothed.notna().tolist() == rows.smoothed_lr.notna().tolist() == (~rows.diverged).tolist()
        assert rows.smoothed.iloc[0] == pytest.approx(rows.loss.iloc[0])
        assert rows.loss.iloc[0] == pytest.approx(np.log(2), abs=0.5)


def test_what_it_prints(found):
    folder, lines, table = found
    rates = []
    for seed, rows in table.groupby("seed"):
        said = suggest(np.geomspace(1e-4, 1e6, 100), list(rows.loss), np.log(2))
        assert lines[seed] == f"seed {seed}: optim.lr={said.lr:.2g}: steepest descent; diverged at {rows.lr.max():.2g}"
        rates.append(said.lr)
    files = [folder / name for name in ("curves.csv", "figure.png", "figure.svg")]
    assert lines[2:5] == [str(path.relative_to(folder.parents[2])) for path in files]
    assert set(folder.iterdir()) == set(files)
    assert all(path.stat().st_size > 3000 for path in files)
    # The last line is one to paste.
    assert lines[5:] == [f"optim.lr={np.sqrt(rates[0] * rates[1]):.2g}"]
    config = resolve(plan(normalize([*TYPED, lines[-1]]), False)[0][0].config)
    assert config.optim.lr == pytest.approx(np.sqrt(rates[0] * rates[1]), rel=0.05)


def test_nothing_to_suggest_and_a_folder_of_ones_own(run_script, tmp_path, capsys):
    """Rates at which nothing moves; the overrides and flags in any order."""
    range_ = ("--low", "1e-7", "--high", "1e-6", "--steps", "50", "--rule", "minimum/10")
    run_script("find_lr", "--to", "mine", *TYPED, *range_, "seed=5", "replicates=1", cwd=tmp_path)
    lines = capsys.readouterr().out.splitlines()
    words = "nothing learned: the loss never fell clearly below that of guessing, 0.693; nothing diverged up to 1e-06"
    assert lines[0] == f"seed 5: no rate: {words}"
    assert lines[1:] == ["mine/curves.csv", "mine/figure.png", "mine/figure.svg", "no rate"]
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert len(pd.read_csv(tmp_path / "mine" / "curves.csv")) == 50


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["--low", "1", "--high", "0.1"], "high=0.1: must be a number above low=1.0"),
        (["--steps", "10"], "--steps: 10: must be an integer from 50 to 1000000"),
        (["--steps", "1" + 99 * "0"], "must be an integer from 50 to 1000000"),
        (["--to", __file__], f"{__file__}: File exists"),
        (["--rule", "valley"], "rule=valley: choices: minimum/10, steepest"),
        (["norm=batch,group"], "2 runs; the range test takes one"),
        (["-m", "norm=batch"], "unrecognized arguments: -m "),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(typed, words, told, tmp_path):
    line = told("find_lr", *TINY, *typed)
    assert line.count("\n") == 1, line
    assert words in line
    assert list(tmp_path.iterdir()) == []


# --- The figure. ------------------------------------------------------------------------------------------------------


@pytest.fixture
def measured():
    """Three replicates: one learns and diverges, one learns, one does not."""
    rates = np.geomspace(1e-6, 1, 120)
    valley = 2.3 - np.exp(-((np.log10(rates) + 1.5) ** 2))
    curves = {4: valley.copy(), 5: valley + 0.01 * np.sin(range(120)), 6: np.full(120, 2.3)}
    curves[4][110:] = 1e4
    return LrTest(list(rates), list(rates / 2), {seed: list(curve) for seed, curve in curves.items()}, np.log(10))


def test_what_is_drawn_is_what_was_measured(measured):
    figure = lr_figure(
        measured,
        measured.suggestions("steepest"),
        "steepest",
        title="resnet8, group, batch size 64",
        footer="small print",
    )
    (axes,) = figure.axes
    said = measured.suggestions("steepest")
    drawn = {line.get_label(): line for line in axes.lines}
    for seed, name in ((4, f"{said[4].lr:.2g}"), (5, f"{said[5].lr:.2g}"), (6, "no rate")):
        x, y = drawn[f"_losses {seed}"].get_data()
        shown = 110 if seed == 4 else 120
        assert (list(x), list(y)) == (measured.rates[:shown], measured.losses[seed][:shown])
        x, y = drawn[f"seed {seed}: {name}"].get_data()
        assert np.array_equal(x, said[seed].smoothed_rates)
        assert np.array_equal(y, said[seed].smoothed)
    for seed in (4, 5):
        (x,), (y,) = drawn[f"_suggestion {seed}"].get_data()
        assert x == said[seed].lr
        assert y == pytest.approx(np.interp(x, said[seed].smoothed_rates, said[seed].smoothed))
    assert "_suggestion 6" not in drawn
    assert list(drawn["_diverged 4"].get_xdata()) == [measured.rates[110]]
    assert "_diverged 5" not in drawn
    median = np.sqrt(said[4].lr * said[5].lr)
    assert drawn[f"median: {median:.2g}"].get_xdata()[0] == pytest.approx(median)
    assert axes.get_xscale() == "log"
    assert axes.get_yscale() == "linear"
    assert axes.get_xlabel() == "learning rate (at batch size 128, log scale)"
    assert axes.get_ylabel() == "training loss (nats)"
    assert axes.get_title(loc="left") == "resnet8, group, batch size 64"
    note = " ".join(figure.get_supxlabel().split())
    assert "suggestions (steepest)" in note
    assert "The optimizer gets 0.5 times the rate shown." in note
    for seed in (4, 5, 6):
        assert f"Seed {seed}: {said[seed].verdict}." in note
    assert note.endswith("small print")


def test_losses_over_decades_and_nothing_to_mark(measured):
    wide = LrTest(measured.rates, measured.rates, {0: list(np.geomspace(300, 2.4, 120))}, np.log(10))
    figure = lr_figure(wide, wide.suggestions("minimum/10"), "minimum/10", title="raw")
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    assert axes.get_ylim()[0] < np.log(10)
    assert axes.get_ylim()[1] > 300
    assert not [line for line in axes.lines if "median" in line.get_label() or "_suggestion" in line.get_label()]


def test_lost_from_the_first_step(measured):
    """A curve without a point is drawn as none."""
    nothing = LrTest(measured.rates, measured.rates, {0: [float("nan")] * 20}, np.log(10))
    figure = lr_figure(nothing, nothing.suggestions("steepest"), "steepest", title="lost")
    assert "lost from the start" in figure.get_supxlabel()


def test_the_same_figure_gives_the_same_bytes(measured, tmp_path):
    first, second = (
        save(lr_figure(measured, measured.suggestions("steepest"), "steepest", title="t"), tmp_path / name, "figure")
        for name in ("first", "second")
    )
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes()
    assert min(Image.open(first[0]).size) > 700
