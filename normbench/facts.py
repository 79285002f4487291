"""What is known of each method without its layers, and so without torch: read by configuration, records and figures.

A method without an entry in FACTS has the defaults: a method of your own needs none.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Look:
    """How a method is drawn, the same in every figure: matplotlib's colour, marker and pattern of the line."""

    colour: str
    marker: str
    pattern: str | tuple = "-"


@dataclass(frozen=True)
class Facts:
    """paper: where the method is defined. formula: what it makes of x; μ and σ² are mean and biased variance, over the
    axes that it names. batch_statistics: whether what an image becomes depends on its batch.
    all_processes: whether such a statistic goes over the images of all of torchrun's processes. images_option: the
    option that says how many images a statistic takes, of each process's batch, which it divides; None: all of them.
    rate_of: the method whose tuned learning rate it takes where a table has none of its own, None: none.
    look: None: one of those left over.
    """

    paper: str = ""
    formula: str = ""
    batch_statistics: bool = False
    all_processes: bool = False
    images_option: str | None = None
    rate_of: str | None = None
    look: Look | None = None

    def statistic_images(self, options: Mapping, batch_size: int, processes: int = 1) -> int:
        """Images that a statistic over a batch takes, if one is taken. options: the method's, by their names."""
        if self.images_option is not None:
            return options[self.images_option]
        return batch_size if self.all_processes else batch_size // processes


