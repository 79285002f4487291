"""What a run does: train, or measure something of data and networks that needs no training. One file a measurement.

A measurement takes a resolved configuration, a task for the replicates of one stack, and the session; it returns an
entry of result.json a seed, in their order, and the rows of metrics.csv. An entry has at least `seed`, `status`
(finished or diverged) and `seconds`, and the outcomes that `records.metrics` declares under the measurement's name.
To add one: a file here, a line in MEASURES, its outcomes in records/metrics.py, a file conf/measure/NAME.yaml.
"""

from collections.abc import Callable
from dataclasses import dataclass

from normbench.measures import (
    axes,
    biases,
    depth,
    gaussian,
    gradients,
    inputs,
    invariances,
    landscape,
    landscape_linear,
    last_layer,
    mates,
    matrices,
    mismatch,
    range_test,
    recurrent,
    shift,
    speed,
    statistics,
    step,
    train,
)
from normbench.tasks.build import check_network

__all__ = ["MEASURES", "Measurement"]


@dataclass(frozen=True)
class Measurement:
    """measure(config, task, session) → (entries, rows). images: whether it looks at the data set at all.

    check(config, processes): raises InputError for what the keys alone do not show, before any run of a sweep begins.
    """

    measure: Callable[..., tuple[list[dict], list[dict]]]
    images: bool = True
    check: Callable[..., None] = check_network


MEASURES: dict[str, Measurement] = {
    "train": Measurement(train.train),
    "range_test": Measurement(range_test.measure, check=range_test.check),
    "inputs": Measurement(inputs.measure),
    "gradients": Measurement(gradients.measure, check=gradients.check),
    "axes": Measurement(axes.measure, images=False, check=axes.check),
    "invariances": Measurement(invariances.measure, images=False, check=invariances.check),
    "depth": Measurement(depth.measure),
    "matrices": Measurement(matrices.measure, images=False, check=matrices.check),
    "gaussian": Measurement(gaussian.measure, check=gaussian.check),
    "speed": Measurement(speed.measure, images=False, check=speed.check),
    "mismatch": Measurement(mismatch.measure, check=mismatch.check),
    "mates": Measurement(mates.measure, check=mates.check),
    "statistics": Measurement(statistics.measure, check=statistics.check),
    "shift": Measurement(shift.measure, check=shift.check),
    "biases": Measurement(biases.measure, check=biases.check),
    "landscape": Measurement(landscape.measure, check=landscape.check),
    "landscape_linear": Measurement(landscape_linear.measure, images=False, check=landscape_linear.check),
    "step": Measurement(step.measure, check=step.check),
    "recurrent": Measurement(recurrent.measure, check=recurrent.check),
    "last_layer": Measurement(last_layer.measure),
}
