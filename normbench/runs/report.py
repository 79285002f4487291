"""What a command prints at the end: the result of a run, the table of a sweep."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rich.cells import cell_len
from rich.table import Table

from normbench.console import Console
from normbench.processes import first
from normbench.records.metrics import HEADLINE, OBJECTIVE, OVER, measurement_of, outcome_of, printed, swept
from normbench.runs.estimate import Estimate
from normbench.runs.planned import Run, at_work, over
from normbench.words import duration


def _console() -> Console:
    """As wide as the terminal; wide enough for any table in a log."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def _measured(table: Table) -> Table:
    """The same table, its columns that never wrap as wide as rich makes them: it would measure each cell, and twice."""
    for column in table.columns:
        if column.no_wrap:
            cells = (column.header, *column.cells)
            column.width = max(cell_len(line) for cell in cells for line in cell.split("\n"))
    return table


def mean_text(values: list[float], digits: str = ".2f") -> str:
    """`71.23`, or `71.23 ± 0.41` with the half-width of the 95 % t interval of the mean, where there are several."""
    if len(values) == 1:
        return f"{values[0]:{digits}}"
    from normbench.analysis.statistics import t_interval  # scipy.stats takes its time to load

    interval = t_interval(values)
    return f"{interval.estimate:{digits}} ± {interval.high - interval.estimate:{digits}}"


def accuracy(result: dict, key: str) -> str:
    """The mean of an accuracy, or another outcome, over a run's replicates; a dash where one of them has none."""
    values = [entry.get(key) for entry in result["replicates"]]
    return "–" if None in values else mean_text(values, outcome_of(key).digits)


def _in_a_line(result: dict) -> str:
    """`val acc 42.12 %, test acc 41.50 %`; of what is no training, whatever it came to."""
    entry = result["replicates"][0]
    names = (
        (OBJECTIVE, HEADLINE) if HEADLINE in entry else [key for key in entry if outcome_of(key).printed is not None]
    )
    told = []
    for outcome in map(outcome_of, names):
        words, unit = (outcome.printed or outcome.words).removesuffix(" %"), f" {outcome.unit}" if outcome.unit else ""
        told.append(f"{words} {accuracy(result, outcome.name)}{unit}")
    return ", ".join(told)


def print_line(result: dict) -> None:
    """One line for a run that is over."""
    if not first():
        return
    again = "finished earlier; " if result.get("repeated") else ""
    line = f"{result['run_id']}: {again}{statuses(result)}; {_in_a_line(result)}"
    with suppress(OSError):  # nobody listens any more: no reason for a run that is over to fail
        _console().print(line, highlight=False, soft_wrap=True)


def statuses(result: dict) -> str:
    """`finished`, or `4 finished, 1 diverged`."""
    if result["status"] == "failed":
        return "failed"
    words = [entry["status"] for entry in result["replicates"]]
    if len(set(words)) == 1:
        return words[0]
    return ", ".join(f"{words.count(word)} {word}" for word in OVER if word in words)


def print_run(result: dict, config, folders: Sequence[Path] | None = None) -> None:
    """The result of a single run: a row a replicate. folders: of the runs that have its seeds; its own by default."""
    if not first():
        return
    console = _console()
    columns = [outcome for outcome in printed(measurement_of(config)) if outcome.name in result["replicates"][0]]
    table = Table(title=result["run_id"], title_justify="left")
    for name in ("seed", "status", *(outcome.printed or outcome.title for outcome in columns), "time"):
        table.add_column(name, justify="left" if name == "status" else "right")
    for entry in result["replicates"]:
        status = entry["status"]
        if status == "diverged":
            status += f" in epoch {entry['diverged_epoch']}"
        values = (_text(entry[outcome.name], outcome.digits) for outcome in columns)
        table.add_row(str(entry["seed"]), status, *values, duration(entry["seconds"]))
    if len(result["replicates"]) > 1:
        table.add_section()
        means = (accuracy(result, outcome.name) for outcome in columns)
        table.add_row("mean", "± 95 % t interval", *means, duration(result["seconds"]))
    console.print(table)
    for entry in result["replicates"]:
        if line := _further(entry):
            console.print(f"seed {entry['seed']}: {line}", highlight=False)
    if result.get("repeated"):
        console.print("This run was finished already; force=true runs it again.")
    for folder in folders or [Path(config.output) / result["run_id"]]:
        console.print(str(folder), soft_wrap=True, highlight=False)


def _text(value: float | None, digits: str) -> str:
    return "–" if value is None else f"{value:{digits}}"


def _further(entry: dict) -> str:
    """What a replicate was asked for beyond its accuracies, in a line."""
    told = []
    if entry.get("tta_gained") is not None:
        from normbench.analysis.statistics import mcnemar

        gained, lost = entry["tta_gained"], entry["tta_lost"]
        told.append(
            f"TTA turns {gained} test images right and {lost} wrong, McNemar p = {mcnemar(gained, lost):.2g}, "
            f"{entry['tta_cost']:.1f} times the time"
        )
    if "steps_to_target" in entry:
        steps = entry["steps_to_target"]
        told.append(f"target {'' if entry['target_reached'] else 'not '}reached in {steps} steps")
    if "suggested_lr" in entry:
        rate = entry["suggested_lr"]
        told.append("the range test suggests " + ("no rate" if rate is None else f"optim.lr={rate:.3g}"))
    return "; ".join(told)


