"""The figures are read back: what is drawn is compared with the table."""

import re
from itertools import combinations

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex, to_rgb
from PIL import Image
from scipy import stats

from normbench.analysis import layout
from normbench.analysis.figures import curves_figure, save, sweep_figure
from normbench.analysis.looks import METHODS, SPARE, looks_of
from normbench.analysis.panels import default_panels, figures_of
from normbench.analysis.published import parse_published
from normbench.errors import UserError
from normbench.norms import NORMS

SIZES = (2, 8, 32, 128)
ARMS = {"where": {"method": ["batch", "group", "none"]}, "x": "batch_size"}
COUPLED = {"title": "A  coupled", **ARMS, "also": {"test_acc_precise": "precise statistics"}}
DECOUPLED = {
    "title": "B  decoupled",
    "where": {"method": ["batch", "ghost_batch"], "batch_size": 128},
    "x": "stats_batch",
    "as": "batch (ghost groups)",
    "horizontal": {"method": ["group", "none"], "batch_size": 128},
}


@pytest.fixture
def runs():
    """Five seeds of three methods at four batch sizes, and of ghost groups: 1 diverged, 1 missing, 1 failed."""
    generator, rows = np.random.default_rng(0), []
    cells = [(method, size, size) for method in ("batch", "group", "none") for size in SIZES]
    for method, size, statistics in cells + [("ghost_batch", 128, size) for size in SIZES[:-1]]:
        for seed in range(5):
            accuracy = generator.normal(55 - 40 / statistics * (method in ("batch", "ghost_batch")), 1)
            rows.append(
                {
                    "study": "test",
                    "run_id": f"{method}-{size}-{statistics}",
                    "seed": seed,
                    "model": "resnet8",
                    "method": method,
                    "batch_size": size,
                    "stats_batch": statistics if "batch" in method else np.nan,
                    "epochs": 3,
                    "lr": 0.2,
                    "status": "finished",
                    "diverged_epoch": np.nan,
                    "val_acc": accuracy + 0.5,
                    "test_acc": accuracy,
                    "test_loss": 3 - accuracy / 30,
                    "test_acc_precise": accuracy + 1 if "batch" in method else np.nan,
                    "seconds": generator.uniform(50, 60) + 500 / size,
                    "ms_per_step": generator.uniform(10, 20),
                    "stack": 5,
                    "peak_memory_mb": np.nan,
                    "data": "cifar10",
                    "train_size": 1000,
                    "norm.ghost_size": statistics if method == "ghost_batch" else np.nan,
                }
            )
    table = pd.DataFrame(rows)
    outcomes = ["val_acc", "test_acc", "test_loss", "test_acc_precise", "seconds", "ms_per_step"]
    for method, size, seed, status in (
        ("none", 2, 3, "diverged"),
        ("group", 8, 1, "missing"),
        ("none", 32, 0, "failed"),
    ):
        row = (table.method == method) & (table.batch_size == size) & (table.seed == seed)
        table.loc[row, "status"] = status
        table.loc[row, outcomes] = np.nan
        if status == "diverged":
            table.loc[row, ["val_acc", "test_acc", "diverged_epoch", "seconds"]] = 10, 10, 2, 30
    return table


@pytest.fixture
def curves(runs):
    """Accuracy 20, 30, … + seed; nothing after the epoch of a divergence."""
    return pd.DataFrame(
        {
            "run_id": run.run_id,
            "seed": run.seed,
            "epoch": epoch,
            "val_acc": 10.0 + 10 * epoch + run.seed,
            "val_loss": 1.0,
        }
        for run in runs.itertuples()
        if run.status in ("finished", "diverged")
        for epoch in range(1, 4)
        if not epoch > run.diverged_epoch
    )


def line(axes, label):
    (found,) = [line for line in axes.lines if line.get_label() == label]
    return found


def bars(axes, label):
    """(n, 2): the lower and upper ends."""
    (found,) = [collection for collection in axes.collections if collection.get_label() == f"_bars {label}"]
    return np.array([segment[:, 1] for segment in found.get_segments() if segment.size])


def note(figure):
    return figure.get_supxlabel()


