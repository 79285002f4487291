"""What a replicate can come to: its statuses, and its outcomes, each declared here and nowhere else.

To add an outcome, put it into the tuple of its measurement. The columns of runs.csv, the labels and limits of axes and
what claims and tables make of it follow from what it says of itself.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache

# Status of a run or replicate → whether it is over: nothing is left to do for it, and its numbers count.
STATUSES = {
    "finished": True,
    "diverged": True,
    "failed": False,
    "stopped": False,  # it goes on from its checkpoint
    "running": False,
    "missing": False,  # never begun
}
OVER = tuple(status for status, over in STATUSES.items() if over)


def guessing(classes: int) -> float:
    """The accuracy of a guess among so many classes, in percent."""
    return 100 / classes


@dataclass(frozen=True)
class Outcome:
    """A number of a replicate: a column of runs.csv.

    name: of the column. words, unit: for an axis. better: "higher", "lower", or None where neither is. chance: from the
    number of classes to its value at chance, at which a diverged replicate counts; None: such a one has no value.
    whole: an integer. scale: "log" for what is positive and compared by its ratios, else "linear". reached: the outcome
    that is false where the value is only a bound, for a target was not reached (right-censored). sought: the outcome
    that says whether it was looked for at all, by a range test, whatever became of the training beside it. tested: it
    is of the test images, which no tuning study shows.

    In summary.md: table, the one that shows it: "results", "further", or None. head: of its column there. note: on
    what it is. median: the format of its median; None: the mean is shown. digits: the format of a mean.
    On the terminal: printed, the head of its column where a run is over; swept, the same where a sweep is. None: no
    column. An empty head is made of words and unit.
    """

    name: str
    words: str
    unit: str = ""
    better: str | None = None
    chance: Callable[[int], float] | None = None
    whole: bool = False
    scale: str = "linear"
    reached: str | None = None
    sought: str | None = None
    tested: bool = False
    table: str | None = "further"
    head: str = ""
    note: str = ""
    median: str | None = None
    digits: str = ".2f"
    printed: str | None = ""
    swept: str | None = ""

    @property
    def label(self) -> str:
        """Of an axis: `test accuracy (%)`."""
        return f"{self.words} ({self.unit})" if self.unit else self.words

    @property
    def title(self) -> str:
        """Of a column."""
        return self.head or ", ".join(filter(None, (self.words, self.unit)))

    @property
    def limits(self) -> tuple[float, float]:
        """What no axis goes beyond, however wide an interval."""
        return (0, 100) if self.unit == "%" else (float("-inf"), float("inf"))


# What rates are chosen by, without the test set; and what is told where nothing else is asked for.
OBJECTIVE, HEADLINE = "val_acc", "test_acc"

SPLITS = {"train": "training", "val": "validation", "test": "test"}
SCORES = {  # words, unit, better, chance
    "acc": ("accuracy", "%", "higher", guessing),
    "loss": ("loss", "nats", "lower", None),
    "ece": ("ECE", "%", "lower", None),
}
ECE = "ECE: expected calibration error over 15 bins, in percent, mean ± half-width of the 95 % t interval."
# In no table, neither of a study nor on the terminal; in runs.csv alone, or told in a way of its own.
UNSHOWN = {"table": None, "printed": None, "swept": None}
SUMMARY = {"printed": None, "swept": None}  # in summary.md alone
# What the tables and the command show of the scores, by their names.
SHOWN = {
    "val_acc": {"table": "results", "head": "validation", "printed": "val acc %", "swept": "val acc %"},
    "test_acc": {"table": "results", "head": "test", "printed": "test acc %", "swept": "test acc %"},
    "test_acc_precise": {
        "table": "results",
        "head": "test, precise statistics",
        "printed": "test acc %, precise stat.",
        "swept": "precise stat.",
    },
    "test_acc_tta": {"printed": "test acc %, TTA"},
    "val_ece": {"table": "further", "head": "ECE, validation", "note": ECE},
    "test_ece": {"table": "further", "head": "ECE, test", "note": ECE, "printed": "test ECE %"},
}


def _score(split: str, score: str, way: str = "", way_words: str = "") -> Outcome:
    words, unit, better, chance = SCORES[score]
    name = f"{split}_{score}{way}"
    shown = UNSHOWN | SHOWN.get(name, {})
    return Outcome(name, f"{SPLITS[split]} {words}{way_words}", unit, better, chance, tested=split == "test", **shown)


# Of every measurement; and of a whole run.
COST = (
    Outcome("seconds", "time in all of a stack", "s", "lower", scale="log", **UNSHOWN),
    Outcome("train_seconds", "training time of a stack", "s", "lower", scale="log", **UNSHOWN),
    Outcome("stack", "replicates trained side by side", whole=True, **UNSHOWN),
    Outcome("ms_per_step", "time per step of a stack", "ms", "lower", scale="log", **UNSHOWN),
    Outcome("images_per_second", "speed of a stack", "images/s", "higher", scale="log", **UNSHOWN),
)
PEAK_MEMORY = Outcome("peak_memory_mb", "peak memory", "MB", "lower", median=".0f", **UNSHOWN)

TRAINING = (
    Outcome("diverged_epoch", "epoch of divergence", whole=True, **UNSHOWN),
    *(
        _score(split, score, way, words)
        for way, words in (("", ""), ("_precise", ", precise statistics"), ("_tta", ", TTA"))
        for split in ("val", "test")
        for score in SCORES
    ),
    Outcome(
        "train_acc_eval",
        "training accuracy, evaluated",
        "%",
        "higher",
        guessing,
        table="results",
        head="training images",
        note="Training images: accuracy on those of the training split, in evaluation mode and not augmented.",
        **SUMMARY,
    ),
    Outcome(
        "gap",
        "generalization gap",
        "points",
        "lower",
        lambda classes: 0.0,  # both accuracies are at chance
        tested=True,
        head="gap",
        note="Gap: that accuracy less the one on the test images, in points.",
        **SUMMARY,
    ),
    Outcome("tta_gained", "images that TTA turned right", better="higher", whole=True, tested=True, **UNSHOWN),
    Outcome("tta_lost", "images that TTA turned wrong", better="lower", whole=True, tested=True, **UNSHOWN),
    Outcome("tta_p", "McNemar's p of TTA", tested=True, **UNSHOWN),
    Outcome("tta_cost", "evaluation time of TTA", "× plain", "lower", scale="log", **UNSHOWN),
    Outcome(
        "steps_to_target",
        "steps to the target accuracy",
        better="lower",
        whole=True,
        scale="log",
        reached="target_reached",
        head="steps to target",
        note="Steps to target: SGD steps until the validation accuracy reached it, median, and how many replicates did "
        "reach it; one that did not counts with all its steps, and ≥ marks a median that is thus a bound.",
        median=".0f",
        digits=".0f",
        **SUMMARY,
    ),
    Outcome(
        "val_acc_early",
        "validation accuracy early in training",
        "%",
        "higher",
        guessing,
        head="validation, early",
        note="Validation, early: accuracy in percent at the first validation from evaluation.early_acc of training on.",
        **SUMMARY,
    ),
    Outcome("target_reached", "share that reached the target", better="higher", **UNSHOWN),
    Outcome(
        "suggested_lr",
        "suggested learning rate",
        "at batch size 128",
        scale="log",
        sought="lr_found",
        head="suggested rate",
        note="Suggested rate: of a learning rate range test, median, and of how many replicates it suggested one.",
        median=".3g",
        digits=".3g",
        **SUMMARY,
    ),
    Outcome("lr_found", "share with a suggested learning rate", better="higher", **UNSHOWN),
    Outcome(
        "regret",
        "regret of the suggested learning rate",
        "points",
        "lower",
        sought="lr_found",
        tested=True,
        head="regret",
        note="Regret: points of test accuracy between the best rate of the grid, chosen by validation, and the rate of "
        "the grid nearest to the suggested one, mean ± half-width of the 95 % t interval; none where that best rate is "
        "at the edge of the grid.",
        **SUMMARY,
    ),
)

# A range test's own: the same, and told where it is over.
RANGE_TEST = tuple(
    replace(outcome, printed="rate", swept="rate") if outcome.name == "suggested_lr" else outcome
    for outcome in TRAINING
    if outcome.name in ("suggested_lr", "lr_found")
)

MATRICES = ("pixels", "pixels, centred", "channels")  # whose conditions the measurement of inputs tells
INPUTS = (
    Outcome("loss", "loss at the start", "nats", "lower"),
    Outcome("hessian_largest", "largest eigenvalue of the Hessian", "nats", scale="log", digits=".3g"),
    Outcome("hessian_smallest", "smallest eigenvalue of the Hessian", "nats", digits=".3g"),
    Outcome("forward_overflow", "forward overflow in float16", "%", "lower", digits=".3g"),
    Outcome("forward_underflow", "forward underflow in float16", "%", "lower", digits=".3g"),
    Outcome("backward_overflow", "backward overflow in float16", "%", "lower", digits=".3g"),
    Outcome("backward_underflow", "backward underflow in float16", "%", "lower", digits=".3g"),
    Outcome(
        "condition_pixels", "condition number of the pixels", better="lower", scale="log", digits=".3g", printed=None
    ),
    Outcome(
        "condition_centred", "the same less the mean image", better="lower", scale="log", digits=".3g", printed=None
    ),
    Outcome(
        "condition_channels",
        "condition number of the channels",
        better="lower",
        scale="log",
        digits=".3g",
        printed=None,
    ),
)

# What a gradient comes to, of a layer's weight and, with output_ before it, of its output.
BEYOND = 5  # standard deviations
TAILS = ("grad_std", "grad_tails", "grad_max", f"grad_beyond_{BEYOND}")
BINS = tuple(0.25 * place for place in range(-40, 41))  # edges of a histogram, in standard deviations


def _gradient(before: str, of: str, heads: tuple[str | None, ...]) -> tuple[Outcome, ...]:
    """heads: of the terminal's columns, in the order of TAILS."""
    told = (
        (f"standard deviation of the gradient by {of}", "", "log"),
        (f"kurtosis of the gradient by {of}", "", "log"),  # 3 of a normal distribution
        (f"largest gradient by {of}", "standard deviations", "log"),
        (f"gradients by {of} beyond {BEYOND} standard deviations", "%", "linear"),
    )
    return tuple(
        Outcome(f"{before}{name}", words, unit, scale=scale, digits=".3g", printed=head, swept=head)
        for name, (words, unit, scale), head in zip(TAILS, told, heads, strict=True)
    )


