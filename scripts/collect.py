"""Collect the runs of a study, or of any folder, into one table.

python scripts/collect.py batch_size                    → results/batch_size/runs.csv, curves.csv (of probes series.csv)
python scripts/collect.py outputs --to somewhere        → the same of every run in a folder
python scripts/collect.py noise --reuse results/noise   → rows that are there already, and those of new runs
"""

import sys

from normbench.analysis.study import chosen, study_of
from normbench.cli import one_line, study_command
from normbench.config.files import study_names
from normbench.runs.collect import doubles, gather
from normbench.runs.keep import keep


@one_line
def main() -> None:
    target = f"a study ({', '.join(study_names())}) or a folder of runs"
    parser = study_command(__doc__, "folder for the tables (results/STUDY; for a folder, itself)", target)
    parser.add_argument("overrides", nargs="*", help="key=value, as the study was swept with")
    parser.add_argument("--output", default="outputs", help="where a study's runs lie (outputs)")
    parser.add_argument(
        "--reuse", action="append", default=[], help="results whose rows of this study count as they are"
    )
    arguments = parser.parse_intermixed_args()
    found = gather(arguments.target, arguments.output, arguments.overrides, arguments.reuse)
    runs = chosen(found.runs, arguments.where)
    for line in doubles(runs):
        print(f"{sys.argv[0]}: {line}", file=sys.stderr)
    study = study_of(arguments.target, arguments.to)
    keep(found, runs, study.folder, None if study.file is None else study.name)
    counts = ", ".join(f"{n} {word}" for word, n in runs["status"].value_counts().sort_index().items())
    print(f"{study.folder / 'runs.csv'}: {runs['run_id'].nunique()} runs, {len(runs)} replicates: {counts}")
    if found.unreadable:
        several = "folders are" if len(found.unreadable) > 1 else "folder is"
        raise SystemExit(f"{sys.argv[0]}: {len(found.unreadable)} {several} not readable: the tables are without")


if __name__ == "__main__":
    main()