# Okabe and Ito's colours, and darker shades of them where those run out. The usual four (batch, group, none, skipinit)
# are spread in luminance. Figures take the methods in this order.
FACTS: dict[str, Facts] = {
    "batch": Facts(
        "Ioffe & Szegedy 2015, arXiv 1502.03167",
        "y = γ(x−μ)/√(σ²+ε) + β, over N, H, W; in evaluation the running averages",
        batch_statistics=True,
        look=Look("#0072B2", "o"),
    ),
    "group": Facts(
        "Wu & He 2018, arXiv 1803.08494",
        "y = γ(x−μ)/√(σ²+ε) + β, over H, W and the channels of a group",
        look=Look("#E69F00", "s", (0, (7, 1.5))),
    ),
    "none": Facts(
        "He et al. 2015, arXiv 1502.01852",
        "y = x",
        look=Look("#000000", "^", (0, (1, 1.2))),
    ),
    "skipinit": Facts(
        "De & Smith 2020, arXiv 2002.10444",
        "shortcut + α·branch, one learned α a branch, 0 at the start",
        look=Look("#D55E00", "D", "-."),
    ),
    "ghost_batch": Facts(
        "Hoffer et al. 2017, arXiv 1705.08741",
        "as batch, over each ghost_size consecutive images",
        batch_statistics=True,
        images_option="ghost_size",
        rate_of="batch",
        look=Look("#56B4E9", "h", (0, (4, 1, 1, 1, 1, 1))),
    ),
    "sync_batch": Facts(
        "Zhang et al. 2018, arXiv 1803.08904",
        "as batch, over the images of all processes",
        batch_statistics=True,
        all_processes=True,
        rate_of="batch",
        look=Look("#003F63", "H", (0, (10, 2))),
    ),
    "noisy_batch": Facts(
        "Santurkar et al. 2018, arXiv 1805.11604",
        "(as batch)·s + m, s and m drawn anew for each channel and value at every step",
        batch_statistics=True,
        rate_of="batch",
        look=Look("#7A5FA8", ">", (0, (2, 1))),
    ),
    "lp_batch": Facts(
        "Santurkar et al. 2018, arXiv 1805.11604",
        "y = γ(x−μ)/√(s²+ε) + β, s a mean or largest absolute deviation, over N, H, W",
        batch_statistics=True,
        rate_of="batch",
        look=Look("#5B1F69", "d", (0, (9, 1, 1, 1, 1, 1))),
    ),
    "layer": Facts(
        "Ba et al. 2016, arXiv 1607.06450",
        "y = γ(x−μ)/√(σ²+ε) + β, over C, H, W",
        look=Look("#009E73", "v", (0, (6, 1, 2, 1))),
    ),
    "layer2d": Facts(
        "Liu et al. 2022, arXiv 2201.03545",
        "y = γ(x−μ)/√(σ²+ε) + β, over C",
        look=Look("#00563F", "<", (0, (6, 1, 1, 1))),
    ),
    "instance": Facts(
        "Ulyanov et al. 2016, arXiv 1607.08022",
        "y = γ(x−μ)/√(σ²+ε) + β, over H, W",
        look=Look("#CC79A7", "P", (0, (5, 1))),
    ),
    "weight_norm": Facts(
        "Salimans & Kingma 2016, arXiv 1602.07868",
        "w = g·v/‖v‖ of each filter",
        look=Look("#8C8C8C", "p", (0, (3, 1, 1, 1))),
    ),
    "weight_standardization": Facts(
        "Qiao et al. 2019, arXiv 1903.10520",
        "w = (v−μ)/√(σ²+ε) of each filter, a norm on the features beside it",
        look=Look("#8F8500", "X", (0, (8, 1, 1, 1))),
    ),
    "batch_renorm": Facts(
        "Ioffe 2017, arXiv 1702.03275",
        "y = γ((x−μ)/√(σ²+ε)·r + d) + β, over N, H, W; r and d what leads to the running averages, within limits",
        batch_statistics=True,
        rate_of="batch",
        look=Look("#1B3A93", "*", (0, (12, 2, 2, 2))),
    ),
    "switchable": Facts(
        "Luo et al. 2018, arXiv 1806.10779",
        "y = γ(x−μ)/√(σ²+ε) + β, μ and σ² learned mixtures of those over H, W, over C, H, W, and over N, H, W",
        batch_statistics=True,
        look=Look("#B5477E", "$W$", (0, (3, 1, 1, 1, 1, 1))),
    ),
    "extended_batch": Facts(
        "Luo et al. 2020, arXiv 2003.05569",
        "y = γ(x−μ)/√(σ²+ε) + β, μ over N, H, W and σ² over N, C, H, W",
        batch_statistics=True,
        rate_of="batch",
        look=Look("#3F8FCB", "$E$", (0, (8, 2))),
    ),
    "online": Facts(
        "Chiley et al. 2019, arXiv 1905.05894",
        "z = γ(x−μ)/√(σ²+ε) + β, μ and σ² of the images before, running; y = z/√(mean z²+ε), over C, H, W",
        look=Look("#6B4226", "8", (0, (1, 2))),
    ),
    "rms": Facts(
        "Zhang & Sennrich 2019, arXiv 1910.07467",
        "y = γx/√(mean x²+ε), over C, or over C, H, W",
        look=Look("#2FB08C", "$R$", (0, (4, 2))),
    ),
    "dyt": Facts(
        "Zhu et al. 2025, arXiv 2503.10622",
        "y = γ·tanh(αx) + β, one learned α a layer",
        look=Look("#595959", "$T$", (0, (2, 2, 6, 2))),
    ),
    "divisive": Facts(
        "Ren et al. 2017, arXiv 1611.04520",
        "y = γv/√(σ²+mean v²) + β, v = x − mean x, over C and a window of positions; σ an option",
        look=Look("#A3A500", "$V$", (0, (1, 1, 4, 1))),
    ),
    "frn": Facts(
        "Singh & Krishnan 2019, arXiv 1911.09737",
        "y = max(γx/√(mean x²+ε) + β, τ), over H, W; τ learned",
        look=Look("#B3261E", "$F$", (0, (10, 1))),
    ),
    "evonorm_s0": Facts(
        "Liu et al. 2020, arXiv 2004.02967",
        "y = γ·x·sigmoid(vx)/√(σ²+ε) + β, over H, W and the channels of a group; v learned; as γx + β ends a branch",
        look=Look("#E8743B", "$S$", (0, (5, 1, 1, 1, 1, 1, 1, 1))),
    ),
    "evonorm_b0": Facts(
        "Liu et al. 2020, arXiv 2004.02967",
        "y = γx/max(√(σ²+ε), vx+√(s²+ε)) + β, σ² over N, H, W, s² over H, W; v learned; as γx + β ends a branch",
        batch_statistics=True,
        look=Look("#8A3B12", "$B$", (0, (7, 3))),
    ),
    "proxy": Facts(
        "Labatie et al. 2021, arXiv 2106.03743",
        "y = (φ(z)−m)/√(s²+ε), z as layer or group; m and s² of φ(γu+β), u normal; φ the activation",
        look=Look("#C9A227", "$P$", (0, (2, 1, 1, 1))),
    ),
    "rescale": Facts(
        "Shao et al. 2020, NeurIPS 33",
        "y = αx + βf(x) of block l of L, α² = 1−β², β² = 1/(l+L); biases before the convolutions",
        look=Look("#A3262A", "$C$", (0, (5, 2, 1, 2))),
    ),
    "fixup": Facts(
        "Zhang et al. 2019, arXiv 1901.09321",
        "y = x + s·f(x), weights × L^(−1/(2m−2)) in branches of m layers, the last ones 0; scalar biases beside each",
        look=Look("#7A3B00", "$U$", (0, (3, 2))),
    ),
    "scaled_ws": Facts(
        "Brock et al. 2021, arXiv 2101.08692",
        "w = g(v−μ)/√(n·σ²) of each filter of n values; y = x + αs·f(x/d), d the deviation that x is expected to have",
        look=Look("#4B4B8F", "$N$", (0, (7, 2, 2, 2))),
    ),
    "mean_field": Facts(
        "Yu & Spiliopoulos 2022, arXiv 2209.01018",
        "y = N^(−γ)·Wx of each layer of N inputs; γ from ½ to 1",
        look=Look("#5C6B2F", "$M$", (0, (2, 2, 8, 2))),
    ),
}


def scaled_momentum(images: int) -> float:
    """The weight of a new batch with which running averages reach over as many images as 0.1 does at batch size 128."""
    return 1 - 0.9 ** (images / 128)


def facts_of(method: str) -> Facts:
    """The facts of the method of that name."""
    return FACTS.get(method, Facts())
