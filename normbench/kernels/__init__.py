"""Which kernels a network is computed by: torch's, or the native ones of this package, which are faster on the CPU."""

from collections.abc import Callable

import torch

from normbench.errors import InputError
from normbench.kernels.library import NoKernels
from normbench.kernels.native import Native
from normbench.kernels.program import Unknown
from normbench.records.damage import tell

SMALL = 8  # images of a batch, up to which a thread alone is faster than several of torch's


def fastest(config, model, replicates: int, processes: int = 1) -> Callable:
    """The forward pass of a network as a configuration has it (`kernels`): the model itself, or by the native kernels.

    config: resolved. Raises InputError for kernels=native where they cannot be.
    """
    if config.kernels == "torch":
        return model
    try:
        _require(config, processes)
        if config.kernels == "auto" and not _faster(config):
            return model
        return Native(model, replicates)
    except (NoKernels, Unknown) as error:
        if config.kernels == "native":
            raise InputError("kernels", "native", f"{error}; leave it at auto") from None
        if isinstance(error, NoKernels):
            tell(f"{error}: the slower kernels of torch do")
        return model


def _require(config, processes: int) -> None:
    if config.device != "cpu":
        raise Unknown(f"device={config.device}: they are of the CPU")
    if config.precision == "bfloat16":
        raise Unknown("precision=bfloat16: they have float32 and float64")
    if processes > 1:
        raise Unknown("a batch over several processes is torch's")


def _faster(config) -> bool:
    """Measured on ResNets of width 16: always on one thread. Each replicate is one thread's."""
    return config.batch_size <= SMALL or config.stack >= torch.get_num_threads()
