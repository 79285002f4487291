"""What of a claimed difference is chance of the seeds and what of the test images: a table of summary.md."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from normbench.analysis.cells import told_interval
from normbench.analysis.claims import Claim
from normbench.analysis.evidence import Cell
from normbench.analysis.images import components, images_interval
from normbench.analysis.means import FEWEST
from normbench.analysis.samples import Sample
from normbench.analysis.statistics import FEWEST_RESAMPLED, t_interval
from normbench.records.metrics import HEADLINE
from normbench.words import markdown

HEAD = ["claim", "n", "95 % t", "seeds × images [95 %]", "seeds", "images", "both", "pairing ratio"]
TEXT = (
    "The differences that claims are about, seed by seed, in points: with the interval that takes the test images as "
    f"given and, from {FEWEST_RESAMPLED} seeds on, with that over other images as well. Seeds, images, both: the parts "
    "of its standard error that are other seeds', other images', and those of other seeds on other images."
)
WAYS = {f"{HEADLINE}{way}": way for way in ("", "_precise", "_tta")}  # accuracies that are known image by image


def differences(claims: list[Claim], runs: pd.DataFrame, right: Mapping[tuple[str, int, str], np.ndarray]) -> str:
    """A row a claim on two cells whose replicates are known image by image; empty where there is none.

    right: as `records.correct.correctness` gives it. Raises UserError as `decide` does.
    """
    rows = []
    for claim in claims if right else []:
        cells, _ = claim.kind.cells(claim.place, claim.metric, runs)
        if set(cells) == {"a", "b"} and {cell.metric for cell in cells.values()} <= WAYS.keys():
            rows += _row(claim, cells, right)
    return f"{TEXT}\n\n{markdown(HEAD, 'l' + 'r' * 7, rows)}" if rows else ""


def _row(claim: Claim, cells: dict[str, Cell], right: Mapping) -> list[list[str]]:
    """Of the seeds that both cells have; none where there are too few, or one is not known image by image."""
    sample = Sample(pd.DataFrame({key: cell.values for key, cell in cells.items()}), cells, {}, claim.metric)
    seeds = sorted(sample.x.index)
    found = {key: [right.get((cell.runs[s], s, WAYS[cell.metric])) for s in seeds] for key, cell in cells.items()}
    sizes = {None if one is None else len(one) for arm in found.values() for one in arm}
    if len(seeds) < FEWEST or None in sizes or len(sizes) > 1:
        return []
    a, b = np.stack(found["a"]), np.stack(found["b"])
    over = images_interval(a, b, np.random.default_rng(len(seeds)))
    weights = {"a": 1, "b": -1}
    parts = components(a, b)
    return [
        [
            claim.statement,
            str(len(seeds)),
            told_interval(t_interval(sample.contrast(weights)), "+.2f"),
            f"[{over.low:+.2f}, {over.high:+.2f}]" if len(seeds) >= FEWEST_RESAMPLED else "–",
            *(f"{part:.2f}" for part in parts),
            f"{sample.pairing_ratio(weights):.2f}",
        ]
    ]
