"""TensorBoard: scalars, histograms of γ and of the gradients, hparams; one event file a session, no extra runs."""

import math

from normbench.config import flatten
from normbench.records.directory import RunDirectory, plainly


class Board:
    """Writes the epochs of a run. step: the session's first; what an interrupted session wrote beyond it is purged."""

    def __init__(self, directory: RunDirectory, step: int):
        from torch.utils.tensorboard import SummaryWriter  # imported here: only runs that log pay for it

        self.path = directory.path / "tensorboard"
        with plainly(self.path):
            self.writer = SummaryWriter(self.path, purge_step=step if step else None)

    def scalars(self, rows: list[dict]) -> None:
        """One epoch's rows of metrics.csv, a curve a seed."""
        with plainly(self.path):
            for row in rows:
                for key in ("train_loss", "train_acc", "val_loss", "val_acc", "grad_norm", "lr"):
                    if row[key] is not None and math.isfinite(row[key]):
                        self.writer.add_scalar(f"{key}/seed{row['seed']}", row[key], row["step"])
            self.writer.flush()

    def histograms(self, model, step: int) -> None:
        """γ of every norm layer, and the gradients of every parameter, over all replicates."""
        from normbench.norms.plain import Norm

        with plainly(self.path):
            for name, module in model.named_modules():
                if isinstance(module, Norm) and module.weight is not None:
                    self._histogram(f"gamma/{name}", module.weight.detach(), step)
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    self._histogram(f"gradient/{name}", parameter.grad, step)

    def _histogram(self, tag, values, step):
        values = values[values.isfinite()]
        if values.numel():
            self.writer.add_histogram(tag, values.float().cpu(), step)

    def hparams(self, config, result: dict) -> None:
        """The configuration and the mean accuracies, written into this very run (add_hparams would make another)."""
        from torch.utils.tensorboard.summary import hparams

        values = {k: v if isinstance(v, int | float | bool | str) else str(v) for k, v in flatten(config).items()}
        entries = result["replicates"]
        means = {f"mean/{key}": sum(entry[key] for entry in entries) / len(entries) for key in ("val_acc", "test_acc")}
        with plainly(self.path):
            for summary in hparams(values, means):
                self.writer.file_writer.add_summary(summary)
            for key, value in means.items():
                self.writer.add_scalar(key, value, 0)

    def close(self) -> None:
        with plainly(self.path):
            self.writer.close()
