"""From uint8 images to the network's inputs, for one replicate or many side by side."""

import torch

from normbench.data import Dataset


class Inputs:
    """Standardization per channel: (x/255 − mean)/std, as one multiplication and one addition.

    Called with uint8 images N×32×32×R×3 (N×32×32×3 for one replicate) it returns N×(R·3)×32×32 in `dtype`,
    channels_last.
    """

    def __init__(self, dataset: Dataset, device, dtype: torch.dtype):
        mean = torch.tensor(dataset.mean, dtype=torch.float64)
        std = torch.tensor(dataset.std, dtype=torch.float64)
        self.scale = (1 / (255 * std)).to(device, dtype)
        self.shift = (-mean / std).to(device, dtype)
        self.dtype = dtype

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        x = images.to(self.dtype).mul_(self.scale).add_(self.shift)
        return x.flatten(3).permute(0, 3, 1, 2)

    def repeated(self, images: torch.Tensor, replicates: int) -> torch.Tensor:
        """The same images N×32×32×3 for every replicate: N×(R·3)×32×32."""
        x = self(images)
        return x if replicates == 1 else x.repeat(1, replicates, 1, 1).contiguous(memory_format=torch.channels_last)