def _typed(run: Run) -> dict[str, str]:
    return dict(override.split("=", 1) for override in run.job.overrides)


def _swept(runs: list[Run]) -> list[str]:
    """The keys by which the runs of a sweep differ, those of its first run first."""
    rows = [_typed(run) for run in runs]
    keys = dict.fromkeys(key for row in rows for key in row)
    return [key for key in keys if len({row.get(key) for row in rows}) > 1]


def print_sweep(runs: list[Run]) -> int:
    """The table of a sweep, read from its folders. Returns the exit status: 1 if any run failed or is not over."""
    console, counts = _console(), {}
    keys, columns = _swept(runs), swept(measurement_of(run.config) for run in runs)
    table = Table(title="Sweep: means over the replicates, ± 95 % t interval", title_justify="left")
    for key in keys:
        table.add_column(key, justify="left")
    heads = [outcome.swept or outcome.title for outcome in columns]
    for name in ("n", "status", *heads, "images/s", "time"):
        table.add_column(name, justify="left" if name == "status" else "right", no_wrap=name != "status")
    messages = []
    for run in runs:
        typed = _typed(run)
        row = [typed.get(key, "") for key in keys]
        result, error = run.result(), next((part.error for part in run.work() if part.error), None)
        if error or result is None or result["status"] == "failed":
            error = error or (result or {}).get("error")
            status = "failed" if error else "not finished"
            messages.append(f"{run.name}: " + " ".join((error or status).split()))
            counts[status] = counts.get(status, 0) + 1
            table.add_row(*row, str(run.config.replicates), status, *["–"] * (len(heads) + 2))
            continue
        entries = result["replicates"]
        for entry in entries:
            counts[entry["status"]] = counts.get(entry["status"], 0) + 1
        speed = entries[0].get("images_per_second")
        table.add_row(
            *row,
            str(len(entries)),
            statuses(result),
            *(accuracy(result, outcome.name) for outcome in columns),
            "–" if speed is None else f"{speed:,.0f}",
            duration(result["seconds"]),
        )
    if first():
        folders = [str(run.directory.path) for run in at_work(runs)]
        console.print(_measured(table))
        console.print(
            f"{len(runs)} runs; replicates: " + ", ".join(f"{n} {word}" for word, n in sorted(counts.items()))
        )
        console.print("The folder of each run:", *folders, sep="\n  ", soft_wrap=True, highlight=False)
        for message in messages:
            console.print(message, soft_wrap=True, highlight=False)
    return 1 if messages else 0


def print_plan(runs: list[Run], estimates: list[Estimate | None], reused: int = 0, since: int | None = None) -> None:
    """What `--dry-run` prints: the runs, what has become of each, and the time that those left would take.

    runs: those at work. estimates: of each from its start, None where nothing is known; rough ones are marked. reused:
    replicates that a table has. since: when the forced command that these are the runs of began.
    """
    console, left, counts, unknown = _console(), 0.0, {}, 0
    swept = _swept(runs)
    table = Table(title="Runs", title_justify="left")
    for key in (*swept, "n", "status", "time from start", "run"):
        table.add_column(key, justify="right" if key in ("n", "time from start") else "left", no_wrap=key != "run")
    for run, estimate in zip(runs, estimates, strict=True):
        seconds = estimate and estimate.seconds
        status, typed = run.directory.status(), _typed(run)
        counts[status] = counts.get(status, 0) + 1
        if not over(run, since):
            left += seconds or 0
            unknown += seconds is None
        told = "–" if seconds is None else ("~" if estimate.rough else "") + duration(seconds)
        table.add_row(*(typed.get(key, "") for key in swept), str(run.config.replicates), status, told, run.name)
    console.print(_measured(table))
    if any(estimate and estimate.rough for estimate in estimates):
        console.print("~: from a few steps, or from finished runs that are near to it, not the same", highlight=False)
    trained = (
        f"about {duration(left)} of training left on this machine, one run at a time" if left or not unknown else ""
    )
    untimed = f"{unknown} runs left whose time is not known" if unknown else ""
    console.print(
        (f"{reused} replicates are rows of the tables reused; " if reused else "")
        + f"{len(runs)} runs: "
        + ", ".join(f"{n} {word}" for word, n in sorted(counts.items()))
        + "; "
        + " and ".join(filter(None, (trained, untimed)))
        + ". Nothing was run."
    )


def print_to_come(rung: int, runs: list[Run], estimates: list[Estimate | None]) -> None:
    """What `--dry-run` prints of a rung of a halving that some arms have yet to begin; their rates are not known."""
    if not runs:
        return
    seconds = [estimate.seconds for estimate in estimates if estimate]
    time = f"about {duration(sum(seconds))}" if len(seconds) == len(runs) else "whose time is not known"
    told = f"rung {rung}: {len(runs)} runs more, {time}, and one wherever the best rate is at the edge"
    _console().print(told, highlight=False, soft_wrap=True)
