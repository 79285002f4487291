"""Collect the runs of a study, or of any folder, into one table.

python scripts/collect.py batch_size                    → results/batch_size/runs.csv, curves.csv (of probes series.csv)
python scripts/collect.py outputs --to somewhere        → the same of every run in a folder
"""

from normbench.analysis.study import study_of
from normbench.analysis.tables_io import write
from normbench.cli import one_line, study_command
from normbench.config.files import study_names
from normbench.runs.collect import find, tables
from normbench.runs.series import series


@one_line
def main() -> None:
    target = f"a study ({', '.join(study_names())}) or a folder of runs"
    parser = study_command(__doc__, "folder for the tables (results/STUDY; for a folder, itself)", target)
    parser.add_argument("overrides", nargs="*", help="key=value, as the study was swept with")
    parser.add_argument("--output", default="outputs", help="where a study's runs lie (outputs)")
    arguments = parser.parse_intermixed_args()
    found = find(arguments.target, arguments.output, arguments.overrides)
    runs, curves = tables(found)
    folder = study_of(arguments.target, arguments.to).folder
    write(runs, folder / "runs.csv")
    write(curves, folder / "curves.csv")
    if len(probed := series(found)):
        write(probed, folder / "series.csv")
    counts = ", ".join(f"{n} {word}" for word, n in runs["status"].value_counts().sort_index().items())
    print(f"{folder / 'runs.csv'}: {runs['run_id'].nunique()} runs, {len(runs)} replicates: {counts}")


if __name__ == "__main__":
    main()
