"""Looks: the colour, marker and pattern of a value, the same in every figure of every study."""

from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from itertools import cycle

import matplotlib
from matplotlib.colors import to_rgb

from normbench.config.files import choices
from normbench.config.keys import INPUTS, NOISES, VIEWS
from normbench.facts import FACTS, Look
from normbench.words import typed

RC = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "text.hinting": "none",  # text as wide at 200 dpi and in svg as it was laid out
    "svg.hashsalt": "normbench",
}


METHODS = {method: facts.look for method, facts in FACTS.items() if facts.look is not None}
# For what is no method, those that differ most in marker and luminance first.
SPARE = ("batch", "group", "none", "skipinit", "layer", "instance", "weight_standardization", "layer2d")
SPARE = (*SPARE, "ghost_batch", "sync_batch", "weight_norm", "noisy_batch", "lp_batch")
SPARE = tuple(METHODS[name] for name in dict.fromkeys([*SPARE, *METHODS]))
# The same for values that have theirs for good; batch's, which most figures have beside them, changes places.
FOR_GOOD = (SPARE[8], *SPARE[1:8], *SPARE[9:], SPARE[0])
SECOND = (0, (2.5, 1.5))
OTHERS = Look("#808080", ".", (0, (2, 2)))  # of what no line of a figure stands for
FURTHER = (SECOND, (0, (1, 1)), (0, (5, 1, 1, 1)))  # of several lines in one look
# Column of texts → the values that a configuration may have there, in their order: each has the look of its place.
CHOICES = {
    "data.input": INPUTS,
    "data.noise": NOISES,
    "data.test_noise": NOISES,
    "augment.name": tuple(choices("augment")),
    "augment.tta": VIEWS,
    "optimizer": tuple(choices("optim")),
}


@contextmanager
def style():
    """The looks of this module alone: neither a matplotlibrc gets in nor do ours get out."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(RC)
        yield


def known_looks(column: str) -> dict[str, Look]:
    """Value → look, of the values of a column that keep theirs wherever they are drawn."""
    return METHODS if column == "method" else dict(zip(CHOICES.get(column, ()), cycle(FOR_GOOD), strict=False))


def looks_of(columns: Mapping[str, Iterable]) -> dict[str, dict[str, Look]]:
    """Column → value as typed → look, of all values that the lines of a figure stand for.

    Known values keep their own, and come first; any others get those looks in turn that none of the known ones has.
    """
    names = {column: list(dict.fromkeys(map(typed, values))) for column, values in columns.items()}
    looks = {
        column: {name: look for name, look in known_looks(column).items() if name in some}
        for column, some in names.items()
    }
    taken = [look for some in looks.values() for look in some.values()]
    spare = cycle([look for look in SPARE if look not in taken] or METHODS.values())
    for column, some in names.items():
        looks[column] |= {name: next(spare) for name in some if name not in looks[column]}
    return looks


def ink(look: Look) -> tuple:
    """The colour of a look darkened, for text."""
    return tuple(0.7 * part for part in to_rgb(look.colour))
