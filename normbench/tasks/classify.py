"""Which class an image shows: cross-entropy, accuracy, calibration."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch.nn import functional as F

from normbench.config.sizes import PRECISE_BATCH
from normbench.config.values import to_yaml
from normbench.data.cache import dataset
from normbench.data.epoch import Epoch, Mix, image_size, with_border
from normbench.data.inputs import DTYPES, Inputs, resized
from normbench.processes import ALONE, Processes
from normbench.tasks.build import make_model
from normbench.tasks.scores import evaluate


@dataclass(frozen=True)
class Batch:
    """Inputs N×(R·3)×32×32, labels R×N, and what they were mixed with, or None."""

    inputs: torch.Tensor
    labels: torch.Tensor
    mix: Mix | None


class Classify:
    """The classes of a configured data set, for a replicate a seed. See tasks.Task."""

    score_unit = 100.0  # from the share of right answers to percent

    def __init__(self, config, seeds, device: str, processes: Processes = ALONE, data=None):
        """config: resolved. data: a Dataset whose tensors lie on `device`; the configured one where it is left out."""
        self.config, self.seeds, self.device, self.processes = config, list(seeds), device, processes
        self.replicates, self.dtype = len(self.seeds), DTYPES[config.precision]
        if data is not None:
            self.data = data
        self.epoch = None

    @cached_property
    def data(self):
        return dataset(self.device, to_yaml(self.config.data))

    def load(self):
        _ = self.data

    @cached_property
    def steps_per_epoch(self) -> int:
        return len(self.data.train_labels) // self.config.batch_size

    def network(self, seeds):
        return make_model(self.config, seeds)

    # --- Training. ---

    @cached_property
    def inputs(self) -> Inputs:
        return self._inputs(self.data.channel_scale)

    @cached_property
    def border(self) -> torch.Tensor:
        return with_border(self.data.train_images, self.config.augment.crop)

    def first_inputs(self, count):
        return self.inputs.repeated(self.data.train_images[:count], self.replicates)

    def batch(self, epoch, at) -> Batch:
        if self.epoch is None or self.epoch.number != epoch:
            part = (self.processes.rank, self.processes.count)
            self.epoch = self._epoch(epoch, self.config.batch_size, part)
        images, labels, mix = self.epoch.batch(at)
        x = self.inputs(images)
        return Batch(x if mix is None else mix.inputs(x, self.inputs(mix.images)), labels, mix)

    def losses(self, network, batch, share):
        logits = network(resized(batch.inputs, self.form(share)))
        smoothing = self.config.augment.label_smoothing
        losses, right = mean_losses(logits, batch.labels, smoothing), right_answers(logits.detach(), batch.labels)
        if batch.mix is not None:
            losses = batch.mix.weighted(losses, mean_losses(logits, batch.mix.labels, smoothing))
            right = batch.mix.weighted(right, right_answers(logits.detach(), batch.mix.labels))
        return losses, right

    def form(self, share):
        return image_size(self.config.augment.resize, share)

    def series(self, loss, score, share):
        return {"image_size": self.form(share), "train_loss": loss, "train_acc": score}

    # --- Evaluation. ---

    @cached_property
    def test_inputs(self) -> Inputs:
        return self._inputs(self.data.test_channel_scale)

    def scores(self, network, split, poll, views=None):
        images, labels = getattr(self.data, f"{split}_images"), getattr(self.data, f"{split}_labels")
        size = max(1, self.config.evaluation.batch_size // self.replicates)
        inputs = self.inputs if split == "train" else self.test_inputs
        how = {"views": views, "average": self.config.augment.tta_average}
        network.model.eval()
        with network.precision():
            found = evaluate(network.forward, images, labels, inputs, self.replicates, size, poll, **how)
        return [
            {"acc": acc, "loss": loss, "ece": ece, "right": right}
            for acc, loss, ece, right in zip(found.acc, found.loss, found.ece, found.right, strict=True)
        ]

    def lost_scores(self):
        return {"acc": 100 / self.data.num_classes, "loss": None, "ece": None}

    def population(self, count, augmented):
        images = self.data.train_images[:count]
        size = min(PRECISE_BATCH, len(images))
        if not augmented:
            yield from (self.inputs.repeated(part, self.replicates) for part in images.split(size))
        else:  # one more epoch's draws: images in another order, cropped and flipped anew
            draws = self._epoch(self.config.epochs, size)
            yield from (self.inputs(draws.batch(step)[0]) for step in range(len(images) // size))

    def _inputs(self, channel_scale) -> Inputs:
        data = self.data
        return Inputs(self.config.data.input, data.mean, data.std, self.device, self.dtype, channel_scale)

    def _epoch(self, number, batch_size, part=(0, 1)) -> Epoch:
        return Epoch(self.border, self.data.train_labels, self.seeds, number, self.config.augment, batch_size, part)


def right_answers(logits, labels):
    """The share of each replicate's batch that it tells rightly: logits R×N×K, labels R×N, result R."""
    return (logits.argmax(2) == labels).double().mean(1)


def mean_losses(logits, labels, label_smoothing=0.0):
    """Cross-entropy of each replicate, averaged over its batch: logits R×N×K, labels R×N, result R."""
    replicates, n = labels.shape
    losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=label_smoothing, reduction="none")
    return losses.view(replicates, n).mean(1)


def batch_loss(model, x: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """The training loss of one replicate on one batch, in nats. x: N×3×H×W, labels: N."""
    return mean_losses(model(x), labels.unsqueeze(0), label_smoothing).sum()
