"""From uint8 images to the network's inputs: input normalization, for one replicate or many side by side."""

from collections.abc import Callable

import torch
from torch.nn import functional as F

from normbench.errors import require_choice

# Precision of a run → the format of inputs, parameters and statistics; bfloat16 computes in it what autocast does.
DTYPES = {"float32": torch.float32, "bfloat16": torch.float32, "float64": torch.float64}
# No spread of 8-bit grey levels other than 0 lies below this (the least standard deviation, one pixel of 3,072 off by
# one, is 0.018), so as a lower limit of divisors it changes constant images alone: they become constants, not NaN.
LEAST_SPREAD = 0.01


def per_image(x: torch.Tensor) -> torch.Tensor:
    """(x − μ)/σ, μ and σ over the pixels and channels of each image: mean 0, standard deviation 1."""
    centred = x - x.mean((1, 2, 4), keepdim=True)
    return centred / centred.square().mean((1, 2, 4), keepdim=True).sqrt().clamp(min=LEAST_SPREAD)


def min_max(x: torch.Tensor) -> torch.Tensor:
    """(x − min)/(max − min) over each image: its darkest value becomes 0, its brightest 1."""
    low, high = x.amin((1, 2, 4), keepdim=True), x.amax((1, 2, 4), keepdim=True)
    return (x - low) / (high - low).clamp(min=LEAST_SPREAD)


def percentile(x: torch.Tensor) -> torch.Tensor:
    """(x − p₁)/(p₉₉ − p₁), clipped to 0…1; p₁ and p₉₉ are the 1st and 99th percentile of each image.

    Percentiles are interpolated linearly between order statistics, numpy's default. Kociołek et al. 2020, doi
    10.1016/j.compmedimag.2020.101716 (1–99 %).
    """
    values = x.movedim(3, 1).flatten(2)  # N×R×(pixels and channels of an image)
    position = 0.01 * (values.shape[2] - 1)
    below, part = int(position), position % 1
    ends = []
    for largest in (False, True):
        extreme = values.topk(below + 2, largest=largest).values  # from the outermost inwards
        ends.append(torch.lerp(extreme[..., below], extreme[..., below + 1], part)[:, None, None, :, None])
    low, high = ends
    return ((x - low) / (high - low).clamp(min=LEAST_SPREAD)).clamp(0, 1)


def three_sigma(x: torch.Tensor) -> torch.Tensor:
    """(x − (μ − 3σ))/6σ, clipped to 0…1; μ and σ over the pixels and channels of each image.

    Kociołek et al. 2020, doi 10.1016/j.compmedimag.2020.101716 (±3σ). A constant image becomes ½.
    """
    return (per_image(x) / 6 + 0.5).clamp(0, 1)


# Those that look at one image at a time: grey levels N×H×W×R×3 → N×H×W×R×3.
PER_IMAGE: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "per_image": per_image,
    "min_max": min_max,
    "percentile": percentile,
    "three_sigma": three_sigma,
}
# Those that treat every image alike: (mean, std), per channel of pixels scaled to 0…1 → (divisor, offset) of x/d − o.
ALIKE = {
    "raw": lambda mean, std: (1, 0),  # x: 0…255
    "unit": lambda mean, std: (255, 0),  # x/255: 0…1
    "symmetric": lambda mean, std: (127.5, 1),  # x/127.5 − 1: −1…1
    "zscore": lambda mean, std: (255 * std, mean / std),  # (x/255 − mean)/std per channel, of the training split
}
KINDS = (*ALIKE, *PER_IMAGE)


class Inputs:
    """Input normalization: uint8 images N×32×32×R×3 (N×32×32×3 for one replicate) → N×(R·3)×32×32, channels_last.

    kind: in KINDS. With x a grey level, 0…255, times the channel's scale:
        raw         x
        unit        x/255: 0…1
        symmetric   x/127.5 − 1: −1…1
        zscore      (x/255 − mean)/std per channel
        per_image, min_max, percentile, three_sigma: by the image's own values over all its channels, see there
    mean, std: per channel, of x/255 over the training split. channel_scale: factor on the red channel, as of a sensor
    in another unit. Raises InputError for an unknown kind.
    """

    def __init__(self, kind: str, mean, std, device, dtype: torch.dtype, channel_scale: float = 1.0):
        require_choice("data.input", kind, KINDS)
        scale, shift = torch.tensor([channel_scale, 1, 1], dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
        if kind in ALIKE:
            mean, std = (torch.tensor(values, dtype=torch.float64) for values in (mean, std))
            divisor, offset = ALIKE[kind](mean, torch.where(std > 0, std, 1))  # a constant channel becomes 0, not NaN
            scale, shift = scale / divisor, shift - offset
        self.scale, self.shift = scale.to(device, dtype), shift.to(device, dtype)
        self.dtype, self.per_image = dtype, PER_IMAGE.get(kind)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        x = images.to(self.dtype).mul_(self.scale).add_(self.shift)
        if self.per_image is not None:
            x = self.per_image(x if x.dim() == 5 else x.unsqueeze(3))
        return x.flatten(3).permute(0, 3, 1, 2)

    def repeated(self, images: torch.Tensor, replicates: int) -> torch.Tensor:
        """The same images N×32×32×3 for every replicate: N×(R·3)×32×32."""
        x = self(images)
        return x if replicates == 1 else x.repeat(1, replicates, 1, 1).contiguous(memory_format=torch.channels_last)


def resized(x: torch.Tensor, size: int) -> torch.Tensor:
    """Inputs N×C×H×W at another size, N×C×size×size: bilinear, antialiased, as torchvision's v2 Resize."""
    return x if x.shape[-1] == size else F.interpolate(x, (size, size), mode="bilinear", antialias=True)
