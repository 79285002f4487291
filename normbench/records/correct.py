"""Which test images each replicate told rightly: correct.npz of a run, and of a study.

An array of packed bits a replicate and way of evaluation, in the order of the test images: `SEED` of the plain
evaluation, `SEED_precise`, `SEED_tta`; and `images`, their number. A study has the same under `RUN_ID/`.
"""

import io
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from normbench.errors import UserError
from normbench.records.damage import Damaged

FILE, IMAGES = "correct.npz", "images"
NAME = re.compile(r"\d+(_[a-z_]+)?")  # of an array of a run


def packed(right: Mapping[str, np.ndarray]) -> bytes:
    """The content of a run's file: the same bytes for the same arrays. right: name → (images,), bool."""
    arrays = {name: np.packbits(np.asarray(one, dtype=bool)) for name, one in sorted(right.items())}
    return _file(arrays | {IMAGES: np.int64(len(next(iter(right.values()))))})


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file as they are; none where there is no file. Raises UserError for what is none."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        return {}
    except Exception as error:  # whatever zipfile and numpy stumble on in a damaged one
        raise UserError(f"{path}: not what a run wrote ({' '.join(str(error).split())})") from error


def of_run(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a run's file; none where there is no file. Raises Damaged."""
    try:
        arrays = arrays_of(path)
    except UserError as error:
        raise Damaged(path, error.__cause__ or error) from None
    images = arrays.get(IMAGES, np.int64(0))
    if arrays and not (images.shape == () and images.dtype.kind == "i" and images > 0):
        raise Damaged(path, f"the number of {IMAGES}")
    for name, bits in arrays.items():
        if name != IMAGES and not (
            NAME.fullmatch(name) and bits.dtype == np.uint8 and bits.shape == (-(-images // 8),)
        ):
            raise Damaged(path, name)
    return arrays


def collected(runs: Mapping[str, Mapping[str, np.ndarray]]) -> bytes:
    """The content of a study's file. runs: run_id → the arrays of its file."""
    return _file({f"{run_id}/{name}": one for run_id, some in sorted(runs.items()) for name, one in some.items()})


def by_run(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """run_id → arrays, of a study's file: what `collected` takes."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, one in arrays_of(path).items():
        run_id, _, own = name.rpartition("/")
        found.setdefault(run_id, {})[own] = one
    return found


def seed_of(name: str) -> int | None:
    """The seed that an array is of; None for the number of images."""
    return None if name == IMAGES else int(name.partition("_")[0])


def correctness(folder: str | Path) -> dict[tuple[str, int, str], np.ndarray]:
    """Of a study, whose results lie in the folder: (run_id, seed, way) → (images,), bool.

    way: as the name of the accuracy ends: "" (test_acc), "_precise", "_tta". Raises UserError for a damaged file.
    """
    found = {}
    for run_id, arrays in by_run(Path(folder) / FILE).items():
        images = int(arrays[IMAGES])
        for name, bits in arrays.items():
            if (seed := seed_of(name)) is not None:
                way = name.removeprefix(str(seed))
                found[run_id, seed, way] = np.unpackbits(bits, count=images).astype(bool)
    return found


def _file(arrays: dict[str, np.ndarray]) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()
