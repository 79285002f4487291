"""What a run shows while it works: a live bar on a terminal, a line an epoch in a log."""

import sys
import time
from contextlib import suppress

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from normbench.console import Console
from normbench.words import duration

FIRST = 3  # seconds of steps after which a log says how long it may take, where that is longer than
SHORT = 20  # seconds


class Display:
    """style: auto, bar, lines or none. total: steps of the whole run; `done` of them lie in earlier sessions.

    epochs: that these steps make, None where they make none. images_per_step: 0 where steps are no batches of images.
    """

    def __init__(self, style: str, name: str, epochs: int | None, total: int, done: int, images_per_step: int):
        self.console = Console(file=sys.stderr)
        if style == "auto":
            style = "bar" if self.console.is_terminal else "lines"
        self.style, self.name, self.epochs = style, name, epochs
        self.total, self.done, self.first, self.images_per_step = total, done, done, images_per_step
        self.started = self.shown = time.monotonic()
        self.val = "–"
        self.foretold = style != "lines"
        self.bar = None
        if style == "bar":
            self.bar = Progress(
                # On a narrow terminal it is the run's name that gives way.
                TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
                BarColumn(bar_width=12),
                TextColumn("{task.percentage:>3.0f} %"),
                TextColumn("{task.fields[rest]}", table_column=Column(no_wrap=True)),
                TimeRemainingColumn(compact=True),
                console=self.console,
                transient=True,
                expand=True,
            )
            self.task = self.bar.add_task(name, total=total, completed=done, rest="")
            self.bar.start()

    def step(self, epoch: int = 0, loss=None) -> None:
        """One step done; loss: a function giving the mean loss since the last rows, read a few times a second."""
        self.done += 1
        now = time.monotonic()
        if not self.foretold and now - self.started > FIRST:
            self.foretold = True
            if self.left() > SHORT:
                self.print(f"{self.name}: {self.total} steps, about {duration(self.left())} left")
        if self.bar is None or now - self.shown < 0.25:
            return
        self.shown = now
        parts = [] if self.epochs is None else [f"epoch {epoch + 1}/{self.epochs}"]
        parts += [] if loss is None else [f"loss {loss():.3f} · val {self.val}"]
        parts += [f"{self.speed():,.0f} images/s"] if self.images_per_step else [f"{self.done} of {self.total}"]
        self.bar.update(self.task, completed=self.done, rest=" · ".join(parts))

    def speed(self) -> float:
        """Images a second, replicates counted, over this session (evaluation and all)."""
        return (self.done - self.first) * self.images_per_step / max(time.monotonic() - self.started, 1e-9)

    def left(self) -> float:
        """Seconds, at the speed of this session."""
        return (self.total - self.done) * (time.monotonic() - self.started) / max(self.done - self.first, 1)

    def rows(self, rows: list[dict]) -> None:
        """New rows of metrics.csv, one a replicate."""
        self.foretold = True  # by the line below
        if not rows or "val_acc" not in rows[0]:
            return
        self.val = f"{_mean(rows, 'val_acc'):.1f} %"
        if self.style != "lines":
            return
        many = "" if len(rows) == 1 else f" (mean of {len(rows)} replicates)"
        self.print(
            f"{self.name}  epoch {rows[0]['epoch']}/{self.epochs}  train loss {_mean(rows, 'train_loss'):.3f}"
            f"  val loss {_mean(rows, 'val_loss'):.3f}  val acc {self.val}{many}"
            f"  {self.speed():,.0f} images/s  {duration(self.left())} left"
        )

    def print(self, line: str) -> None:
        if self.style != "none":
            with suppress(OSError):  # nobody listens any more: no reason for the run to fail
                self.console.print(line, highlight=False, soft_wrap=True)

    def close(self) -> None:
        if self.bar is not None:
            with suppress(OSError):
                self.bar.stop()


def _mean(rows, key):
    return sum(row[key] for row in rows) / len(rows)