GRADIENTS = (
    *_gradient("", "the weight", ("std", "kurtosis", None, None)),
    *_gradient("output_", "the output", ("std, output", None, None, None)),
    *(
        Outcome(
            f"channel_{name}_slope",
            f"growth of the {words} of a channel with depth",
            "powers of ten per 10 layers",
            digits=".3g",
            printed=head,
            swept=head,
        )
        for name, words, head in (("mean", "mean", "mean, growth"), ("std", "standard deviation", None))
    ),
    Outcome("class_share", "share of the logits' gradient on one class", "%", printed="one class %", swept=None),
)

AXES = (
    Outcome("moves_batch", "other images that move an output", "%", printed="images %", swept="images %"),
    Outcome("moves_channels", "other channels that move an output", "%", printed="channels %", swept="channels %"),
    Outcome("moves_space", "other positions that move an output", "%", printed="positions %", swept="positions %"),
)

INVARIANCES = tuple(
    Outcome(f"invariant_{name}", f"share invariant to {words}", printed=head, swept=head, digits=".2g")
    for name, words, head in (
        ("weight_matrix_scale", "re-scaling of the weight matrix", "matrix scale"),
        ("weight_matrix_centre", "re-centring of the weight matrix", "matrix centre"),
        ("weight_vector_scale", "re-scaling of a weight vector", "vector scale"),
        ("data_scale", "re-scaling of the data set", "data scale"),
        ("data_centre", "re-centring of the data set", "data centre"),
        ("case_scale", "re-scaling of a single case", "case scale"),
    )
)