def expected(values):
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    return np.mean(values), low, high


def test_means_and_intervals_are_those_of_the_table(runs):
    left, right = sweep_figure(runs, [COUPLED, DECOUPLED]).axes
    for method, column in (
        ("batch", "test_acc"),
        ("group", "test_acc"),
        ("none", "test_acc"),
        ("batch", "test_acc_precise"),
    ):
        label = method if column == "test_acc" else f"{method}, precise statistics"
        x, y = line(left, label).get_data()
        assert list(x) == list(SIZES)
        for i, size in enumerate(SIZES):
            rows = runs[(runs.method == method) & (runs.batch_size == size) & (runs.stats_batch.isin([size, np.nan]))]
            mean, *ends = expected(rows[column].dropna())  # the diverged one among them, as 10
            assert y[i] == pytest.approx(mean)
            assert bars(left, label)[i] == pytest.approx(ends)
    x, y = line(right, "batch (ghost groups)").get_data()
    assert list(x) == list(SIZES)
    large = runs[runs.batch_size == 128]
    assert y == pytest.approx(large[large.stats_batch.notna()].groupby("stats_batch").test_acc.mean())
    level, *ends = expected(large[large.method == "group"].test_acc)
    assert line(right, "group").get_ydata() == pytest.approx([level, level])
    assert bars(right, "group")[0] == pytest.approx(ends)


def test_every_panel_says_n_and_every_axis_its_unit(runs):
    figure = sweep_figure(runs, [COUPLED, DECOUPLED], footer="one CPU, commit abc")
    texts = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert "n = 4–5 per point" in texts[0]
    assert "n = 5 per point" in texts[1]
    assert figure.axes[0].get_xlabel() == "batch size (images, log scale)"
    assert figure.axes[0].get_ylabel() == "test accuracy (%)"
    assert figure.axes[0].get_xscale() == "log"
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["2", "8", "32", "128"]
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    assert note(figure).endswith("one CPU, commit abc")


def test_a_diverged_replicate_is_marked_at_chance_with_its_count(runs):
    axes = (figure := sweep_figure(runs, [COUPLED])).axes[0]
    assert line(axes, "_diverged none").get_xydata().tolist() == [[2, 10]]
    assert [text.get_text() for text in axes.texts if text.get_label() == "_diverged none"] == ["1"]
    assert not [other for other in axes.lines if other.get_label() == "_diverged group"]
    assert "diverged" in note(figure)


def test_replicates_not_counted_are_noted_once(runs):
    figure = sweep_figure(runs, [COUPLED, ARMS])
    assert "2 of 60 replicates not counted: 1 failed, 1 missing." in note(figure)
    assert "not counted" not in note(sweep_figure(runs, [DECOUPLED]))
    assert "1 diverged without test_loss" in note(sweep_figure(runs, [ARMS | {"y": "test_loss"}]))


def test_one_replicate_has_no_interval_and_the_note_says_so(runs):
    figure = sweep_figure(runs[runs.seed == 4], [ARMS])
    assert not np.isfinite(bars(figure.axes[0], "batch")).any()
    assert line(figure.axes[0], "batch").get_ydata() == pytest.approx(
        runs[(runs.seed == 4) & (runs.method == "batch")].test_acc
    )
    assert "without an interval" in note(figure)


def test_two_replicates_are_drawn_themselves(runs):
    two = runs[runs.seed.isin([0, 4]) | (runs.batch_size == 128)]
    figure = sweep_figure(two, [ARMS])
    (axes,) = figure.axes
    drawn, single = line(axes, "batch"), line(axes, "_single batch")
    rows = two[(two.method == "batch") & (two.batch_size < 128)]
    expect = sorted(zip(rows.batch_size, rows.test_acc, strict=True))
    assert np.array(sorted(map(tuple, single.get_xydata()))) == pytest.approx(np.array(expect))
    assert drawn.get_markevery() == [3]  # the mean of five, at 128
    assert single.get_marker() == drawn.get_marker()
    ends = [segment for segment in bars(axes, "batch").tolist() if not np.isnan(segment).any()]
    assert ends == [pytest.approx(expected(two[(two.method == "batch") & (two.batch_size == 128)].test_acc)[1:])]
    words = " ".join(note(figure).split())
    assert "Where there is no bar: the replicates themselves, without an interval (n < 3)" in words
    assert line(sweep_figure(two[two.seed == 0], [DECOUPLED]).axes[0], "_end group").get_ydata() == pytest.approx(
        two[(two.method == "group") & (two.batch_size == 128) & (two.seed == 0)].test_acc
    )


