"""Evaluate finished runs anew, by other statistics than their running averages: a table, and a figure.

python scripts/evaluate.py outputs/resnet8-batch-b2-s0-r5-…                              → outputs/evaluate/
python scripts/evaluate.py outputs/resnet8-batch-* --statistics running,evalnorm,batch:2,8,128 --to mine

running: the averages of training; precise: of training images, as evaluation.precise_images has it; evalnorm: what
training at its batch size expects for an image; batch:1,2,…: of batches of images of the split, the mean over shuffles.
"""

from argparse import Namespace
from pathlib import Path

import pandas as pd
import torch

import normbench
from normbench.analysis.figures import save
from normbench.analysis.mismatch_page import figure
from normbench.analysis.statistics import t_interval
from normbench.analysis.tables_io import write
from normbench.cli import CommandLine, one_line, whole
from normbench.errors import InputError, choices_text
from normbench.measures.mismatch import STATISTICS, Evaluation
from normbench.norms.batch import has_running_statistics
from normbench.records.files import require_writable
from normbench.tasks import make_task

DEFAULT = "running,precise,evalnorm,batch:1,2,4,8,16,32,64,128,256"


@one_line
def main() -> None:
    arguments = command_line()
    names, sizes = wanted(arguments.statistics)
    folder = arguments.to or Path("outputs", "evaluate")
    if folder.exists():  # what cannot be shows before the work, not after
        require_writable(folder)
    loaded = {Path(run).name: normbench.load(run, root=arguments.root) for run in arguments.run}
    rows = []
    for run, label in labels({run: networks.config for run, networks in loaded.items()}).items():
        found = evaluated(loaded[run], names, sizes, arguments)
        rows += [{"run_id": run, "network": label} | row for row in found]
    table = pd.DataFrame(rows, columns=["run_id", "network", "seed", "statistics", "size", "shuffle", "acc"])
    table["size"], table["shuffle"] = table["size"].astype("Int64"), table["shuffle"].astype("Int64")
    tell(table)
    write(table, folder / "evaluate.csv")
    drawn = figure(table, f"Of {arguments.split} images.")
    print(folder / "evaluate.csv", *save(drawn, folder, "evaluate"), sep="\n")


def command_line() -> Namespace:
    """What was typed. Raises UserError for what is not understood."""
    parser = CommandLine(__doc__)
    parser.add_argument("run", nargs="+", help="folder of a finished training")
    parser.add_argument("--statistics", default=DEFAULT, help=f"which ones ({DEFAULT})")
    parser.add_argument("--split", choices=("test", "val"), default="test", help="test or val images (test)")
    parser.add_argument("--shuffles", type=whole(1, 1000), default=5, help="orders of the images of batches (5)")
    most = {"type": whole(1, 10**6), "default": 2000}
    parser.add_argument("--images", **most, help="training images that EvalNorm's population is taken over (2000)")
    parser.add_argument("--root", help="folder of the data, where it is no longer that of the run")
    parser.add_argument("--to", type=Path, help="folder for the table and the figure (outputs/evaluate)")
    return parser.parse_args()


def wanted(statistics: str) -> tuple[list[str], list[int]]:
    """`running,batch:1,2,evalnorm` → ([running, evalnorm], [1, 2]). Raises InputError."""
    names, sizes, of_batches = [], [], False
    for word in statistics.replace(" ", "").split(","):
        number = word.removeprefix("batch:")
        of_batches = of_batches or number != word
        if of_batches and number.isdigit() and 1 <= int(number) <= 10**6:
            sizes.append(int(number))
        elif word in STATISTICS:
            names.append(word)
            of_batches = False
        else:
            raise InputError("--statistics", word, choices_text(word, [*STATISTICS, "batch:1,2,…"]))
    return list(dict.fromkeys(names)), sorted(set(sizes))


def labels(configs: dict) -> dict[str, str]:
    """Run → `batch at 2`, or its name where that is another's as well."""
    short = {run: f"{config.norm.name} at {config.batch_size}" for run, config in configs.items()}
    return {run: run if list(short.values()).count(label) > 1 else label for run, label in short.items()}


def evaluated(networks, names: list[str], sizes: list[int], how: Namespace) -> list[dict]:
    """The rows of a run; of one without batch statistics its accuracy alone, which no batch changes."""
    config = networks.config
    torch.set_num_threads(config.threads or torch.get_num_threads())
    evaluation = Evaluation(
        config, make_task(config, networks.seeds, config.device), networks, how.images, split=how.split
    )
    if not has_running_statistics(networks.model):
        names, sizes = ["running"], []
    found = [({"statistics": name}, accuracies) for name in names if (accuracies := evaluation.accuracies(name))]
    for size in sizes:
        for shuffle, accuracies in enumerate(evaluation.of_batches(size, how.shuffles)):
            found.append(({"statistics": "batch", "size": size, "shuffle": shuffle}, accuracies))
    return [
        {"seed": seed} | said | {"acc": accuracy}
        for said, accuracies in found
        for seed, accuracy, lost in zip(networks.seeds, accuracies, networks.lost.tolist(), strict=True)
        if not lost
    ]


def tell(table: pd.DataFrame) -> None:
    """A line a statistic: the mean over seeds, and its 95 % t interval."""
    for run, rows in table.groupby("run_id", sort=False):
        print(run)
        seeds = rows.groupby(["statistics", "size", "seed"], dropna=False, sort=False)["acc"].mean()
        for (statistics, size), accuracies in seeds.groupby(level=[0, 1], dropna=False, sort=False):
            name = statistics if pd.isna(size) else f"{statistics}:{size}"
            mean = t_interval(accuracies)
            spread = f" ± {mean.high - mean.estimate:.2f}" if mean.n >= 2 else ""
            print(f"  {name:10s} {mean.estimate:6.2f} %{spread}, n = {mean.n}")


if __name__ == "__main__":
    main()
