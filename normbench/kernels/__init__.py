"""Which kernels a network is computed by: torch's, or the native ones of this package, which are faster on the CPU."""

from collections.abc import Callable

import torch

from normbench.errors import InputError
from normbench.kernels.library import NoKernels
from normbench.kernels.native import Native
from normbench.kernels.trace import Unknown
from normbench.norms.plain import Conv2d, Drawing
from normbench.records.damage import tell

NARROW = 128  # channels
SMALL = 8  # images of a batch, up to which a thread alone is faster than several of torch's


def fastest(config, model, replicates: int, processes: int = 1) -> Callable:
    """The forward pass of a network as a configuration has it (`kernels`): the model itself, or by the native kernels.

    config: resolved. Raises InputError for kernels=native and kernels=graph where they cannot be.
    """
    if config.kernels == "graph":
        _require_recordable(config, model, processes)
    if config.kernels in ("torch", "graph"):
        return model
    try:
        _require(config, processes)
        if config.kernels == "auto" and not _faster(config, model, replicates):
            return model
        native = Native(model, replicates)
        return model if config.kernels == "auto" and native.mixed and config.batch_size > SMALL else native
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


def _require_recordable(config, model, processes: int) -> None:
    """Raise InputError where a step cannot be a CUDA graph: it draws nothing, and is one process's."""
    if not config.device.startswith("cuda"):
        raise InputError("kernels", "graph", f"device={config.device} has no CUDA graphs; leave it at auto")
    if config.model.dropout > 0:
        raise InputError(
            "kernels", "graph", f"model.dropout={config.model.dropout} draws at each step; leave it at auto"
        )
    if config.norm.get("statistics") == "running":
        raise InputError("kernels", "graph", "norm.statistics=running changes what a step is; leave it at auto")
    if any(isinstance(module, Drawing) and module.draws for module in model.modules()):
        raise InputError("kernels", "graph", f"norm={config.norm.name} draws at each step; leave it at auto")
    if processes > 1:
        raise InputError("kernels", "graph", "a batch over several processes is torch's; leave it at auto")


def _faster(config, model, replicates: int) -> bool:
    """As measured on one thread: up to 64 channels 1.3 to 2 times, at 256 as fast, at 512 slower.

    With layers of torch's between: 1.05 to 1.4 times up to 8 images, at 32 as fast.
    """
    widest = max((module.out_channels for module in model.modules() if isinstance(module, Conv2d)), default=0)
    few = config.batch_size <= SMALL or config.stack >= torch.get_num_threads()
    return widest <= NARROW * replicates and few
