"""One look a value: in every panel, figure and study."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb

from normbench.analysis.figures import curves_figure, sweep_figure
from normbench.analysis.looks import CHOICES, METHODS, known_looks, looks_of
from normbench.analysis.study import study_of
from normbench.words import typed

ROOT = Path(__file__).parents[2]
STUDIES = sorted(path.parent.name for path in (ROOT / "results").glob("*/runs.csv"))


def drawn(axes, value) -> set:
    """Colour and marker of the lines of that name."""
    lines = [line for line in axes.lines if line.get_label() == value]
    return {(to_hex(line.get_color()), line.get_marker()) for line in lines}


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """(column, value) → the looks that it has in the figures of all studies."""
    found = {}
    for name in STUDIES:
        study = study_of(name, ROOT / "results" / name)
        wanted = study.says("figure")
        panels = wanted["panels"]
        figure = sweep_figure(study.runs, panels)
        parts = [(panel.get("lines", "method"), [axes]) for panel, axes in zip(panels, figure.axes, strict=True)]
        if curves := wanted.get("curves"):
            parts.append((curves.get("lines", "method"), curves_figure(study.curves, study.runs, **curves).axes[:2]))
        for column, grid in parts:
            for value in map(typed, study.runs[column].unique()):
                looks = found.setdefault((column, value), set())
                looks |= {look for axes in grid for look in drawn(axes, value)}
    return found


def test_a_value_has_one_look_in_all_figures_of_all_studies(seen):
    known = {key: looks for key, looks in seen.items() if key[0] == "method" or key[0] in CHOICES}
    assert {("data.input", "zscore"), ("data.input", "raw"), ("method", "batch")} <= set(known)
    for (column, value), looks in known.items():
        look = known_looks(column)[value]
        assert looks <= {(look.colour.lower(), look.marker), (look.colour.lower(), "None")}, (column, value)
    assert any(len(looks) for (column, _), looks in known.items() if column == "data.input")


@pytest.mark.parametrize("column", CHOICES)
def test_known_values_differ_in_marker_and_colour_and_read_in_grey(column):
    looks = known_looks(column)
    assert list(looks) == list(CHOICES[column])
    assert len(looks) <= len(METHODS)
    assert len({look.marker for look in looks.values()}) == len({look.colour for look in looks.values()}) == len(looks)
    eight = list(known_looks("data.input").values())
    grey = [np.dot(to_rgb(look.colour), [0.299, 0.587, 0.114]) for look in eight]
    assert max(grey) - min(grey) > 0.5
    assert sum(look.marker in "ohHp" for look in eight) == 1  # these four look alike
    assert METHODS["batch"] not in eight  # batch normalization stands beside them in most figures


def test_a_look_depends_neither_on_the_company_nor_on_the_order():
    alone = looks_of({"data.input": ["zscore"]})["data.input"]["zscore"]
    for others in (["raw", "zscore"], ["zscore", "three_sigma", "raw"]):
        assert looks_of({"data.input": others, "method": ["batch", "none"]})["data.input"]["zscore"] == alone


def test_values_that_nobody_knows_take_what_the_known_ones_leave():
    looks = looks_of({"method": ["batch", "mine"], "data.label_noise": [0.0, 0.2, 0.4]})
    taken = [look for some in looks.values() for look in some.values()]
    assert len(taken) == len(set(taken)) == 5
    assert list(looks["data.label_noise"]) == ["0", "0.2", "0.4"]