def test_an_outcome_of_a_log_scale_has_geometric_means(runs):
    table = runs.assign(grad_norm=10.0 ** (runs.seed - 2))
    figure = sweep_figure(table, [ARMS | {"y": "grad_norm"}])
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    assert axes.get_ylabel() == "norm of the gradient (log scale)"
    assert line(axes, "batch").get_ydata() == pytest.approx([1.0] * 4)
    assert bars(axes, "batch")[0] == pytest.approx(10 ** np.array(expected(np.arange(-2.0, 3.0))[1:]))
    assert "geometric mean" in note(figure)
    table.loc[(table.method == "batch") & (table.seed == 0), "grad_norm"] = 0.0
    (axes,) = (figure := sweep_figure(table, [ARMS | {"y": "grad_norm"}])).axes
    assert axes.get_yscale() == "linear"
    assert len(line(axes, "_single batch").get_xydata()) == 20
    assert "or a value ≤ 0" in note(figure)


def test_the_note_says_which_lines_have_their_best_rate_at_the_edge(runs):
    some = runs[runs.batch_size.isin([2, 8]) & runs.method.isin(["batch", "group"])]
    rates = pd.concat([some.assign(lr=lr) for lr in (0.1, 0.2, 0.4)])
    best = {"batch": 0.4, "group": 0.2}
    rates["val_acc"] = 50.0 + (rates.lr == rates.method.map(best)).where(rates.batch_size == 2, rates.lr == 0.1)
    panels = [{"title": f"B  {size}", "x": "lr", "where": {"batch_size": size}} for size in (2, 8)]
    words = " ".join(note(sweep_figure(rates, panels)).split())
    assert "at the edge of its grid: batch (highest in 'B 2'); batch, group (lowest in 'B 8')." in words
    alone = " ".join(note(sweep_figure(rates[rates.batch_size == 2], panels[:1])).split())
    assert "at the edge of its grid: batch (highest)." in alone
    assert "edge" not in note(sweep_figure(rates[rates.method == "group"], panels[:1]))


def test_a_study_without_test_accuracies_is_drawn_by_validation(runs):
    bare = runs.drop(columns=[column for column in runs if column.startswith("test_")])
    assert sweep_figure(bare, [ARMS]).axes[0].get_ylabel() == "validation accuracy (%)"
    with pytest.raises(UserError, match="test_acc: no such column"):
        sweep_figure(bare, [ARMS | {"y": "test_acc"}])
    with pytest.raises(UserError, match=re.escape("figure.cost: unknown key; choices: curves, panels")):
        figures_of({"panels": [], "cost": {}})


@pytest.mark.parametrize("spread", [0.0, 0.3, 20.0])
def test_names_of_lines_do_not_overlap_and_stay_in_the_figure(runs, spread):
    table = pd.concat([runs[runs.method == "batch"].assign(method=name, run_id=name) for name in METHODS])
    table["test_acc"] = 50 + spread * table.method.map(list(METHODS).index) / len(METHODS) + table.seed / 10
    figure = sweep_figure(table, [{"x": "batch_size"}])
    names = [text for text in figure.axes[0].texts if text.get_label() == "name"]
    assert len(names) == len(METHODS)
    # get_window_extent of an annotation includes its leader, which may cross: the text's own box is asked for.
    boxes = [matplotlib.text.Text.get_window_extent(text) for text in names]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    assert all(figure.bbox.x1 >= box.x1 and figure.bbox.y0 <= box.y0 and figure.bbox.y1 >= box.y1 for box in boxes)


