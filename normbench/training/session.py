"""What a measurement works with: the state that an earlier session kept, checkpoints, rows, the display, signals."""

import time
from collections.abc import Sequence

import numpy as np
import torch

from normbench.records.directory import RunDirectory
from normbench.records.metrics import COLUMNS
from normbench.signals import Stopped
from normbench.training.progress import Display


class Session:
    """The work of one process on one run, a stack of replicates after the other.

    kept: the content of the checkpoint. `finished`: a list of stacks with their seeds, entries, rows, model and which
    test images were told rightly; `current`: the state of the stack under way, as its measurement made it, or None;
    `seeds`: those of that stack.
    """

    def __init__(self, config, directory: RunDirectory, processes, request, kept: dict):
        """request: a signals.StopRequest."""
        self.config, self.directory, self.processes, self.request = config, directory, processes, request
        self.finished, self.current, self.seeds = kept["finished"], kept["current"], kept.get("seeds")
        self.current_rows: list[dict] = []
        self.current_right: dict[str, torch.Tensor] = {}
        self.columns = COLUMNS.get(config.measure.name, ())
        self.board = self.display = None
        self.going_on = False  # from a state of an earlier session, which has yet to prove to fit
        self.kept_at = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.display is not None:
            self.display.close()
        if self.board is not None:
            self.board.close()

    # --- What a measurement calls. ---

    @property
    def saved(self) -> dict | None:
        """The state that an earlier session left of this stack, to go on from."""
        self.going_on = self.current is not None
        return self.current

    def begin(self, seeds, steps: int, done: int, rows=(), *, images: int = 0, epochs: int | None = None) -> None:
        """A stack starts, or goes on after `done` of its steps.

        rows: that an earlier session made of it. images: of a step, all replicates counted. epochs: in its steps.
        """
        self.seeds, self.current_rows, self.going_on = list(seeds), list(rows), False
        if not self.processes.first:
            return
        if self.display is not None:
            self.display.close()
        name = self.directory.path.name
        if len(seeds) < self.config.replicates:
            name += f" seed {seeds[0]}" + (f"–{seeds[-1]}" if len(seeds) > 1 else "")
        self.display = Display(self.config.logging.progress, name, epochs, steps, done, images)
        if done:
            self.display.print(f"{name}: going on from step {done} of {steps}")
        self._open_board()

    def step(self, epoch: int, state, loss=None) -> None:
        """A step is done; stops here if a signal asked for it.

        epoch: it belongs to, counted from 0. state: a function that gives all that a later session needs. loss: one for
        the mean loss since the last row, for the display.
        """
        if self.display is not None:
            self.display.step(epoch, loss)
        if time.monotonic() - self.kept_at >= self.config.checkpoint_seconds and self.processes.first:
            self.current = state()
            self.keep()
        self.poll(state)

    def poll(self, state) -> None:
        """Stop here, with a checkpoint, if a signal asked for it."""
        if self.processes.agree(bool(self.request)):
            self.current = state()
            self.keep()
            raise Stopped(self.request.number or 15)

    def add(self, rows: list[dict], all_rows: list[dict], state: dict) -> None:
        """New rows of the series. all_rows: of the stack so far, these included; state: at hand, as for `step`."""
        self.current, self.current_rows = state, list(all_rows)
        if not self.processes.first:
            return
        self.write_rows()
        self.keep()
        self.display.rows(rows)
        if self.board is not None:
            self.board.scalars(rows)

    def histograms(self, epoch: int, model, step: int) -> None:
        """The last step of an epoch, counted from 0: its gradients are at hand."""
        every = self.config.logging.histogram_epochs
        if self.board is not None and every and (epoch + 1) % every == 0:
            self.board.histograms(model, step)

    def correct(self, entries: list[dict], right: Sequence[torch.Tensor], way: str = "") -> None:
        """Which test images each replicate told rightly: (images,) each. way: the end of the accuracy's name.

        One that diverged tells none: its accuracy is that of chance.
        """
        for entry, one in zip(entries, right, strict=True):
            if entry["status"] != "diverged":
                self.current_right[f"{entry['seed']}{way}"] = one.cpu()

    # --- What is kept. ---

    def _open_board(self) -> None:
        if self.config.logging.tensorboard and self.board is None:
            from normbench.training.tensorboard import Board

            self.board = Board(self.directory, self.rows())

    def log_result(self, result: dict) -> None:
        """TensorBoard's summary of the run, also where all that was left of it is to conclude."""
        self._open_board()
        if self.board is not None:
            self.board.hparams(self.config, result)

    def finish(self, seeds, entries: list[dict], rows: list[dict]) -> None:
        """A stack is done. The model of its last state, if it had one, is kept."""
        model = (self.current or {}).get("model")
        kept = {"seeds": list(seeds), "entries": entries, "rows": rows, "model": model, "right": self.current_right}
        self.finished, self.current, self.current_right, self.seeds = [*self.finished, kept], None, {}, None
        self.keep()

    def rows(self) -> list[dict]:
        """The rows of metrics.csv: those of the stacks that are done, and of the one under way."""
        done = [row for stack in self.finished for row in stack["rows"]]
        return done + (self.current_rows if self.current is not None else [])

    def right(self) -> dict[str, np.ndarray]:
        """The arrays of correct.npz, of the stacks that are done; an earlier version kept none."""
        return {name: one.numpy() for stack in self.finished for name, one in stack.get("right", {}).items()}

    def write_rows(self) -> None:
        self.directory.write_metrics(self.rows(), self.columns)

    def keep(self) -> None:
        if self.processes.first:
            self.directory.save_checkpoint({"finished": self.finished, "current": self.current, "seeds": self.seeds})
            self.kept_at = time.monotonic()
