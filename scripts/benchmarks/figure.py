"""The table of training steps as a figure: a panel a case, a bar a contestant."""

from pathlib import Path

from matplotlib.figure import Figure

GREYS = {"plain": "0.25", "bare": "0.45", "JAX": "0.6", "torch kernels": "0.78", "native kernels": "0.9"}
COLUMNS = 3


def draw(rows: list[dict], machine: str, path: Path) -> None:
    """rows: of the benchmark `train`. Bars: × the plain loop's speed; beside them the share."""
    cases = list(dict.fromkeys(row["case"] for row in rows))
    lines = -(-len(cases) // COLUMNS)
    most = max(sum(row["case"] == case for row in rows) for case in cases)
    figure = Figure(figsize=(12, lines * (0.6 + 0.27 * most)), layout="constrained")
    panels = figure.subplots(lines, COLUMNS, squeeze=False, sharex=True).flat
    for axes, case in zip(panels, cases, strict=False):
        own = [row for row in rows if row["case"] == case][::-1]
        for place, row in enumerate(own):
            shade = next((grey for word, grey in GREYS.items() if word in row["contestant"]), "1")
            hatch = "//" if "replicates" in row["contestant"] else None
            axes.barh(place, row["over_plain"], color=shade, edgecolor="black", linewidth=0.6, hatch=hatch)
            words = f" {row['over_plain']:.2f} ({row['share_of_matrix_product']:.0%})"
            axes.text(row["over_plain"], place, words, va="center", fontsize=8)
        axes.set_yticks(range(len(own)), [row["contestant"].removeprefix("normbench, ") for row in own], fontsize=8)
        axes.axvline(1, color="black", linewidth=0.6)
        axes.set_title(case, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in figure.axes[len(cases) :]:
        axes.remove()
    axes = figure.axes[0]
    axes.set_xlim(0, 1.3 * max(row["over_plain"] for row in rows))
    figure.supxlabel(
        "speed, a replicate, over the plain PyTorch loop's (in brackets: share of the best matrix product)\n"
        f"{machine}",
        fontsize=9,
    )
    figure.savefig(path, dpi=150)
