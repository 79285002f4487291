"""Draw the figures of a study from the tables that scripts/collect.py wrote, each as PNG and SVG.

python scripts/plot.py batch_size                       → results/batch_size/figure and curves
python scripts/plot.py somewhere                        → the same in somewhere/, from its runs.csv
"""

from normbench.analysis.figures import curves_figure, save, sweep_figure
from normbench.analysis.pages import pages
from normbench.analysis.panels import default_panels, figures_of
from normbench.analysis.results_tables import judged
from normbench.analysis.study import has_training, study_of
from normbench.analysis.tables import commits, scale
from normbench.cli import one_line, study_command


@one_line
def main() -> None:
    arguments = study_command(__doc__, "folder that holds runs.csv and takes the figures (results/STUDY)").parse_args()
    study = study_of(arguments.target, arguments.to, arguments.where)
    runs, footer = study.runs, f"{scale(study.runs, study.about.common)}; commit {commits(study.runs)}"
    wanted = figures_of(study.says("figure"))
    panels = wanted.get("panels") or default_panels(runs)
    # What the curves show where the study does not say.
    first = {"where": panels[0].get("where"), "lines": panels[0].get("lines", "method")}
    curves = wanted.get("curves", {"columns": panels[0].get("x"), **first})
    figures = {"figure": sweep_figure(runs, panels, published=study.about.published, footer=footer)}
    if len(study.curves) or (judged(runs) and has_training(runs)):  # runs of a probe have no epochs
        figures["curves"] = curves_figure(study.curves, runs, **curves, footer=footer)
    figures |= pages(study, footer)
    paths = [path for name, figure in figures.items() for path in save(figure, study.folder, name)]
    print(*paths, sep="\n")


if __name__ == "__main__":
    main()
