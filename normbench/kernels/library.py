"""The kernels, built at first use by the C compiler that is there, and kept for the next time."""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent
SOURCES = ("kernels.c", "layers.h")
NATIVE = "-march=native"  # code for this very processor, where the compiler knows it
FLAGS = ("-O3", NATIVE, "-shared", "-fPIC", "-pthread")
COMPILE_SECONDS = 120


class NoKernels(Exception):
    """Why there are none, in a line."""


def library() -> ctypes.CDLL:
    """The loaded kernels. Raises NoKernels where there is no compiler, or what it makes cannot be loaded."""
    found = _found()
    if isinstance(found, str):
        raise NoKernels(found)
    return found


@cache
def _found() -> ctypes.CDLL | str:
    """The kernels, or why there are none."""
    compiler = shlex.split(os.environ.get("CC", "")) or [shutil.which("cc") or shutil.which("gcc") or "cc"]
    if not shutil.which(compiler[0]):
        return f"no C compiler ({compiler[0]})"
    name = f"kernels-{_digest(compiler)}"
    try:
        with suppress(OSError):  # a folder that cannot be written, a file that cannot be loaded
            return _from(_cache(), name, compiler)
        with tempfile.TemporaryDirectory(prefix="normbench-") as folder:  # of this process alone; loaded, it may go
            return _from(Path(folder), name, compiler)
    except (OSError, NoKernels) as error:
        return " ".join(str(error).split())


def _from(folder: Path, name: str, compiler: list[str]) -> ctypes.CDLL:
    """The kernels that lie in a folder, built if need be. Raises NoKernels, or OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    there = (path for path in folder.glob(f"{name}-*.so") if path.stem == f"{name}-{_checksum(path)}")
    return _loaded(next(there, None) or _build(compiler, folder, name))


def _checksum(path: Path) -> str:
    """The end of a library's name: one of which a part is missing would end the process that loads it."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "normbench"


def _digest(compiler: list[str]) -> str:
    """Of all that they depend on: sources, flags, compiler and processor."""
    said = subprocess.run([*compiler, "--version"], capture_output=True, text=True, timeout=COMPILE_SECONDS)
    parts = [*((FOLDER / source).read_text("utf-8") for source in SOURCES), *FLAGS, *compiler[1:], said.stdout]
    parts += [platform.system(), platform.machine(), *_processor()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _processor() -> list[str]:
    """What tells the code of one processor from that of another, as far as the machine says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return [platform.processor()]
    return sorted({line for line in lines if line.startswith(("model name", "flags", "Features", "CPU part"))})


def _build(compiler: list[str], folder: Path, name: str) -> Path:
    """Raises NoKernels, or OSError where the folder takes no file."""
    part = folder / f".{name}-{os.getpid()}.so"
    try:
        said = _compile(compiler, FLAGS, part) and _compile(compiler, [f for f in FLAGS if f != NATIVE], part)
        if said:
            raise NoKernels(f"{compiler[0]}: {said}")
        path = folder / f"{name}-{_checksum(part)}.so"
        os.replace(part, path)  # whole or not at all, whoever else builds it
        return path
    finally:
        part.unlink(missing_ok=True)


def _compile(compiler: list[str], flags: Sequence[str], to: Path) -> str:
    """What the compiler says of a failure; empty where there is none."""
    to.touch()  # raises OSError, where the compiler would say it in its own words
    where = os.environ | {"PATH": os.environ.get("PATH", os.defpath)}  # of the linker
    command = [*compiler, *flags, str(FOLDER / SOURCES[0]), "-lm", "-o", str(to)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_SECONDS, env=where)
    except subprocess.TimeoutExpired:
        return f"takes more than {COMPILE_SECONDS} s"
    return next(iter(done.stderr.splitlines()), f"status {done.returncode}") if done.returncode else ""


def _loaded(path: Path) -> ctypes.CDLL:
    kernels = ctypes.CDLL(str(path))
    for function in (kernels.run_float, kernels.run_double):
        function.argtypes = [ctypes.c_void_p] * 5 + [ctypes.c_int64] * 3
        function.restype = None
    kernels.vector_bytes.restype = ctypes.c_int64
    return kernels