def test_each_method_has_its_own_marker_and_colour_everywhere(runs):
    assert set(METHODS) == set(NORMS)
    assert (
        len({style.marker for style in METHODS.values()})
        == len({style.colour for style in METHODS.values()})
        == len(NORMS)
    )
    (axes,) = sweep_figure(runs, [ARMS]).axes
    for method in ("batch", "group", "none"):
        drawn = line(axes, method)
        assert (to_hex(drawn.get_color()), drawn.get_marker()) == (
            METHODS[method].colour.lower(),
            METHODS[method].marker,
        )
    unknown = runs.replace({"method": {"group": "theirs", "none": "ours"}})
    strange = sweep_figure(unknown, [{"x": "batch_size", "where": {"method": ["batch", "theirs", "ours"]}}]).axes[0]
    assert len({line(strange, method).get_color() for method in ("batch", "theirs", "ours")}) == 3


def test_text_and_other_numbers_along_x(runs):
    large = runs[runs.batch_size.eq(128) & runs.method.ne("ghost_batch")]
    axes = sweep_figure(large, [{"x": "method"}]).axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["batch", "group", "none"]
    assert line(axes, "group").get_linestyle() == "None"
    for factor, scale in ((1, "log"), (3, "linear"), (50, "log"), (49, "linear")):
        two = pd.concat([large, large.assign(lr=0.1 * factor), large.assign(lr=0.05)])
        assert sweep_figure(two, [{"x": "lr"}]).axes[0].get_xscale() == scale
    two = pd.concat([large, large.assign(lr=0.1)])
    labels = {text.get_text() for text in sweep_figure(two, [{"x": "method", "lines": "lr"}]).axes[0].texts}
    assert {"learning rate 0.1", "learning rate 0.2"} <= labels


NOISES = ("none", "gaussian", "rician", "non_uniformity")
INPUTS = ("raw", "unit", "symmetric", "zscore", "per_image", "min_max", "percentile", "three_sigma")


@pytest.fixture
def crossed(runs):
    """Batch normalization at 128 images, five seeds, for each noise, input and strength of mixup."""
    one = runs[(runs.method == "batch") & (runs.batch_size == 128)]
    cells = [(noise, given, mixup) for noise in NOISES for given in INPUTS for mixup in (0.0, 0.2)]
    return pd.concat(
        one.assign(
            **{"data.noise": noise, "data.input": given, "augment.mixup": mixup},
            test_acc=one.test_acc - 3 * NOISES.index(noise) - INPUTS.index(given) + mixup,
            seconds=one.seconds + NOISES.index(noise),
        )
        for noise, given, mixup in cells
    )


def test_lines_over_categories_stand_side_by_side(crossed):
    panel = {"where": {"augment.mixup": 0}, "x": "data.noise", "lines": "data.input"}
    figure = sweep_figure(crossed, [panel | {"title": "A"}, panel | {"title": "B"}, panel | {"title": "C"}])
    for axes in figure.axes:
        assert [tick.get_text() for tick in axes.get_xticklabels()] == list(NOISES)
        drawn = {given: line(axes, given) for given in INPUTS}
        places = np.array([drawn[given].get_xdata() for given in INPUTS])
        assert np.allclose(places.round(), range(4))
        assert (np.diff(places, axis=0) > 0.05).all()
        assert len({found.get_marker() for found in drawn.values()}) == len(INPUTS)
        assert {found.get_linestyle() for found in drawn.values()} == {"None"}
        for given in INPUTS:
            rows = crossed[(crossed["data.input"] == given) & (crossed["augment.mixup"] == 0)]
            means = rows.groupby("data.noise").test_acc.mean().loc[list(NOISES)]
            assert drawn[given].get_ydata() == pytest.approx(means.to_numpy())
            dots = line(axes, f"_dots {given}").get_xydata()
            assert sorted(dots[:, 1]) == pytest.approx(sorted(rows.test_acc))
            assert {round(x, 6) for x in dots[:, 0]} == {round(x, 6) for x in drawn[given].get_xdata()}
        for texts in (axes.get_xticklabels(), [text for text in axes.texts if text.get_label() == "name"]):
            slanted = [text.get_rotation() for text in texts]
            boxes = [matplotlib.text.Text.get_window_extent(text) for text in texts]
            assert all(slanted) or not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def test_styles_of_what_is_no_method_read_in_grey():
    styles = list(looks_of({"data.input": INPUTS})["data.input"].values())
    grey = {style.marker: np.dot(to_rgb(style.colour), [0.299, 0.587, 0.114]) for style in styles}
    assert len(grey) == len({style.colour for style in styles}) == len(INPUTS)
    assert sum(marker in "ohHp" for marker in grey) == 1  # these four look alike
    assert max(grey.values()) - min(grey.values()) > 0.5
    assert set(SPARE) == set(METHODS.values())
    assert looks_of({"method": ["none", "rician"]})["method"]["rician"] not in (METHODS["none"], None)


