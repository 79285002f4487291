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
    """paper: where the method is defined. batch_statistics: whether what an image becomes depends on its batch.
    all_processes: whether such a statistic goes over the images of all of torchrun's processes. images_option: the
    option that says how many images a statistic takes, of each process's batch, which it divides; None: all of them.
    rate_of: the method whose tuned learning rate it takes where a table has none of its own, None: none.
    look: None: one of those left over.
    """

    paper: str = ""
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
    "batch": Facts("Ioffe & Szegedy 2015, arXiv 1502.03167", batch_statistics=True, look=Look("#0072B2", "o")),
    "group": Facts("Wu & He 2018, arXiv 1803.08494", look=Look("#E69F00", "s", (0, (7, 1.5)))),
    "none": Facts("He et al. 2015, arXiv 1502.01852", look=Look("#000000", "^", (0, (1, 1.2)))),
    "skipinit": Facts("De & Smith 2020, arXiv 2002.10444", look=Look("#D55E00", "D", "-.")),
    "ghost_batch": Facts(
        "Hoffer et al. 2017, arXiv 1705.08741",
        batch_statistics=True,
        images_option="ghost_size",
        rate_of="batch",
        look=Look("#56B4E9", "h", (0, (4, 1, 1, 1, 1, 1))),
    ),
    "sync_batch": Facts(
        "Zhang et al. 2018, arXiv 1803.08904",
        batch_statistics=True,
        all_processes=True,
        rate_of="batch",
        look=Look("#003F63", "H", (0, (10, 2))),
    ),
    "noisy_batch": Facts(
        "Santurkar et al. 2018, arXiv 1805.11604",
        batch_statistics=True,
        rate_of="batch",
        look=Look("#7A5FA8", ">", (0, (2, 1))),
    ),
    "lp_batch": Facts(
        "Santurkar et al. 2018, arXiv 1805.11604",
        batch_statistics=True,
        rate_of="batch",
        look=Look("#5B1F69", "d", (0, (9, 1, 1, 1, 1, 1))),
    ),
    "layer": Facts("Ba et al. 2016, arXiv 1607.06450", look=Look("#009E73", "v", (0, (6, 1, 2, 1)))),
    "layer2d": Facts("Liu et al. 2022, arXiv 2201.03545", look=Look("#00563F", "<", (0, (6, 1, 1, 1)))),
    "instance": Facts("Ulyanov et al. 2016, arXiv 1607.08022", look=Look("#CC79A7", "P", (0, (5, 1)))),
    "weight_norm": Facts("Salimans & Kingma 2016, arXiv 1602.07868", look=Look("#8C8C8C", "p", (0, (3, 1, 1, 1)))),
    "weight_standardization": Facts("Qiao et al. 2019, arXiv 1903.10520", look=Look("#8F8500", "X", (0, (8, 1, 1, 1)))),
    "rescale": Facts("Shao et al. 2020, NeurIPS 33", look=Look("#A3262A", "*", (0, (5, 2, 1, 2)))),
    "fixup": Facts("Zhang et al. 2019, arXiv 1901.09321", look=Look("#7A3B00", "8", (0, (3, 2)))),
    "scaled_ws": Facts("Brock et al. 2021, arXiv 2101.08692", look=Look("#4B4B8F", "1", (0, (7, 2, 2, 2)))),
    "mean_field": Facts("Yu & Spiliopoulos 2022, arXiv 2209.01018", look=Look("#5C6B2F", "2", (0, (2, 2, 6, 2)))),
}


def scaled_momentum(images: int) -> float:
    """The weight of a new batch with which running averages reach over as many images as 0.1 does at batch size 128."""
    return 1 - 0.9 ** (images / 128)


def facts_of(method: str) -> Facts:
    """The facts of the method of that name."""
    return FACTS.get(method, Facts())
