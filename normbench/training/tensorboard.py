"""TensorBoard: scalars, histograms of γ and of the gradients, hparams; one event file a session, no extra runs.

Importing this takes a second: only runs that log do.
"""

import itertools
import math
import os
import socket
import time
from contextlib import suppress
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import histogram, hparams, scalar

from normbench.config.files import flatten
from normbench.norms.plain import Norm
from normbench.records.directory import RunDirectory
from normbench.records.files import plainly
from normbench.records.metrics import PLACES, headlines


class EventFile:
    """A TensorBoard event file, written in this thread: torch's SummaryWriter has one of its own, which dies of a full
    disk with a traceback. Raises OSError.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns() // 10**9}.{socket.gethostname()}.{os.getpid()}.{next(_COUNT)}"
        self.file = open(folder / name, "xb")  # noqa: SIM115 (open for as long as the run)
        self.records = RecordWriter(self.file)
        self.add(file_version="brain.Event:2")

    def add(self, **content) -> None:
        self.records.write(Event(wall_time=time.time(), **content).SerializeToString())

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        self.file.close()


_COUNT = itertools.count()


def logged(folder: Path) -> set[tuple[str, int]]:
    """Tag and step of each scalar in the event files of a folder, as far as each of them can be read."""
    points = set()
    for path in sorted(folder.glob("events.*")):
        with suppress(Exception):  # cut short by a kill, or damaged: what follows cannot be read by anybody
            for event in EventFileLoader(str(path)).Load():
                points |= {(value.tag, event.step) for value in event.summary.value if _is_scalar(value)}
    return points


def _is_scalar(value) -> bool:
    return value.HasField("simple_value") or (value.HasField("tensor") and not value.tensor.tensor_shape.dim)


class Board:
    """Writes the epochs of a run, each session into a file of its own.

    A later session needs no purge (which would take the curves of the other stacks with it): an epoch's scalars are
    written once its checkpoint is, and no session writes a point that is in the files of the earlier ones.
    """

    def __init__(self, directory: RunDirectory, rows: list[dict] = ()):
        """rows: of the checkpoint, which a session that was killed may have kept without logging them."""
        self.path = directory.path / "tensorboard"
        self.logged = logged(self.path)
        with plainly(self.path):
            self.file = EventFile(self.path)
        self.scalars(rows)

    def scalars(self, rows: list[dict]) -> None:
        """New rows of metrics.csv, a curve a seed of each number that is neither a place nor a time."""
        with plainly(self.path):
            for row in rows:
                for key in [key for key in row if key not in PLACES]:
                    if row[key] is not None and math.isfinite(row[key]):
                        self._scalar(f"{key}/seed{row['seed']}", row[key], row["step"])
            self.file.flush()

    def histograms(self, model, step: int) -> None:
        """γ of every norm layer, and the gradients of every parameter, over all replicates."""
        with plainly(self.path):
            for name, module in model.named_modules():
                if isinstance(module, Norm) and module.weight is not None:
                    self._histogram(f"gamma/{name}", module.weight.detach(), step)
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    self._histogram(f"gradient/{name}", parameter.grad, step)

    def _scalar(self, tag, value, step):
        if (tag, step) not in self.logged:
            self.file.add(step=step, summary=scalar(tag, value))

    def _histogram(self, tag, values, step):
        values = values[values.isfinite()]
        if values.numel():
            self.file.add(step=step, summary=histogram(tag, values.float().cpu(), bins=64))

    def hparams(self, config, result: dict) -> None:
        """The configuration and the means of what stands for a run, within it (add_hparams would make another)."""
        options = {k: v if isinstance(v, int | float | bool | str) else str(v) for k, v in flatten(config).items()}
        entries = result["replicates"]
        told = headlines(config.measure.name)
        means = {
            f"mean/{key}": sum(values) / len(values)
            for key, values in {key: [entry.get(key) for entry in entries] for key in told}.items()
            if None not in values
        }
        with plainly(self.path):
            for summary in hparams(options, means):
                self.file.add(summary=summary)
            for key, value in means.items():
                self._scalar(key, value, 0)

    def close(self) -> None:
        with plainly(self.path):
            self.file.close()
