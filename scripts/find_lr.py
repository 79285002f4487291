"""Find the learning rate of a run by a range test: the loss while the rate grows exponentially, arXiv 1506.01186.

python scripts/find_lr.py norm=group batch_size=32 replicates=3      → outputs/find_lr/RUN_ID/: curves.csv and figure
python scripts/find_lr.py norm=none --low 1e-4 --rule minimum/10     → the same over fewer decades, by the other rule

It takes the overrides of a run, and trains a fresh network of each of its seeds. Rates are in the unit of optim.lr, at
batch size 128. The last line can be pasted into a command: the median over the seeds.
"""

from argparse import Namespace
from pathlib import Path

import pandas as pd

from normbench.analysis.figures import save
from normbench.analysis.lr_curve import RULES, median_rate
from normbench.analysis.lr_figure import lr_figure
from normbench.analysis.tables_io import write
from normbench.cli import CommandLine, one_line, whole
from normbench.config.identity import run_id
from normbench.config.overrides import normalize, plan
from normbench.config.resolve import resolve
from normbench.errors import InputError, UserError, choices_text
from normbench.measures.range_test import FEWEST, HIGH, LOW, STEPS, check_range, curve_rows, range_test
from normbench.records.files import require_writable
from normbench.tasks.build import check_network


@one_line
def main() -> None:
    arguments = command_line()
    jobs, _, _ = plan(normalize(arguments.overrides), multirun=True)
    if len(jobs) > 1:
        raise UserError(f"{' '.join(arguments.overrides)}: {len(jobs)} runs; the range test takes one")
    config = resolve(jobs[0].config)
    check_network(config)
    folder = arguments.to or Path(config.output, "find_lr", run_id(config))
    check_range(arguments.low, arguments.high, arguments.steps)
    require_writable(folder)
    test = range_test(config, low=arguments.low, high=arguments.high, steps=arguments.steps)

    suggestions = test.suggestions(arguments.rule)
    for seed, said in suggestions.items():
        print(f"seed {seed}: {'no rate' if said.lr is None else f'optim.lr={said.lr:.2g}'}: {said.verdict}")
    write(pd.DataFrame(curve_rows(test, suggestions)), folder / "curves.csv")
    title = f"{config.model.name}, {config.norm.name}, batch size {config.batch_size}"
    figure = lr_figure(test, suggestions, arguments.rule, title=title, footer=run_id(config))
    print(folder / "curves.csv", *save(figure, folder, "figure"), sep="\n")
    rate = median_rate(suggestions.values())
    print("no rate" if rate is None else f"optim.lr={rate:.2g}")


def command_line() -> Namespace:
    """What was typed. Raises UserError for what is not understood."""
    parser = CommandLine(__doc__)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for a run: python -m normbench --help")
    parser.add_argument("--low", type=float, default=LOW, help=f"the first rate ({LOW:g})")
    parser.add_argument("--high", type=float, default=HIGH, help=f"the last rate ({HIGH:g})")
    parser.add_argument(
        "--steps", type=whole(FEWEST, 10**6), default=STEPS, help=f"SGD steps from one to the other ({STEPS})"
    )
    parser.add_argument("--rule", default=RULES[0], help=f"{' or '.join(RULES)} ({RULES[0]})")
    parser.add_argument("--to", type=Path, help="folder for the table and the figure (outputs/find_lr/RUN_ID)")
    arguments = parser.parse_intermixed_args()
    if arguments.rule not in RULES:
        raise InputError("rule", arguments.rule, choices_text(arguments.rule, RULES))
    return arguments


if __name__ == "__main__":
    main()
