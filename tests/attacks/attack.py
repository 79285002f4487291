"""What the attacks have in common: small runs as forked processes, and whether they end as runs that nobody touched.

Each attack is a function of a folder and of how long it is to take, which returns its figures; `python
tests/attacks/attack_….py` prints them, by default those of a long attack.
"""

import json
import signal
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

from forked import Forked  # noqa: E402
from small_runs import TINY, without_times  # noqa: E402
from training_runs import metrics  # noqa: E402

RUN = (*TINY, "evaluation.precise_images=0", "data.train_size=48", "epochs=4", "logging.progress=none")
RUN = (*RUN, "checkpoint_seconds=0")


def start(output: Path, *words: str, **environment: str) -> Forked:
    return Forked(output.parent, *RUN, f"output={output}", *words, **environment)


def ended(process: Forked) -> tuple[int, str]:
    """Its exit status, and what it said."""
    out, err = process.communicate(timeout=300)
    return process.returncode, out + err


def done(output: Path, *words: str) -> None:
    status, said = ended(start(output, *words))
    assert status == 0, said


def results(output: Path) -> dict[str, tuple]:
    """Of each run that is over: what its files say, the times left out, and each point of TensorBoard."""
    found = {}
    for path in sorted(output.glob("*/result.json")):
        result = json.loads(path.read_text(), object_hook=without_times)
        found[path.parent.name] = result, metrics(path.parent), points(path.parent), _bytes(path.parent)
    return found


def _bytes(folder: Path) -> bytes:
    return (folder / "correct.npz").read_bytes()


def points(folder: Path) -> dict[str, list[int]]:
    """Of each curve: its steps, as often as they are there."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}, purge_orphaned_data=False)
    board.Reload()
    return {tag: sorted(event.step for event in board.Scalars(tag)) for tag in board.Tags()["scalars"]}


def main(attack: Callable[[Path, int], dict], count: int) -> None:
    parser = ArgumentParser(description=sys.modules[attack.__module__].__doc__)
    parser.add_argument("--count", type=int, default=count, help=f"how often (default {count})")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = attack(Path(folder), arguments.count)
    print(f"{Path(sys.argv[0]).name} --count {arguments.count}: {json.dumps(figures)}")


def stop(process: Forked, number: int = signal.SIGKILL) -> bool:
    """Send a signal to a process that is under way; whether it was."""
    if process.poll() is not None:
        return False
    try:
        process.send_signal(number)
    except ProcessLookupError:
        return False
    process.communicate(timeout=60)
    return True


def stop_in_the_middle(output: Path, *words: str) -> None:
    """A sweep, killed in the second of its runs, with a checkpoint."""
    process = start(output, *words)
    while process.poll() is None and len(list(output.glob("*/checkpoint.pt"))) < 2:
        time.sleep(0.005)
    stop(process)
    assert len(list(output.glob("*/result.json"))) == 1
