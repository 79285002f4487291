"""How good the replicates are on a set of images: loss, accuracy, calibration; plainly or averaged over views."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

BINS = 15  # of the calibration error, as Guo et al. have them


@dataclass(frozen=True)
class Scores:
    """Of each replicate, lists of R floats: cross-entropy in nats, accuracy and calibration error in percent.

    right: R×n, whether an image was told rightly.
    """

    loss: list[float]
    acc: list[float]
    ece: list[float]
    right: torch.Tensor


@torch.no_grad()
def evaluate(
    forward: Callable,
    images,
    labels,
    inputs,
    replicates: int,
    batch_size: int,
    poll: Callable = lambda: None,
    views: Callable | None = None,
    average: str = "logits",
) -> Scores:
    """Evaluate R replicates in evaluation mode.

    forward: N×(R·3)×32×32 → logits R×N×K. images: uint8 n×32×32×3, labels: n, on the device.
    inputs: data.inputs.Inputs. poll: called before each batch; it may raise to break off. views: of data.views,
    or None for the images as they are; average: of their logits, or of their probabilities. Logits that are not finite
    count as wrong. Of no images every score is 0.
    """
    if not len(labels):
        zeros = [0.0] * replicates
        return Scores(zeros, zeros, zeros, torch.zeros((replicates, 0), dtype=torch.bool))
    loss = torch.zeros(replicates, dtype=torch.float64, device=images.device)
    right, confidence = [], []
    for part, truth in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        poll()
        seen = [part] if views is None else [view.movedim(1, 3) for view in views(part.movedim(3, 1))]
        logits = torch.stack([forward(inputs.repeated(view, replicates)).double() for view in seen])
        if average == "probabilities" and views is not None:
            logits = logits.log_softmax(3).logsumexp(0)  # less a constant, to which softmax is blind
        else:
            logits = logits.mean(0)
        truth = truth.expand(replicates, -1)
        loss += F.cross_entropy(logits.transpose(1, 2), truth, reduction="none").sum(1)
        right.append((logits.argmax(2) == truth) & logits.isfinite().all(2))
        confidence.append(logits.softmax(2).amax(2))
    right, confidence = torch.cat(right, 1), torch.cat(confidence, 1)
    ece = [calibration_error(c, r) for c, r in zip(confidence, right, strict=True)]
    return Scores((loss / len(labels)).tolist(), (100 * right.double().mean(1)).tolist(), ece, right)


def calibration_error(confidence: torch.Tensor, right: torch.Tensor) -> float:
    """Expected calibration error in percent: |accuracy − mean confidence| of each of 15 bins, weighted by their images.

    confidence: (n,), the largest probability of each image; right: (n,), bool. The bins are equally wide and closed
    above. Guo et al. 2017, arXiv 1706.04599, eq. 3. NaN where a confidence is.
    """
    bins = (confidence.double() * BINS).ceil().nan_to_num(1).clamp(1, BINS).long() - 1
    gaps = torch.zeros(BINS, dtype=torch.float64, device=confidence.device)
    gaps.index_add_(0, bins, right.double() - confidence.double())
    return 100 * gaps.abs().sum().item() / len(confidence)
