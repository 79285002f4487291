"""Draw which inputs move an output, from the runs of measure=axes in a folder, as PNG and SVG: a cube a run.

python -m normbench -m measure=axes norm=batch,group,layer,instance data=patterns
python scripts/axes.py outputs --to results/axes        → results/axes/axes.png and axes.svg
"""

from pathlib import Path

import pandas as pd

from normbench.analysis.figures import save
from normbench.analysis.tables import commits
from normbench.cli import CommandLine, one_line
from normbench.errors import UserError
from normbench.facts import FACTS
from normbench.measures.axes_figure import figure
from normbench.records.metrics import OVER
from normbench.runs.collect import collect


@one_line
def main() -> None:
    parser = CommandLine(__doc__)
    parser.add_argument("folder", nargs="?", default="outputs", help="the folder of the runs (outputs)")
    parser.add_argument("--to", type=Path, help="folder for the figure (that of the runs)")
    arguments = parser.parse_args()
    folder = Path(arguments.folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no folder of runs")
    runs, _ = collect(str(folder))
    if "moves_batch" not in runs:
        raise UserError(f"{folder}: no run in it is of measure=axes")
    runs = runs[runs["moves_batch"].notna() & runs["status"].isin(OVER)]
    arms = runs.drop_duplicates("run_id").sort_values("method", key=lambda names: names.map(_place), kind="stable")
    titles = arms["method"].where(~arms["method"].duplicated(keep=False), arms["run_id"])
    patterns = {
        title: pd.read_csv(folder / run_id / "metrics.csv")
        for title, run_id in zip(titles, arms["run_id"], strict=True)
    }
    print(*save(figure(patterns, f"commit {commits(runs)}"), arguments.to or folder, "axes"), sep="\n")


def _place(method: str) -> int:
    """Methods come in the order of every figure, those without facts last."""
    return list(FACTS).index(method) if method in FACTS else len(FACTS)


if __name__ == "__main__":
    main()