DEPTH = (
    Outcome(
        "gradient_growth",
        "gradient growth, backward",
        "× a layer",
        scale="log",
        digits=".4g",
        printed="gradient, growth",
        swept="gradient, growth",
    ),
    Outcome(
        "gradient_drift", "|ln| of that growth", "nats a layer", "lower", digits=".3g", printed="|ln|", swept="|ln|"
    ),
    Outcome(
        "variance_growth",
        "variance growth, forward",
        "× a layer",
        scale="log",
        digits=".4g",
        printed="variance, growth",
        swept="variance, growth",
    ),
    Outcome("variance_power", "variance growth, as a power of depth", digits=".3g", printed="power", swept="power"),
)

MOMENTS = ("moment_2", "moment_4", "moment_6")  # of the singular values of a product
PRODUCTS_OF_MATRICES = (
    Outcome("condition", "condition number", better="lower", scale="log", digits=".3g"),
    Outcome("singular_largest", "largest singular value", scale="log", digits=".4g", swept="largest"),
    *(
        Outcome(
            name, f"mean of the singular values' power {name[-1]}", scale="log", digits=".4g", printed=None, swept=None
        )
        for name in MOMENTS
    ),
)

GAUSSIAN = tuple(
    Outcome(f"{name}{end}", f"{words}, {place} the norms", unit, "lower", digits=digits, printed=head, swept=head)
    for end, place in (("", "after"), ("_before", "before"))
    for name, words, unit, digits, head in (
        ("rejected", "channels told from normal ones", "%", ".2f", f"not normal %, {place}"),
        ("skewness", "mean magnitude of the skewness", "", ".3g", f"skewness, {place}"),
        ("excess_kurtosis", "mean magnitude of the excess kurtosis", "", ".3g", f"excess, {place}"),
    )
)

