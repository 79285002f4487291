"""The figures that a measurement has of its own, beside those that any study has."""

from collections.abc import Callable

import pandas as pd
from matplotlib.figure import Figure

from normbench.analysis import gradients_page, landscape_page, matrices_page, mismatch_page, shift_page, step_page
from normbench.analysis.evidence import measured
from normbench.analysis.study import Study
from normbench.records.metrics import MEASUREMENTS, TRAIN

# Measurement → page(runs, series, footer) → its figures, by the names of their files. To add one: a line here.
PAGES: dict[str, Callable[[pd.DataFrame, pd.DataFrame, str], dict[str, Figure]]] = {
    "gradients": gradients_page.figures,
    "matrices": matrices_page.figures,
    "mismatch": mismatch_page.figures,
    "statistics": mismatch_page.errors,
    "shift": shift_page.figures,
    "landscape": landscape_page.figures,  # and of landscape_linear, whose outcomes are among its own
    "step": step_page.figures,
}


def pages(study: Study, footer: str) -> dict[str, Figure]:
    """The figures of the measurements whose outcomes a study's table has, by the names of their files."""
    found: dict[str, Figure] = {}
    for measurement, page in PAGES.items():
        own = [outcome.name for outcome in MEASUREMENTS[measurement] if outcome not in MEASUREMENTS[TRAIN]]
        if measured(study.runs, own):
            found |= page(study.runs, study.series, footer)
    return found
