"""What a run ran on: env.json."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

from normbench import __version__

PACKAGES = ("torch", "torchvision", "hydra-core", "numpy", "pandas", "scipy")


def environment(device: str, threads: int, processes: int, kernels: str = "torch") -> dict:
    """Versions, git commit, device, threads and command of this process. kernels: what computes its networks."""
    commit, dirty = git_state(Path(__file__).resolve().parent)
    return {
        "normbench": __version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": commit,
        "dirty": dirty,
        "device": device_words(device),
        "platform": platform.platform(),
        "threads": threads,
        "kernels": kernels,
        "processes": processes,
        "command": os.environ.get("NORMBENCH_COMMAND", "as a library"),
    }


def device_words(device: str) -> str:
    """The device by its maker's name: `NVIDIA …`, or the processor's."""
    if device != "cpu":
        import torch  # what is only looked at does without

        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def git_state(folder: Path) -> tuple[str | None, bool | None]:
    """(commit, dirty) of the checkout that tracks this package; (None, None) when it was installed from a wheel."""
    if _git(folder, "ls-files", "--error-unmatch", "environment.py") is None:
        return None, None
    commit = _git(folder, "rev-parse", "HEAD")
    status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return commit, bool(status) if commit else None


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