SPEED = (
    Outcome(
        "slowdown",
        "time of a product",
        "× that at scale 1",
        "lower",
        scale="log",
        digits=".4g",
        printed="slowdown",
        swept="slowdown",
    ),
    Outcome("product_ms", "median time of a product", "ms", "lower", scale="log", digits=".3g"),
    Outcome("subnormal", "inputs that are subnormal", "%", digits=".3g", printed="subnormal %", swept="subnormal %"),
)

BATCHES = tuple(2**power for power in range(10))  # images, of the statistics that are looked at: 1 to 512
TOLD_BATCHES = (2, 32, 128)  # of those, the ones in the tables
OF_BATCHES = tuple(
    Outcome(
        f"test_acc_batch_{size}",
        f"test accuracy, statistics of {size} test images",
        "%",
        "higher",
        guessing,
        tested=True,
        **({"printed": f"of {size} %", "swept": f"of {size} %"} if size in TOLD_BATCHES else UNSHOWN),
    )
    for size in BATCHES
)
MISMATCH = (
    Outcome(
        "test_acc_running",
        "test accuracy, running averages",
        "%",
        "higher",
        guessing,
        tested=True,
        printed="running %",
        swept="running %",
    ),
    *(outcome for outcome in TRAINING if outcome.name == "test_acc_precise"),
    Outcome(
        "test_acc_evalnorm",
        "test accuracy, EvalNorm's statistics",
        "%",
        "higher",
        guessing,
        tested=True,
        printed="EvalNorm %",
        swept="EvalNorm %",
    ),
    *OF_BATCHES,
)
MATES = (
    *(
        Outcome(
            f"mates_{size}",
            f"spread of a logit over batches of {size}",
            better="lower",
            scale="log",
            table="further" if size in TOLD_BATCHES else None,
            digits=".3g",
            printed=f"spread, {size}" if size in TOLD_BATCHES else None,
            swept=f"spread, {size}" if size in TOLD_BATCHES else None,
        )
        for size in BATCHES[1:]
    ),
    Outcome(
        "mates_slope",
        "slope of that spread over the size of a batch",
        "powers",
        digits=".3f",
        printed="slope",
        swept="slope",
    ),
)
STATISTICS = (
    Outcome(
        "mean_error",
        "error of a batch's mean",
        "standard deviations",
        "lower",
        scale="log",
        digits=".3g",
        printed="error of the mean",
        swept="error of the mean",
    ),
    Outcome(
        "var_error",
        "relative error of a batch's variance",
        "",
        "lower",
        scale="log",
        digits=".3g",
        printed="of the variance",
        swept="of the variance",
    ),
    Outcome(
        "mean_error_slope",
        "slope of the error of the mean over the size of a batch",
        "powers",
        digits=".3f",
        swept=None,
    ),
    Outcome("var_error_slope", "slope of the error of the variance", "powers", digits=".3f", printed=None, swept=None),
    Outcome("image_correlation", "correlation of two positions of an image", digits=".3f", printed="ρ", swept="ρ"),
)

