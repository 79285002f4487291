"""The figure of a learning-rate range test: loss over rate, and where the suggestions lie."""

import numpy as np
from matplotlib.figure import Figure

from normbench.analysis import layout
from normbench.analysis.columns import label
from normbench.analysis.looks import SECOND, looks_of, style
from normbench.analysis.lr_curve import LrTest, Suggestion, median_rate


@style()
def lr_figure(test: LrTest, suggestions: dict[int, Suggestion], rule: str, *, title: str, footer: str = "") -> Figure:
    """A thin line for the losses of each replicate, a strong one for their moving average, a marker at its suggestion.

    suggestions: of the test, by seed, by that rule. footer: a line of small print. The loss axis is a log one where the
    averages span more than a factor of ten; above it leaves room for twice what the averages begin with.
    """
    looks = looks_of({"seed": suggestions})["seed"]
    figure, (axes,) = layout.grid_of(1)
    axes.axhline(test.chance, color="0.6", lw=0.8, ls=SECOND, label=f"guessing: {test.chance:.3g}")
    for seed, said in suggestions.items():
        losses, look = test.losses[seed][: said.diverged], looks[str(seed)]
        axes.plot(test.rates[: len(losses)], losses, lw=0.5, alpha=0.35, color=look.colour, label=f"_losses {seed}")
        found = "no rate" if said.lr is None else f"{said.lr:.2g}"
        how = {"color": look.colour, "ls": look.pattern, "lw": 1.4, "zorder": 3, "label": f"seed {seed}: {found}"}
        axes.plot(said.smoothed_rates, said.smoothed, **how)
        if said.lr is not None:
            height = np.interp(said.lr, said.smoothed_rates, said.smoothed)
            how = {"color": look.colour, "mec": "white", "ms": 7, "zorder": 4, "label": f"_suggestion {seed}"}
            axes.plot([said.lr], [height], look.marker, **how)
        if said.diverged is not None:
            how = {"transform": axes.get_xaxis_transform(), "clip_on": False, "label": f"_diverged {seed}"}
            axes.plot([test.rates[said.diverged]], [1], "x", color=look.colour, ms=5, mew=1.3, **how)
    median = median_rate(suggestions.values())
    if median is not None:
        axes.axvline(median, color="0.4", lw=0.8, label=f"median: {median:.2g}")

    averages = np.concatenate([said.smoothed for said in suggestions.values()] + [[test.chance]])
    firsts = [said.smoothed[: len(test.rates) // 10] for said in suggestions.values()]
    low, high = averages.min(), min(averages.max(), 2 * np.concatenate([*firsts, [test.chance]]).max())
    if high > 10 * low:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.2, high * 1.2)
    else:
        axes.set_ylim(low - 0.1 * (high - low) - 0.05, high + 0.1 * (high - low) + 0.05)
    axes.set_xscale("log")
    axes.set_xlim(test.rates[0], test.rates[-1])
    axes.set_xlabel(f"{label('lr')[:-1]}, log scale)")
    axes.set_ylabel(label("train_loss"))
    axes.set_title(title, pad=14)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=7, frameon=False)
    key = (
        "Thin: loss of each batch. Strong: moving average over a twentieth of the range, at the average of its rates. "
        f"Markers: suggestions ({rule}). × above: diverged there. "
        f"The optimizer gets {test.optimizer_rates[0] / test.rates[0]:.3g} times the rate shown."
    )
    seeds = {}
    for seed, said in suggestions.items():
        seeds.setdefault(said.verdict, []).append(str(seed))
    verdicts = [f"Seed {', '.join(some)}: {verdict}." for verdict, some in seeds.items()]
    layout.finish(figure, [key, *verdicts], footer)
    return figure