def test_lines_by_a_number_are_named_with_their_column(crossed):
    panel = {"where": {"data.noise": "rician", "data.input": "raw"}, "x": "method", "lines": "augment.mixup"}
    names = {text.get_text() for text in sweep_figure(crossed, [panel]).axes[0].texts}
    assert {"mixup α 0", "mixup α 0.2"} <= names


def test_panels_of_different_outcomes_have_axes_of_their_own(runs):
    table = runs.assign(test_ece=0.5 + runs.seed / 10)
    left, right = sweep_figure(table, [COUPLED, COUPLED | {"y": "test_ece"}]).axes
    assert (left.get_ylabel(), right.get_ylabel()) == ("test accuracy (%)", "test ECE (%)")
    alone = sweep_figure(table, [COUPLED | {"y": "test_ece"}]).axes[0]
    assert right.get_ylim() == alone.get_ylim() != left.get_ylim()
    text = " ".join(note(left.figure).split())
    assert "Test accuracy: Markers" in text
    assert "Test ECE: Markers" in text


def test_other_metrics_have_labels_limits_and_notes(runs):
    table = runs.assign(
        test_ece=0.5 + runs.seed / 10, steps_to_target=900.0, target_reached=(runs.seed > 1).astype(object)
    )
    table.loc[table.status == "diverged", "test_ece"] = np.nan
    table.loc[~table.status.isin(["finished", "diverged"]), ["steps_to_target", "target_reached"]] = np.nan
    figure = sweep_figure(table, [ARMS | {"y": "test_ece"}])
    assert figure.axes[0].get_ylabel() == "test ECE (%)"
    assert figure.axes[0].get_ylim()[0] >= 0
    assert "1 diverged without test_ece" in note(figure)
    # Of 58 that are over seeds 0 and 1 of 12 cells, but for two of them.
    text = " ".join(note(sweep_figure(table, [ARMS | {"y": "steps_to_target"}])).split())
    assert "22 of 58 replicates did not reach the target and count with all their steps." in text
    assert "1 failed, 1 missing" in text
    assert "they count in the mean. " in text  # not at chance


def test_marks_stand_on_top_a_row_a_line(runs):
    tuned = runs[(runs.batch_size == 32) & runs.method.isin(["batch", "group"])]
    tuned = pd.concat([tuned.assign(lr=lr, suggested_lr=np.nan) for lr in (0.1, 0.2, 0.4)], ignore_index=True)
    asked = (tuned.lr == 0.1) & (tuned.method == "batch")
    tuned.loc[asked, "suggested_lr"] = [0.05, 0.11, 0.12, 0.3, np.nan]
    panel = {"where": {"method": ["batch", "group"]}, "x": "lr"}
    (bare,) = sweep_figure(tuned, [panel]).axes
    figure = sweep_figure(tuned, [panel | {"marks": "suggested_lr"}])
    (axes,) = figure.axes
    x, y = line(axes, "_marks batch").get_data()
    assert list(x) == [0.05, 0.11, 0.12, 0.3]
    assert set(y) == {0.98}
    assert not any(line.get_label() == "_marks group" for line in axes.lines)  # an empty one collapses the layout
    assert axes.get_position().width > 0.6
    assert [text.get_text() for text in axes.texts if text.get_label().startswith("_marks")] == ["4", "0"]
    assert axes.get_xlim()[0] <= 0.05  # beyond the grid
    # What was at the top is now below the marks.
    low, high = axes.get_ylim()
    assert (bare.get_ylim()[1] - low) / (high - low) == pytest.approx(0.92)
    assert bare.get_ylim()[0] == low
    assert "On top: suggested learning rate of each replicate" in note(figure).replace("\n", " ")