PERCENTILES = (15, 50, 85)  # of a unit's values
SHIFT = (
    *(outcome for outcome in TRAINING if outcome.name in (OBJECTIVE, HEADLINE)),
    *(
        Outcome(name, words, unit, scale=scale, digits=".3g", printed=head, swept=head)
        for name, words, unit, scale, head in (
            ("ics", "change of a gradient by the layers before", "", "log", "‖G−G′‖"),
            ("ics_relative", "change of a gradient over the gradient", "", "log", "over ‖G‖"),
            ("ics_cosine", "cosine of the two gradients", "", "linear", "cosine"),
        )
    ),
    *(
        Outcome(f"{name}{end}", f"{words}, {place} the norm", unit, "lower", scale="log", digits=".3g", **shown)
        for end, place, shown in (("", "after", {}), ("_before", "before", SUMMARY))
        for name, words, unit in (
            ("drift", "way of a unit's median", "widths"),
            ("width_ratio", "largest over least width of a unit's values", ""),
            ("distance", "distance of a unit's values in time", "standard deviations"),
        )
    ),
)
BIASES = (
    Outcome("bias_norm", "norm of the biases at the end", scale="log", digits=".3g", printed="‖b‖", swept="‖b‖"),
    Outcome("bias_growth", "growth of that norm", "powers of the step", digits=".3f", printed="growth", swept="growth"),
    Outcome(
        "loss_ratio",
        "loss at the end over that at the start",
        better="lower",
        scale="log",
        digits=".3g",
        printed="loss ratio",
        swept="loss ratio",
    ),
)

_SMOOTHNESS = (  # along the gradient: geometric means over the looks of a training
    Outcome("loss_range", "range of the loss along the gradient", scale="log", digits=".3g", printed="loss range"),
    Outcome("grad_change", "largest change of the gradient along it", scale="log", digits=".3g", printed="grad change"),
    Outcome("beta", "effective β along the gradient", scale="log", digits=".3g", printed="beta"),
    Outcome("beta_relative", "effective β in units of the weights' norms", scale="log", digits=".3g", **SUMMARY),
)
LANDSCAPE = (
    *_SMOOTHNESS,
    Outcome("mean_variance", "variance of a channel's mean from step to step", scale="log", digits=".3g", **SUMMARY),
    *(
        Outcome(f"{split}_acc_end", f"{words} accuracy at the end", "%", "higher", guessing, printed=head, swept=head)
        for split, words, head in (("train", "training", None), ("val", "validation", "val acc %"))
    ),
)
LANDSCAPE_LINEAR = (*_SMOOTHNESS, Outcome("final_loss", "squared error at the end", better="lower", scale="log"))
STEP = (
    Outcome(
        "exploding_rate",
        "smallest step that explodes the loss",
        better="higher",
        scale="log",
        digits=".3g",
        note="A step that never explodes the loss counts as the longest that was tried, which is a lower bound.",
        printed="explodes at",
    ),
    Outcome(
        "exploding_rate_first", "the same, of the first batch", better="higher", scale="log", digits=".3g", **SUMMARY
    ),
    Outcome("exploded", "batches of which a step explodes the loss", "%", "lower", digits=".3g", printed="explode %"),
    Outcome("best_rate", "step with the least loss", scale="log", digits=".3g", printed="best at"),
    Outcome("best_ratio", "least loss over that of no step", better="lower", scale="log", digits=".3g", **SUMMARY),
)

