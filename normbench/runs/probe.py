"""What `scripts/probe.py NAME` does: the runs of one measurement, and the page that tells what they found."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from normbench.analysis import inputs_page
from normbench.analysis.figures import save
from normbench.analysis.tables_io import write
from normbench.config.keys import INPUTS
from normbench.config.overrides import normalize, plan
from normbench.errors import UserError
from normbench.records.environment import environment
from normbench.records.files import write_whole
from normbench.runs.forced import forced, since
from normbench.runs.planned import Run, check_networks, runs_of
from normbench.runs.sweep import run_alone
from normbench.training.machine import cpu_threads
from normbench.words import code

# What a probe measures unless other values are typed.
DEFAULTS = {
    "inputs": (
        f"data.input={','.join(INPUTS)}",
        "norm=batch,none",
        "replicates=5",
        "batch_size=32",
        "device=cpu",
        "precision=float32",
    )
}
PROBES = tuple(DEFAULTS)


@dataclass(frozen=True)
class Findings:
    """What a probe found.

    config: a resolved configuration, of the device and the threads that it was measured with. title: a line.
    scale: what was measured, how many images and seeds, in a line. text: the rest of summary.md. tables: name of the
    file → table.
    """

    config: object
    title: str
    scale: str
    text: str
    tables: dict[str, pd.DataFrame]
    figure: Figure


def planned(name: str, overrides: Iterable[str]) -> list[Run]:
    """The runs of a probe, one for every combination of the values of its overrides.

    overrides: as the user typed them; they replace the probe's own. Raises InputError and UserError as a sweep does.
    """
    typed, own = normalize(list(overrides)), normalize(list(DEFAULTS[name]))
    keys = {word.partition("=")[0] for word in typed}
    jobs, _, _ = plan([f"measure={name}", *(w for w in own if w.partition("=")[0] not in keys), *typed], True)
    return runs_of(jobs)


def probe_inputs(overrides: Iterable[str]) -> Findings:
    """Every input normalization, with each method, at initialization, as measures.inputs has it.

    overrides: as for a sweep; `data.input` and `norm` may have several values. Runs that are finished are not repeated.
    Raises UserError where another key has several values.
    """
    runs = planned("inputs", overrides)
    arms = {(run.config.data.input, run.config.norm.name): run for run in runs}
    if len(arms) < len(runs):
        raise UserError("probe inputs: data.input and norm may have several values, any other key only one")
    check_networks(runs, since(runs))
    conditions, networks = {}, []
    with forced(runs) as began:
        for (kind, norm), run in arms.items():
            for entry in run_alone(run, began)["replicates"]:
                networks.append({"input": kind, "norm": norm} | entry)
            if kind not in conditions:
                conditions[kind] = pd.read_csv(run.directory.path / "metrics.csv").assign(input=kind)
                print(f"{kind}: measured", file=sys.stderr)
    conditions = pd.concat(conditions.values(), ignore_index=True)[list(inputs_page.CONDITION_COLUMNS)]
    networks = pd.DataFrame(networks, columns=["input", "norm", "seed", *inputs_page.NETWORK_COLUMNS])
    networks = networks.astype(dict.fromkeys(inputs_page.NETWORK_COLUMNS, float))
    scale = _scale(runs[0].config, conditions, networks)
    return Findings(
        runs[0].config,
        "Probe of input normalization",
        scale,
        inputs_page.text(conditions, networks),
        {"conditions": conditions, "networks": networks},
        inputs_page.figure(conditions, networks, footer=scale),
    )


def _scale(config, conditions: pd.DataFrame, networks: pd.DataFrame) -> str:
    rows, features = conditions[["rows", "features"]].iloc[0]
    seeds, number = networks["seed"], "float64" if config.precision == "float64" else "float32"
    return (
        f"{config.data.name}, X of {rows} training images × {features} features in float64; {config.model.name} at "
        f"initialization, loss on {config.batch_size} training images in {number}, "
        f"{seeds.nunique()} seeds ({seeds.min()} to {seeds.max()})"
    )


def keep(findings: Findings, folder: Path, command: str) -> list[Path]:
    """Write the tables, summary.md and the figure into the folder, made if need be; returns their paths.

    command: that made them. Raises UserError where the folder cannot be written.
    """
    paths = [folder / f"{name}.csv" for name in findings.tables]
    for table, path in zip(findings.tables.values(), paths, strict=True):
        write(table, path)
    here = environment(findings.config.device, cpu_threads(findings.config), 1)
    dirt = " with uncommitted changes" if here["dirty"] else ""
    facts = [
        f"- Scale: {findings.scale}",
        f"- Command: {code(command)}",
        f"- Commit: {(here['commit'] or 'unknown')[:7]}{dirt}",
        f"- Device: {here['device']}; threads: {here['threads']}; torch {here['packages']['torch']}",
    ]
    write_whole(folder / "summary.md", "\n\n".join([f"# {findings.title}", "\n".join(facts), findings.text]) + "\n")
    return [*paths, folder / "summary.md", *save(findings.figure, folder, "figure")]
