"""The picture of which inputs move an output: a cube of images × channels × positions a method."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from normbench.analysis import layout
from normbench.analysis.looks import style

STILL, MOVES, OUTPUT = "0.94", "#0072B2", "black"  # in grey as well: light, middle, dark
DEPTH = np.array([-0.55, 0.45])  # of a step from one image to the next, in channels to the right and positions up
COLUMNS = 4


def figure(patterns: Mapping[str, pd.DataFrame], footer: str = "") -> Figure:
    """A cube each of these patterns, by its title. A pattern: the rows of metrics.csv of measure=axes, of any seeds.

    The faces are the slices through the output at image 0, channel 0, row 0, column 0, at their common corner.
    """
    with style():
        return _figure(patterns, footer)


def _figure(patterns, footer) -> Figure:
    rows = -(-len(patterns) // COLUMNS)
    columns = min(COLUMNS, len(patterns))
    drawn = Figure(figsize=(9.0 * max(columns, 2) / COLUMNS, 2.3 * rows + 0.5), layout="constrained")
    drawn.get_layout_engine().set(h_pad=0.12)  # inches: the titles of axes without frames reach beyond them
    grid = list(drawn.subplots(rows, columns, squeeze=False).flat)
    for axes in grid[len(patterns) :]:
        axes.remove()
    for axes, (title, pattern) in zip(grid, patterns.items(), strict=False):
        moves = _array(pattern)
        axes.set_title(title, pad=12)
        axes.text(0, 1.02, f"moved by {_along(moves)}", transform=axes.transAxes, fontsize=7, color="0.35")
        _draw(axes, moves.reshape(*moves.shape[:2], -1))
    notes = [
        "Black: an output, and the input in its place. Blue (dark): inputs with a derivative of that output by them "
        "other than 0; grey (light): none. The faces are slices through the output: to the right the channels, "
        "downwards the positions, row by row, to the back the images. Of the norm after a convolution, in float64, in "
        "training mode.",
    ]
    layout.finish(drawn, notes, footer)
    return drawn


def _array(pattern: pd.DataFrame) -> np.ndarray:
    """N×C×H×W, whether an input moves the output for any seed."""
    found = pattern.groupby(["image", "channel", "row", "column"])["moves"].max()
    moves = np.zeros([int(level.max()) + 1 for level in found.index.levels], dtype=bool)
    moves[tuple(np.array(found.index.tolist()).T)] = found.to_numpy() > 0
    return moves


def _along(moves: np.ndarray) -> str:
    """The axes along which other inputs move the output: `n, c in part`."""
    told = []
    for axis, name in enumerate("nchw"):
        others = np.moveaxis(moves, axis, 0).reshape(moves.shape[axis], -1).any(1)[1:]
        if others.any():
            told.append(name if others.all() else f"{name} in part")
    return ", ".join(told) or "its own input alone"


def _draw(axes, moves: np.ndarray) -> None:
    """The three faces that meet in the output. moves: N×C×P."""
    images, channels, places = moves.shape
    right, down, depth = np.array([1.0, 0.0]), np.array([0.0, -1.0]), DEPTH * max(channels, places) / images / 2
    for face, first, second in ((moves[0], right, down), (moves[:, :, 0], depth, right), (moves[:, 0], depth, down)):
        cells = np.array(list(np.ndindex(face.shape)))
        starts = cells[:, :1] * first + cells[:, 1:] * second
        corners = np.stack([starts, starts + first, starts + first + second, starts + second], 1)
        colours = np.where(face.flatten(), MOVES, STILL).tolist()
        colours[0] = OUTPUT
        axes.add_collection(PolyCollection(corners, facecolors=colours, edgecolors="white", linewidths=0.4))
    axes.autoscale_view()
    axes.set_aspect("equal")
    axes.set_axis_off()