def test_as_renames_and_joins(runs):
    panel = ARMS | {"as": {"group": "sample-wise", "none": "sample-wise"}, "where": {"method": ["group", "none"]}}
    with pytest.raises(UserError, match="a point of sample-wise would average over runs that differ in method"):
        sweep_figure(runs, [panel])
    apart = runs[
        ((runs.method == "group") & (runs.batch_size > 8)) | ((runs.method == "none") & (runs.batch_size <= 8))
    ]
    assert len(line(sweep_figure(apart, [panel]).axes[0], "sample-wise").get_xdata()) == 4


@pytest.mark.parametrize(
    ("panel", "message"),
    [
        ({"x": "batch_size", "where": {"method": "gruop"}}, "figure: no run has method=gruop"),
        ({"x": "batch_size", "where": {"norm": "group"}}, "figure panel 1: norm: no such column"),
        (
            {"title": "A", "x": "batchsize", "where": {"method": "group"}},
            "figure panel 'A': batchsize: no such column; did",
        ),
        ({"x": "batch_size", "wehre": {}}, "wehre: unknown key; did you mean where?"),
        ({"where": {"method": "group"}}, "x is missing"),
        (
            {"x": "batch_size"},
            "a point of ghost_batch would average over runs that differ in stats_batch, norm.ghost_size",
        ),
        (ARMS | {"marks": "run_id"}, "figure panel 1: marks: run_id is no column of numbers"),
        (ARMS | {"marks": "tested"}, "figure panel 1: tested: no such column"),
        ({"x": "stats_batch"}, "group, none without a value of stats_batch; draw that under horizontal"),
        (
            {"x": "batch_size", "where": {"run_id": "none-32-32", "seed": 0}},
            "figure: nothing finished with .* \\(1 failed\\)",
        ),
    ],
)
def test_mistakes_are_one_line(runs, panel, message):
    with pytest.raises(UserError, match=message if "(" in message else re.escape(message)) as error:
        sweep_figure(runs, [panel])
    assert "\n" not in str(error.value)


def test_an_unfinished_study_draws_what_there_is(runs):
    begun = runs.assign(status=runs.status.where(runs.method == "batch", "missing"))
    figure = sweep_figure(begun, [ARMS, ARMS | {"title": "B", "where": {"method": "group"}}])
    words = [text.get_text() for text in figure.axes[1].texts]
    assert "nothing finished yet" in words
    assert not figure.axes[1].lines
    assert figure.axes[0].lines


def test_the_same_seed_twice_is_told(runs):
    with pytest.raises(UserError, match="the same seed twice"):
        sweep_figure(pd.concat([runs, runs]), [ARMS])


def test_other_empty_selections(runs, curves):
    nothing = runs.assign(status="missing")
    for draw in (lambda: curves_figure(curves, nothing), lambda: default_panels(nothing)):
        with pytest.raises(UserError, match="finished"):
            draw()
    with pytest.raises(UserError, match="there are none"):
        sweep_figure(runs, [])


def test_learning_curves_keep_diverged_replicates_at_chance(runs, curves):
    figure = curves_figure(curves, runs, where=ARMS["where"])
    assert [axes.get_title(loc="left") for axes in figure.axes] == [f"batch size {size}" for size in SIZES]
    first = figure.axes[0]
    x, y = line(first, "none").get_data()
    assert list(x) == [1, 2, 3]
    seeds = np.arange(5)
    for i, epoch in enumerate((1, 2, 3)):
        values = np.where((seeds == 3) & (epoch >= 2), 10, 10 + 10 * epoch + seeds)
        mean, *ends = expected(values)
        assert y[i] == pytest.approx(mean)
        assert bars(first, "none")[i] == pytest.approx(ends)
    assert line(first, "_diverged none").get_xydata().tolist() == [[2, 10]]
    assert "2 of 60 replicates not counted: 1 failed, 1 missing." in note(figure)