RECURRENT = (
    Outcome(
        "preactivation_spread",
        "standard deviation of ln‖pre-activation‖ over the steps",
        better="lower",
        scale="log",
        digits=".3g",
        printed="spread",
        swept="spread",
    ),
    Outcome(
        "gradient_back", "gradient at the first step", "× that at the last", scale="log", digits=".3g", printed="back"
    ),
    Outcome("gradient_back_drift", "|ln| of what comes back", "nats", "lower", digits=".3g", **SUMMARY),
)
LAST_LAYER = (Outcome("last_gradient", "gradient by the last layer's weight", scale="log", digits=".4g"),)

TRAIN = "train"  # the measurement of a configuration that names none
# Measurement → its outcomes, in the order of their columns; COST follows. A probe adds its own: a line here.
MEASUREMENTS: dict[str, tuple[Outcome, ...]] = {
    TRAIN: TRAINING,
    "range_test": RANGE_TEST,
    "inputs": INPUTS,
    "gradients": GRADIENTS,
    "axes": AXES,
    "invariances": INVARIANCES,
    "depth": DEPTH,
    "matrices": PRODUCTS_OF_MATRICES,
    "gaussian": GAUSSIAN,
    "speed": SPEED,
    "mismatch": MISMATCH,
    "mates": MATES,
    "statistics": STATISTICS,
    "shift": SHIFT,
    "biases": BIASES,
    "landscape": LANDSCAPE,
    "landscape_linear": LANDSCAPE_LINEAR,
    "step": STEP,
    "recurrent": RECURRENT,
    "last_layer": LAST_LAYER,
}

# The series of a training: what a row of metrics.csv says beside the replicate and the place, and where it stands.
SERIES = (
    _score("train", "loss"),
    _score("train", "acc"),
    _score("val", "loss"),
    _score("val", "acc"),
    _score("val", "ece"),
    Outcome("grad_norm", "norm of the gradient", scale="log", **UNSHOWN),
    Outcome("image_size", "width of the images", "pixels", whole=True, **UNSHOWN),
    Outcome("epoch_seconds", "training time of an epoch", "s", "lower", scale="log", **UNSHOWN),
    COST[0],
)
# The columns of metrics.csv, and those of curves.csv.
METRICS = ("seed", "epoch", "step", "samples", "lr", *(outcome.name for outcome in SERIES))
LOOKS = (
    *("seed", "step", "lr", "loss", "loss_min", "loss_max", "loss_range"),
    *("grad_norm", "grad_change_min", "grad_change", "beta", "beta_relative", "finite"),
)
# The same of other measurements; one that is not here has no series.
COLUMNS = {
    "train": METRICS,
    "range_test": ("seed", "step", "lr", "optimizer_lr", "loss", "smoothed", "smoothed_lr", "diverged"),
    "inputs": ("matrix", "condition", "condition_nonzero", "rank", "features", "rows"),
    "gradients": (
        *("seed", "layer", "channel_mean", "channel_std", *TAILS, *(f"output_{name}" for name in TAILS)),
        *("counts", "output_counts"),  # of the histograms, in the layer that is looked at closely
    ),
    "axes": ("seed", "image", "channel", "row", "column", "moves"),
    "invariances": ("seed", "change", "paper", "invariant", "difference"),
    "depth": ("seed", "layer", "gradient_norm", "variance"),
    "matrices": ("seed", "k", "moment", "fuss_catalan"),
    "gaussian": ("seed", "layer", "place", "channels", "mean", "variance", "skewness", "excess"),
    "speed": ("seed", "pass", "ms", "reference_ms"),
    "mismatch": ("seed", "statistics", "size", "shuffle", "acc"),
    "mates": ("seed", "size", "spread"),
    "shift": (
        *("seed", "step", "layer", "gradient", "change", "cosine"),  # as gradients see it
        *("distance", "distance_before", "unit"),  # as distributions
        *(f"p{share}{end}" for end in ("", "_before") for share in PERCENTILES),
    ),
    "biases": ("seed", "step", "loss", "bias_norm"),
    "statistics": ("seed", "layer", "size", "mean_error", "expected", "var_error", "correlation"),
    "landscape": LOOKS,
    "landscape_linear": LOOKS,
    # Of a batch's relative losses; and of the first batch's way, in percent of it, the channels' moments in a layer.
    "step": ("seed", "batch", "rate", "relative_loss", "layer", "share", "means", "variances"),
    "recurrent": ("seed", "position", "preactivation", "gradient"),
    "last_layer": ("seed", "layer", "gradient"),
}
CURVES = ("run_id", "seed", "epoch", *(outcome.name for outcome in SERIES[:4]))

