"""Loss and accuracy of each replicate on a set of images."""

import torch
from torch.nn import functional as F


@torch.no_grad()
def evaluate(forward, images, labels, inputs, replicates, batch_size, watch=lambda: None):
    """(losses, accuracies): lists of R floats, cross-entropy in nats and percent, of a network in evaluation.

    forward: N×(R·3)×32×32 → logits R×N×K. images: uint8 n×32×32×3, labels: n, on the device.
    inputs: data.inputs.Inputs. watch: called before each batch; it may raise to break off.
    Logits that are not finite count as wrong.
    """
    loss = torch.zeros(replicates, dtype=torch.float64, device=images.device)
    right = torch.zeros_like(loss)
    for part, truth in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        watch()
        logits = forward(inputs.repeated(part, replicates)).double()
        truth = truth.expand(replicates, -1)
        loss += F.cross_entropy(logits.transpose(1, 2), truth, reduction="none").sum(1)
        right += ((logits.argmax(2) == truth) & logits.isfinite().all(2)).sum(1)
    return (loss / len(labels)).tolist(), (100 * right / len(labels)).tolist()
