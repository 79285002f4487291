"""The kernels, built at first use by the C compiler that is there, and kept for the next time."""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from normbench.records.environment import device_words

FOLDER = Path(__file__).parent
SOURCES = ("kernels.c", "layers.h")
FLAGS = ("-O3", "-march=native", "-shared", "-fPIC", "-pthread")
COMPILE_SECONDS = 120


class NoKernels(Exception):
    """Why there are none, in a line."""


@cache
def library() -> ctypes.CDLL:
    """The loaded kernels. Raises NoKernels where there is no compiler, or what it makes cannot be loaded."""
    compiler = shlex.split(os.environ.get("CC", "")) or [shutil.which("cc") or shutil.which("gcc") or ""]
    if not shutil.which(compiler[0] or "cc"):
        raise NoKernels(f"no C compiler ({compiler[0] or 'cc'})")
    name = f"kernels-{_digest(compiler)}.so"
    for folder in _folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / name).is_file():
                _build(compiler, folder / name)
            return _loaded(folder / name)
        except OSError as error:  # a folder that cannot be written, a file that cannot be loaded: the next one
            reason = error
    raise NoKernels(" ".join(str(reason).split()))


def _folders() -> list[Path]:
    """Where they are kept: the user's cache, else a folder of this process alone."""
    cache_home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return [Path(cache_home) / "normbench", Path(tempfile.mkdtemp(prefix="normbench-"))]


def _digest(compiler: list[str]) -> str:
    """Of all that they depend on: sources, flags, compiler and processor."""
    said = subprocess.run([*compiler, "--version"], capture_output=True, text=True, timeout=COMPILE_SECONDS)
    parts = [*((FOLDER / source).read_text("utf-8") for source in SOURCES), *FLAGS, *compiler[1:], said.stdout]
    parts += [platform.platform(), device_words("cpu")]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _build(compiler: list[str], path: Path) -> None:
    """Raises NoKernels, or OSError where the folder takes no file."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.stem}-", suffix=".so") as part:
        command = [*compiler, *FLAGS, str(FOLDER / SOURCES[0]), "-lm", "-o", part.name]
        try:
            where = os.environ | {"PATH": os.environ.get("PATH", os.defpath)}  # of the linker
            done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS, env=where)
        except subprocess.TimeoutExpired:
            raise NoKernels(f"{compiler[0]} takes more than {COMPILE_SECONDS} s") from None
        if done.returncode:
            raise NoKernels(f"{compiler[0]}: {next(iter(done.stderr.splitlines()), done.returncode)}")
        os.link(part.name, f"{part.name}.whole")
        os.replace(f"{part.name}.whole", path)  # whole or not at all, whoever else builds it


def _loaded(path: Path) -> ctypes.CDLL:
    kernels = ctypes.CDLL(str(path))
    for function in (kernels.run_float, kernels.run_double):
        function.argtypes = [ctypes.c_void_p] * 5 + [ctypes.c_int64] * 2
        function.restype = None
    kernels.vector_bytes.restype = ctypes.c_int64
    return kernels
