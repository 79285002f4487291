"""How fast it is, and how near to what the machine can do: ratios measured side by side in one process.

python scripts/benchmark.py                              train: training steps, on one thread, about ten minutes
python scripts/benchmark.py --case resnet8-group-2       one of the cases; --threads 2 --rounds 3: otherwise
python scripts/benchmark.py layers                       a convolution with each method beside batch normalization's
python scripts/benchmark.py limit                        layers beside a matrix product and beside copying
python scripts/benchmark.py fold                         evaluation, batch normalization folded into the convolutions
python scripts/benchmark.py start                        commands that train nothing, or two steps
python scripts/benchmark.py sweep --runs 100             planning, status and collect of many runs (100, 1,000, 10,000)
python scripts/benchmark.py train --to results/benchmark also keep the table, with command, commit and machine

train: the plain loop is what a user would write: torch's layers, DataLoader, torchvision's transforms, SGD. The bare
loop is the same without loading: one batch of floats again and again; so is JAX's, where that is installed. Ours does
what the plain loop does, on the same images: crop, flip, standardization, forward, backward, step. Rounds alternate
between the contestants; a figure is the median over rounds of the mean time of a step and replicate, warm-up steps left
out, and a ratio the median of those within a round. The share: what all convolutions multiply and add in that time,
over what the best matrix product of this process would.

layers: forward and backward by torch; kept is what backward needs. limit: the time that a layer adds to a chain of
them, and the share of it that the best matrix product, or copying what it must read and write, would take.

sweep: CPU seconds of folders made for it, in which nothing was trained.
"""

import sys
from pathlib import Path

import pandas as pd
from benchmarks import start, sweep

from normbench.analysis.tables_io import write
from normbench.cli import CommandLine, one_line, whole
from normbench.config.machine import settle_device
from normbench.config.sizes import MOST_THREADS
from normbench.records.environment import environment
from normbench.records.files import require_writable, write_whole
from normbench.words import markdown

TITLES = {
    "train": "Speed of training",
    "layers": "Cost of layers",
    "limit": "Layers and the limits of the machine",
    "fold": "Evaluation with folded batch normalization",
    "start": "What a command takes without training",
    "sweep": "What many runs take beside their training",
}
# Key of a row → head and form of its column.
HEADS = {
    "case": ("model, norm, batch size", ""),
    "contestant": ("contestant", ""),
    "ms_per_step_and_replicate": ("ms per step and replicate", ".2f"),
    "over_plain": ("× plain", ".2f"),
    "over_bare": ("× bare", ".2f"),
    "share_of_matrix_product": ("share", ".2f"),
    "shape": ("input", ""),
    "method": ("method", ""),
    "layer": ("layer", ""),
    "kernels": ("kernels", ""),
    "ms": ("ms", ".3f"),
    "least_ms": ("limit, ms", ".3f"),
    "share_of_limit": ("share of the limit", ".2f"),
    "over_batch": ("× batch", ".2f"),
    "kept_mib": ("kept, MiB", ".2f"),
    "kept_over_batch": ("× batch", ".2f"),
    "network": ("network", ""),
    "ms_plain": ("as it is, ms", ".1f"),
    "ms_folded": ("folded, ms", ".1f"),
    "gain": ("× as fast", ".2f"),
    "command": ("command", ""),
    "cpu_seconds": ("CPU s", ".2f"),
    "seconds": ("s", ".2f"),
    "runs": ("runs", ""),
    "planning": ("planning", ".2f"),
    "status": ("status", ".2f"),
    "status_of_stacks": ("status of stacks", ".2f"),
    "dry_run": ("--dry-run", ".2f"),
    "collect": ("collect", ".2f"),
    "collect_mib": ("memory of collect, MiB", ".2f"),
}


@one_line
def main():
    parser = CommandLine(__doc__)
    parser.add_argument("what", nargs="?", choices=TITLES, default="train", help="what is measured (train)")
    parser.add_argument("--case", action="append", help="model-norm-batch size; repeatable")
    parser.add_argument("--rounds", type=whole(1, 1000), default=5)
    parser.add_argument("--threads", type=whole(1, MOST_THREADS), default=1)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="of the training steps (cpu)")
    parser.add_argument("--workers", type=whole(0, MOST_THREADS), default=0, help="of the plain loop's DataLoader")
    parser.add_argument("--runs", type=whole(sweep.A_SEED, 10**6), action="append", help="sweep: how many; repeatable")
    parser.add_argument("--to", type=Path, help="folder for the table")
    arguments = parser.parse_args()
    if arguments.to:
        require_writable(arguments.to)
    rows = measured(arguments)
    print(table(rows))
    if arguments.to:
        keep(rows, arguments)


def measured(arguments) -> list[dict]:
    if arguments.what == "start":
        return start.rows(arguments.rounds)
    if arguments.what == "sweep":
        return sweep.rows(arguments.runs)
    import torch  # not above: the memory of a process counts as that of those that it starts
    from benchmarks import folding, layers, limit, train

    torch.set_num_threads(arguments.threads)
    if arguments.what == "layers":
        return layers.rows(arguments.rounds)
    if arguments.what == "fold":
        return folding.rows(train.kernels(), arguments.rounds)
    if arguments.what == "limit":
        return limit.rows(train.kernels(), arguments.rounds)
    return train.rows(arguments.case, arguments.rounds, arguments.workers, settle_device(arguments.device))


def table(rows: list[dict]) -> str:
    columns = [(key, *HEADS[key]) for key in rows[0]]
    alignment = "".join("r" if form else "l" for _, _, form in columns)
    cells = [[f"{row[key]:{form}}" for key, _, form in columns] for row in rows]
    return markdown([head for _, head, _ in columns], alignment, cells)


def keep(rows: list[dict], arguments) -> None:
    env = environment(arguments.device, arguments.threads, 1)
    told = {"device": env["device"], "threads": env["threads"], "torch": env["packages"]["torch"]}
    command = " ".join(["python", *sys.argv])
    told |= {"commit": env["commit"], "dirty": env["dirty"], "command": command}
    write(pd.DataFrame(rows).assign(**told), arguments.to / f"{arguments.what}.csv")
    words = f"`{command}` at commit {env['commit']}{' (changed)' if env['dirty'] else ''}, on {env['device']}, "
    words += f"torch {told['torch']}; threads: {env['threads']}, rounds: {arguments.rounds}."
    write_whole(arguments.to / f"{arguments.what}.md", f"# {TITLES[arguments.what]}\n\n{words}\n\n{table(rows)}\n")
    if arguments.what == "train":
        from benchmarks.figure import draw

        draw(rows, f"{env['device']}, threads: {env['threads']}", arguments.to / "train.png")


if __name__ == "__main__":
    main()