# Columns that say where a row stands, or what a clock did.
PLACES = ("seed", "epoch", "step", "samples", "image_size", "epoch_seconds", "seconds")


def of_measurement(name: str) -> tuple[Outcome, ...]:
    """The outcomes of a measurement, in the order of their columns."""
    return of_measurements([name])


def of_measurements(names: Iterable[str]) -> tuple[Outcome, ...]:
    """The outcomes of several measurements, each once, in declared order."""
    names = set(names)
    found: dict[str, Outcome] = {}
    for outcome in (*(o for name, some in MEASUREMENTS.items() if name in names for o in some), *COST):
        found.setdefault(outcome.name, outcome)
    return tuple(found.values())


def outcomes() -> dict[str, Outcome]:
    """Name → outcome, of all that there are, series included."""
    every = (*of_measurements(MEASUREMENTS), PEAK_MEMORY, *SERIES)
    return {outcome.name: outcome for outcome in every}


@cache
def flags() -> frozenset[str]:
    """The outcomes that are true or false: whether others were reached, or sought."""
    return frozenset(name for outcome in outcomes().values() for name in (outcome.reached, outcome.sought) if name)


def outcome_of(column: str) -> Outcome:
    """The outcome of that name; of any other column one that has the column for its words and nothing to say."""
    return outcomes().get(column) or Outcome(column, column, **UNSHOWN)


def whole(names: Iterable[str]) -> list[str]:
    """Those of the columns whose values are integers."""
    known = outcomes()
    return [name for name in names if name in known and known[name].whole]


def printed(measurement: str) -> list[Outcome]:
    """What the command shows of each replicate of a run: the accuracies first."""
    shown = [outcome for outcome in of_measurement(measurement) if outcome.printed is not None]
    return sorted(shown, key=lambda outcome: outcome.chance is None)


MOST_SWEPT = 4


def swept(measurements: Iterable[str]) -> list[Outcome]:
    """What the command shows of each run of a sweep: of several measurements the first few, for the width of a line."""
    names = list(dict.fromkeys(measurements))
    some = [[outcome for outcome in of_measurement(name) if outcome.swept is not None] for name in names]
    return list(dict.fromkeys(outcome for shown in some for outcome in shown[: MOST_SWEPT if len(names) > 1 else None]))


def headlines(measurement: str) -> list[str]:
    """The outcomes that stand for a whole run."""
    return [OBJECTIVE, HEADLINE] if measurement == "train" else [outcome.name for outcome in swept([measurement])]


def measurement_of(config) -> str:
    """The measurement of a configuration; before there were others none was named."""
    return (config.get("measure") or {}).get("name", TRAIN)
