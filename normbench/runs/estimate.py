"""How long runs take: from their finished likes, or from a few steps; within seconds, whatever there is to time."""

import math
import sys
import time
from dataclasses import dataclass
from heapq import nlargest
from pathlib import Path

from normbench.config.sizes import IMAGES, images_in_all, train_images
from normbench.records.metrics import TRAIN
from normbench.runs.planned import Run
from normbench.runs.seeds import Shelf, placed

BUDGET = 1.2  # seconds for the steps of all trials; what loads torch comes on top
MOST = 50  # finished runs of a folder that are looked at, the latest
OF_A_KIND = ("measure.", "model.", "norm.", "augment.", "evaluation.")
SAME = ("measure.", "model.", "device")  # of a kind that may stand in for another
LONGEST_STACK = 8  # side by side, more replicates take as long each


@dataclass(frozen=True)
class Pace:
    """Seconds that a run of a kind takes per image and replicate. kind: as `_kind` has it. timed: by a trial alone."""

    kind: dict[str, object]
    seconds: float
    timed: bool = False


@dataclass(frozen=True)
class Estimate:
    """Seconds that a run takes from its start, on this machine and alone on it. rough: not from runs just like it."""

    seconds: float
    rough: bool


def estimates(runs: list[Run]) -> list[Estimate | None]:
    """How long each run takes; None where nothing near to it is known.

    From finished runs of the same kind, those of the command first; else from the nearest kind of the folder that
    has the same measurement, network and device; else, of a training, from a few steps.
    """
    kinds = [_kind(placed(run.config)) for run in runs]
    paces: dict[str, Pace] = {}  # the first of each kind
    for run, kind in zip(runs, kinds, strict=True):
        result = run.directory.result()
        if result and result["status"] == "finished":
            paces.setdefault(str(kind), Pace(kind, result["seconds"] / run.images))
    some = {}  # one run of each kind, that with the most images; the most work is timed first
    for run, kind in sorted(zip(runs, kinds, strict=True), key=lambda one: -one[0].images):
        some.setdefault(str(kind), (run, kind))
    if some.keys() - paces.keys():
        for pace in (pace for folder in sorted({run.config.output for run in runs}) for pace in _there(folder)):
            paces.setdefault(str(pace.kind), pace)
    near = {name: paces.get(name) or _nearest(kind, paces) for name, (_, kind) in some.items()}
    unlike = [one for name, one in some.items() if near[name] is None and one[1]["measure.name"] == TRAIN]
    timed = {str(pace.kind): pace for pace in _trials(unlike)}
    near |= {name: timed.get(name) or _nearest(kind, timed) for name, (_, kind) in some.items() if near[name] is None}
    found = [near[str(kind)] for kind in kinds]
    return [
        pace and Estimate((run.images + _evaluated(run) * pace.timed) * pace.seconds, pace.timed or pace.kind != kind)
        for run, kind, pace in zip(runs, kinds, found, strict=True)
    ]


def _kind(leaves: dict[str, object]) -> dict[str, object]:
    """What of a configuration, as `placed` has it, decides how long an image takes."""
    of = {key: leaves[key] for key in sorted(leaves) if key.startswith(OF_A_KIND)}
    own = {key: leaves[key] for key in ("batch_size", "device", "precision")}
    return of | own | {"stack": min(leaves["stack"], LONGEST_STACK)}


def _nearest(kind: dict[str, object], paces: dict[str, Pace]) -> Pace | None:
    """The pace of the likest kind, of the same measurement, network and device; the first of several."""

    def same(pace: Pace) -> bool:
        keys = [key for key in kind.keys() | pace.kind.keys() if key.startswith(SAME)]
        return all(kind.get(key) == pace.kind.get(key) for key in keys)

    def distance(pace: Pace) -> float:
        differ = sum(kind.get(key) != pace.kind.get(key) for key in kind.keys() | pace.kind.keys())
        method = 10 * (kind["norm.name"] != pace.kind["norm.name"])
        return differ + method + 5 * abs(math.log2(kind["batch_size"] / pace.kind["batch_size"])) + pace.timed / 2

    return min(filter(same, paces.values()), key=distance, default=None)


def _there(folder: str) -> list[Pace]:
    """The paces of the latest finished runs of a folder."""
    shelf, paces = Shelf(folder), []
    for path in nlargest(MOST, Path(folder).glob("[!.]*/result.json"), key=lambda path: path.stat().st_mtime):
        found = shelf.at(path.parent)
        result = found and found.directory.result()
        if result and result["status"] == "finished" and (images := images_in_all(found.directory.config)):
            paces.append(Pace(_kind(found.leaves), result["seconds"] / images))
    return paces


def _evaluated(run: Run) -> float:
    """What is evaluated in a training, in training images: a forward pass is a third of a step."""
    data, (_, test) = run.config.data, IMAGES[run.config.data.name]
    validated = data.val_size * (run.config.epochs + 1)
    precise = min(run.config.evaluation.precise_images, train_images(run.config))
    return (validated + (data.test_size or test) + precise) * run.config.replicates / 3


def _trials(some: list[tuple[Run, dict[str, object]]]) -> list[Pace]:
    """The paces of trainings by a few steps of each, as many as the time is enough for."""
    if not some:
        return []
    print(f"normbench: timing {len(some)} kinds of run that have no finished one", file=sys.stderr)
    from normbench.runs.trial import trial  # with torch, which takes its time to load

    paces, end = [], time.monotonic() + BUDGET
    for place, (run, kind) in enumerate(some):
        left = end - time.monotonic()
        if left <= 0:
            break
        paces.append(Pace(kind, trial(run.config, left / (len(some) - place)), timed=True))
    return paces
