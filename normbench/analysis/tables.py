"""summary.md of a study: a pure function of its runs.csv, of its verdicts and of what its files say about it."""

from collections.abc import Callable

import pandas as pd

from normbench.analysis import claims_table, published, rates, results_tables
from normbench.analysis.claims import Verdict
from normbench.analysis.columns import RUNG
from normbench.analysis.evidence import counted, measured
from normbench.analysis.results_tables import ImagesInterval, arms
from normbench.analysis.study import About
from normbench.config.sizes import PRECISE_BATCH
from normbench.records.metrics import HEADLINE, OBJECTIVE, OVER
from normbench.words import code, literal, markdown


def summary(
    name: str,
    title: str,
    runs: pd.DataFrame,
    verdicts: list[Verdict],
    about: About | None = None,
    images: ImagesInterval | None = None,
    chance: str = "",
) -> str:
    """Its scale and where it ran, verdicts, results, differences and so on: a section where there is any.

    title: a sentence on the study. runs: without what it does not show. images: see `ImagesInterval`.
    chance: the table of `chance.differences`.
    """
    about = about or About()
    sections = {
        "Claims": claims_table.claims(verdicts, about) if verdicts else "",
        "Power": claims_table.power(verdicts),
        "Seeds and images": chance,
        "Results": results_tables.results(runs),
        "Tuned rates": rates.tuned_rates(runs),
        "Best rates": rates.best_rates(runs),
        "Further outcomes": results_tables.further(runs),
        "Test-time augmentation": results_tables.views(runs),
        f"Paired differences from {results_tables.BASELINE}": results_tables.differences(runs, images),
        "Published figures": published.beside(about.published, runs, about.curves),
        "Not counted": _not_counted(runs),
    }
    parts = [f"# {literal(name)}", title, _header(runs, about)]
    parts += [f"## {head}\n\n{text}" for head, text in sections.items() if text]
    return "\n\n".join(parts) + "\n"


def scale(runs: pd.DataFrame, common: dict | None = None) -> str:
    """What was trained, in a line: `resnet8, cifar10, 10000 training images, 4 epochs, sgd, 5000 test images`.

    Of what trains nothing the model, the data and the batch alone. common: key → value of the configuration that all
    runs share; of what is not there nothing is said.
    """

    def each(column, words=""):
        return ", ".join(str(value) for value in runs[column].dropna().unique()) + words

    if OBJECTIVE not in runs and HEADLINE not in runs:
        return ", ".join([each("model"), each("data"), f"batches of {each('batch_size')}"])
    images = "all training images" if runs["train_size"].isna().all() else each("train_size", " training images")
    told = [each("model"), each("data"), images, each("epochs", " epochs"), each("optimizer")]
    return ", ".join(told + _evaluated(runs, common or {}))


def commits(runs: pd.DataFrame) -> str:
    """The commit of the rows that count; where there are several, each with its number of replicates."""
    over = counted(runs)
    return _several(over.assign(commit=over["commit"].map(_short) + over["dirty"].map(_dirt)), "commit")


def _evaluated(runs: pd.DataFrame, common: dict) -> list[str]:
    """On how many images, and over how many the precise statistics were taken."""
    told, split = [], "test" if HEADLINE in runs else "val"
    if f"data.{split}_size" in common:
        told.append(f"{common[f'data.{split}_size'] or 'all'} {'test' if split == 'test' else 'validation'} images")
    if measured(runs, [f"{split}_acc_precise"]) and common.get("evaluation.precise_images"):
        ways = {True: ", augmented as in training", False: ", not augmented"}
        augmented = ways.get(common.get("evaluation.precise_augment"), "")
        count = common["evaluation.precise_images"]
        told.append(f"precise statistics over {count} training images{augmented}, {min(count, PRECISE_BATCH)} a pass")
    return told


def _header(runs: pd.DataFrame, about: About) -> str:
    over = counted(runs)
    same = "the same for every arm" if _same_seeds(over) else "**not the same for every arm**"
    lines = [
        f"- Scale: {scale(runs, about.common)}",
        f"- Command: {_several(over, 'command', code)}",
        f"- Commit: {commits(over)}",
        f"- Device: {_several(over, 'device')}; threads a run: {_several(over, 'threads', '{:.0f}'.format)}; "
        f"torch {_several(over, 'torch')}",
        f"- n: {_n(runs)}; seeds {_ranges(runs['seed'])}, {same}",
    ]
    if over["commit"].nunique(dropna=False) > 1:
        lines.append("- **Rows of several commits are in this table**; the column commit of runs.csv tells them apart.")
    return "\n".join(lines)


def _short(commit) -> str:
    return commit[:7] if isinstance(commit, str) else "unknown"


def _dirt(dirty) -> str:
    return " with uncommitted changes" if dirty is True or str(dirty) == "True" else ""


def _several(table: pd.DataFrame, column: str, form: Callable[..., str] = lambda value: literal(str(value))) -> str:
    """The one value of a column, or each with its number of replicates."""
    counts = table[column].value_counts(sort=False, dropna=True)
    if len(counts) == 1:
        return form(counts.index[0])
    return "; ".join(f"{form(value)} ({n} replicates)" for value, n in counts.items()) or "none"


def _n(runs: pd.DataFrame) -> str:
    groups = runs.assign(counted=runs["status"].isin(OVER)).groupby(arms(runs), dropna=False)
    low, high = groups["counted"].sum().min(), groups["counted"].sum().max()
    return f"{low} replicates an arm" if low == high else f"{low} to {high} replicates an arm"


def _same_seeds(over: pd.DataFrame) -> bool:
    """Whether the replicates that count are of the same seeds in every arm."""
    if RUNG in over:  # each has seeds of its own
        return all(_same_seeds(rung.drop(columns=RUNG)) for _, rung in over.groupby(RUNG))
    return over.groupby(arms(over), dropna=False)["seed"].agg(frozenset).nunique() <= 1


def _ranges(seeds: pd.Series) -> str:
    found = sorted(int(seed) for seed in seeds.unique())
    return f"{found[0]}–{found[-1]}" if found == list(range(found[0], found[-1] + 1)) else ", ".join(map(str, found))


def _not_counted(runs: pd.DataFrame) -> str:
    lost = runs[~runs["status"].isin(OVER)]
    if lost.empty:
        return f"Nothing: all {len(runs)} replicates are over."
    rows = [
        [
            literal(name),
            status,
            ", ".join(str(seed) for seed in group["seed"]),
            literal(group["error"].dropna().astype(str).max()) or "–",
        ]
        for (name, status), group in lost.fillna({"error": ""}).groupby(["run_id", "status"], sort=False)
    ]
    return markdown(["run", "status", "seeds", "error"], "llll", rows)