def test_learning_curves_show_four_values_and_say_so(runs, curves):
    more = pd.concat([runs, *(runs[runs.batch_size == 8].assign(batch_size=size) for size in (16, 64))])
    figure = curves_figure(curves, more, where={"method": "batch"})
    assert [axes.get_title(loc="left") for axes in figure.axes] == [f"batch size {size}" for size in (2, 16, 32, 128)]
    assert "Shown: 4 of 6 values of batch size." in note(figure)


def test_learning_curves_of_words_are_in_the_order_of_the_table(crossed, curves):
    where = {"augment.mixup": 0, "data.input": "raw"}
    figure = curves_figure(curves, crossed, columns="data.noise", where=where)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [f"noise {noise}" for noise in NOISES]


def test_default_panels(runs):
    panels = default_panels(runs)
    assert [(panel["x"], panel["where"]["method"]) for panel in panels] == [
        ("batch_size", ["batch", "group", "none"]),
        ("stats_batch", ["ghost_batch"]),
    ]
    sweep_figure(runs, panels)
    (panel,) = default_panels(runs[runs.batch_size == 128][lambda rows: rows.method != "ghost_batch"])
    assert panel["x"] == "method"
    rates = pd.concat(
        runs[runs.method.isin(["batch", "group"])].assign(lr=rate, model=model)
        for rate in (0.05, 0.1, 0.2, 0.4, 0.8)
        for model in ("resnet8", "vgg")
    )
    panels = default_panels(rates)
    assert {panel["x"] for panel in panels} == {"lr"}
    assert len(panels) == 8  # batch sizes and models
    sweep_figure(rates, panels)
    mixed = pd.concat(
        [runs[runs.method == "batch"], rates[(rates.method == "group") & (rates.batch_size == 2) & (rates.lr == 0.1)]]
    )
    sweep_figure(mixed, default_panels(mixed))


def test_the_same_bytes_each_time(runs, curves, tmp_path):
    before = dict(matplotlib.rcParams)
    for name, draw in {
        "sweep": lambda: sweep_figure(runs, [COUPLED, DECOUPLED], footer="footer"),
        "curves": lambda: curves_figure(curves, runs, where=ARMS["where"]),
    }.items():
        first, second = save(draw(), tmp_path / "a", name), save(draw(), tmp_path / "b", name)
        assert [path.name for path in first] == [f"{name}.png", f"{name}.svg"]
        for a, b in zip(first, second, strict=True):
            assert a.read_bytes() == b.read_bytes()
        assert "<dc:date>" not in first[1].read_text(encoding="utf-8")
        with Image.open(first[0]) as image:
            assert image.info["dpi"] == pytest.approx((200, 200), abs=0.1)
            assert "Software" not in image.info
    assert dict(matplotlib.rcParams) == before


def test_a_name_with_dollars_is_no_mathematics(runs, tmp_path):
    runs["model"] = r"$\frac$ and $x$"
    panel = {**COUPLED, "title": r"A  $\frac$", "lines": "model", "where": {"method": "batch"}, "also": {}}
    figure = sweep_figure(runs, [panel], footer=r"commit $\frac$")
    save(figure, tmp_path, "figure")  # mathematics would be a mistake here, told by a traceback
    assert r"$\frac$ and $x$" in {text.get_text().replace("\n", " ") for text in figure.axes[0].texts}


def test_a_band_may_hold_for_all_points_of_a_line_at_once(runs):
    """Bars stay what they are; of k points each band has the level 0.95^(1/k)."""
    plain, wide = (sweep_figure(runs, [{**ARMS, **more}]) for more in ({}, {"band": "simultaneous"}))
    np.testing.assert_array_equal(bars(plain.axes[0], "batch"), bars(wide.axes[0], "batch"))
    [band] = [c for c in wide.axes[0].collections if c.get_label() == "_band batch"]
    values = runs[(runs.method == "batch") & (runs.batch_size == 2)].test_acc
    ends = stats.t.interval(0.95 ** (1 / 4), 4, loc=values.mean(), scale=stats.sem(values))
    drawn = band.get_paths()[0].vertices
    found = drawn[np.isclose(drawn[:, 0], 2), 1]
    assert (found.min(), found.max()) == pytest.approx(ends)
    assert "bands: 95 % for all of a line (Šidák)" in note(wide).replace("\n", " ")
    assert "Šidák" not in note(plain)
    with pytest.raises(UserError, match="band=wide: choices: pointwise, simultaneous"):
        sweep_figure(runs, [{**ARMS, "band": "wide"}])


