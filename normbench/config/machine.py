"""Which devices this machine has, asked without loading torch where that can be."""

import ctypes
import re
import sys
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from normbench.errors import InputError


def cuda_devices() -> int:
    """How many CUDA (or ROCm) devices torch can use here."""
    if "torch" in sys.modules:
        return _asked_of_torch()
    return _asked_of_driver()


def settle_device(device: str) -> str:
    """`auto` made cuda or cpu. Raises InputError for a device that this machine does not have."""
    if device == "cpu":
        return device
    count = cuda_devices()
    if device == "auto":
        return "cuda" if count else "cpu"
    if not count:
        raise InputError("device", device, "this machine has no CUDA device; choices: auto, cpu")
    if device.startswith("cuda:") and int(device[5:]) >= count:
        raise InputError("device", device, f"this machine has {count} CUDA devices")
    return device


def memory(device: str) -> int | None:
    """Bytes that a run may have at most: a CUDA device's own, else what is free here, swap too, and what a control
    group allows; None where the machine does not tell."""
    if device != "cpu":
        import torch

        return torch.cuda.get_device_properties(device).total_memory
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text("utf-8").splitlines())
        free = sum(int(lines[name].split()[0]) for name in ("MemAvailable", "SwapFree")) * 1024
    except (OSError, KeyError, ValueError):
        return None
    return min([free, *_allowed()])


def _allowed() -> list[int]:
    """The limit of this process's control group (version 2, then 1), if it has one."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # "max": none
            return [int(Path(path).read_text("utf-8"))]
    return []


def _asked_of_torch() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


@cache
def _asked_of_driver() -> int:
    """The driver knows, and heeds CUDA_VISIBLE_DEVICES; torch has to be built for it, and for no newer one."""
    cuda, hip = _torchs_build()
    if hip:
        return _asked_of_torch()
    if not cuda:
        return 0
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        version, count = ctypes.c_int(), ctypes.c_int()
        answers = (
            driver.cuInit(0),
            driver.cuDriverGetVersion(ctypes.byref(version)),
            driver.cuDeviceGetCount(ctypes.byref(count)),
        )
    except (OSError, AttributeError):
        return 0
    return count.value if not any(answers) and version.value // 1000 >= int(cuda.partition(".")[0]) else 0


def _torchs_build() -> tuple[str | None, str | None]:
    """The versions of CUDA and of ROCm's HIP that the installed torch was built with, None for what it was not."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None, None
    text = (Path(spec.origin).parent / "version.py").read_text("utf-8")
    found = (re.search(rf"^{name}\b[^=\n]*= *'([^']+)'", text, re.M) for name in ("cuda", "hip"))
    cuda, hip = (match and match[1] for match in found)
    return cuda, hip
