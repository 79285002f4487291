"""How long the steps of a training take, evaluations left out."""

import statistics
import time

import torch

TIMED_STEPS = 20  # steps between two readings of the clock


class Clock:
    """Training time, without evaluation, and the time in all; the device is waited for at each reading."""

    def __init__(self, device: str):
        self.cuda = device if device != "cpu" else None
        self.started, self.blocks, self.steps = time.perf_counter(), [], 0
        # Seconds of earlier sessions; those in training, of all epochs and of the one under way, until `mark`.
        self.before, self.training, self.epoch_seconds, self.mark = 0.0, 0.0, 0.0, self.started
        self.block_start = self.started

    def go_on(self, saved: dict) -> None:
        """After earlier sessions. saved: as `seconds` gave it."""
        self.before, self.training, self.epoch_seconds = saved["total"], saved["training"], saved["epoch"]

    def seconds(self) -> dict:
        """What a later session needs."""
        self._count()
        return {"total": self.total(), "training": self.training, "epoch": self.epoch_seconds}

    def now(self):
        if self.cuda:
            torch.cuda.synchronize(self.cuda)
        return time.perf_counter()

    def _count(self):
        """Add what has passed since the last mark, unless that was in a pause."""
        if self.mark is not None:
            now = time.perf_counter()
            self.training, self.epoch_seconds = self.training + now - self.mark, self.epoch_seconds + now - self.mark
            self.mark = now

    def step(self):
        self.steps += 1
        if self.steps % TIMED_STEPS == 0:
            now = self.now()
            self.blocks.append((now - self.block_start) / TIMED_STEPS)
            self.block_start = now

    def pause(self):
        """An evaluation begins."""
        self.paused = self.now()
        self._count()
        self.mark = None

    def resume(self):
        """It is over: left out of training time and of the block of steps under way, though not of the total."""
        self.mark = time.perf_counter()
        self.block_start += self.mark - self.paused

    def next_epoch(self):
        self._count()
        self.epoch_seconds = 0.0

    def total(self) -> float:
        """Seconds since the run began, earlier sessions included."""
        return self.before + time.perf_counter() - self.started

    def ms_per_step(self) -> float | None:
        """The median over blocks of steps, the first left out as warm-up; None in a session too short for one."""
        blocks = self.blocks[1:] or self.blocks
        return 1000 * statistics.median(blocks) if blocks else None

    def images_per_second(self, config, replicates) -> float | None:
        ms = self.ms_per_step()
        return None if ms is None else 1000 * config.batch_size * replicates / ms

    def summary(self, config, replicates) -> dict:
        ms, images = self.ms_per_step(), self.images_per_second(config, replicates)
        return {
            "stack": replicates,
            "ms_per_step": None if ms is None else round(ms, 4),
            "images_per_second": None if images is None else round(images, 1),
        }