def test_other_rows_stand_beside_as_lines_of_their_own(runs):
    """As those of `also`, each word with a pattern of its own; one that is not over is named below."""
    other = runs[runs.method == "batch"].assign(method="batch", lr=0.4, test_acc=lambda rows: rows.test_acc + 5)
    other.loc[other.index[0], ["status", "test_acc"]] = "missing", np.nan
    both = pd.concat([runs, other], ignore_index=True)
    panel = {**ARMS, "where": {**ARMS["where"], "lr": 0.2}, "also": {"test_acc_precise": "precise"}}
    figure = sweep_figure(both, [panel | {"beside": {"twice the rate": {"method": "batch", "lr": 0.4}}}])
    [axes] = figure.axes
    means = both[(both.lr == 0.4)].groupby("batch_size").test_acc.mean()
    np.testing.assert_allclose(line(axes, "batch, twice the rate").get_ydata(), means)
    patterns = {str(line(axes, label)._dash_pattern) for label in ("batch", "batch, precise", "batch, twice the rate")}
    assert len(patterns) == 3
    assert "2 missing" in note(figure)  # with that of the main lines


def test_a_panel_may_have_the_rows_of_several_selections(runs):
    where = [{"method": "batch", "batch_size": [2, 8]}, {"method": ["batch", "group"], "batch_size": 128}]
    [axes] = sweep_figure(runs, [{"x": "batch_size", "where": where}]).axes
    assert list(line(axes, "batch").get_xdata()) == [2, 8, 128]
    assert list(line(axes, "group").get_xdata()) == [128]
    with pytest.raises(UserError, match="no run has method=a or method=b"):
        sweep_figure(runs, [{"x": "batch_size", "where": [{"method": "a"}, {"method": "b"}]}])


PUBLISHED = {"source": "S", "label": "theirs", "over": "batch_size", "values": [[16, 90.0], [2, 65.0]]}


def test_published_figures_are_thin_lines_in_the_look_of_their_method(runs):
    of = [PUBLISHED | {"where": {"method": method}} for method in ("batch", "layer")]
    of.append(of[0] | {"metric": "val_acc"})
    drawn, plain = (
        sweep_figure(runs, [{**ARMS, "published": shown}], published=parse_published(of)) for shown in (True, False)
    )
    thin = [line for line in drawn.axes[0].lines if line.get_label() == "_thin theirs"]
    assert [list(line.get_xydata().ravel()) for line in thin] == [[2, 65, 16, 90]] * 2
    assert [to_hex(line.get_color()) for line in thin] == [METHODS["batch"].colour.lower(), "#808080"]
    assert all(line.get_linewidth() < 1 for line in thin)
    assert drawn.axes[0].get_ylim()[1] > 90 > plain.axes[0].get_ylim()[1]
    assert "Thin lines: published figures." in note(drawn)
    assert "Thin lines" not in note(plain)
    assert [text.get_text() for text in drawn.axes[0].texts if text.get_label() == "n"] == ["n = 4–5 per point"]


@pytest.mark.parametrize(("values", "plainly"), [([0.35, 0.9], True), ([0.001, 10], False)])
def test_an_axis_of_less_than_a_decade_has_digits_that_can_be_read(values, plainly):
    figure, [axes] = layout.grid_of(1)
    axes.plot([1, 2], values)
    layout.log_y(axes)
    figure.canvas.draw()
    told = [tick.get_text() for which in ("major", "minor") for tick in axes.yaxis.get_ticklabels(which=which)]
    assert any(told)
    assert not any("times" in text for text in told)
    assert ("mathdefault" not in "".join(told)) == plainly
