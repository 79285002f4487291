"""Make summary.md of a study from the tables that scripts/collect.py wrote; for one that tunes rates, rates.csv too.

python scripts/table.py batch_size                      → results/batch_size/summary.md
python scripts/table.py somewhere                       → somewhere/summary.md, from somewhere/runs.csv
"""

from normbench.analysis.chance import differences
from normbench.analysis.claims_table import worded
from normbench.analysis.images import of_arms
from normbench.analysis.rates import rates
from normbench.analysis.study import study_of
from normbench.analysis.tables import summary
from normbench.analysis.tables_io import write
from normbench.cli import one_line, study_command
from normbench.records.correct import correctness
from normbench.records.files import write_whole
from normbench.records.metrics import OVER


@one_line
def main() -> None:
    arguments = study_command(__doc__, "folder that holds runs.csv and takes the summary (results/STUDY)").parse_args()
    study = study_of(arguments.target, arguments.to, arguments.where)
    verdicts, about = study.verdicts(), study.about
    right = correctness(study.folder)
    chance = differences(study.claims, study.runs, right)
    text = summary(study.name, study.title, study.runs, verdicts, about, of_arms(right), chance)
    if study.tunes_lr:
        if study.runs["status"].isin(OVER).all():
            write(rates(study.runs, about.common.get("lr_scaling", "linear")), study.folder / "rates.csv")
        else:
            print("rates.csv is left as it is: some runs are not over, and the best rate may be among them")
    write_whole(study.folder / "summary.md", text)
    print(study.folder / "summary.md")
    for verdict in verdicts:
        print(f"  {worded(verdict, about)}: {verdict.statement}")


if __name__ == "__main__":
    main()
