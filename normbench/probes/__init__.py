"""Probes: measurements of data and of networks as they start, without any training. scripts/probe.py runs them.

A probe is a function from overrides, as a sweep takes them, to Findings.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from normbench.analysis.figures import save
from normbench.config.overrides import normalize, plan
from normbench.config.resolve import resolve
from normbench.records.directory import plainly
from normbench.records.environment import environment
from normbench.runs.collect import write
from normbench.tasks.build import check_network
from normbench.threads import cpu_threads


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


def configurations(overrides: Iterable[str], defaults: Iterable[str]) -> list:
    """The resolved configurations of a probe, a configuration for every combination of the values of its overrides.

    overrides: as the user typed them. defaults: the probe's own, each for a key that is not typed.
    Raises InputError and UserError as a sweep does.
    """
    typed, own = normalize(list(overrides)), normalize(list(defaults))
    keys = {word.partition("=")[0] for word in typed}
    jobs, _, _ = plan([word for word in own if word.partition("=")[0] not in keys] + typed, True)
    configs = [resolve(job.config) for job in jobs]
    for config in configs:
        check_network(config)
    return configs


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
        f"- Command: `{command}`",
        f"- Commit: {(here['commit'] or 'unknown')[:7]}{dirt}",
        f"- Device: {here['device']}; threads: {here['threads']}; torch {here['packages']['torch']}",
    ]
    with plainly(folder):
        (folder / "summary.md").write_text("\n\n".join([f"# {findings.title}", "\n".join(facts), findings.text]) + "\n")
        return [*paths, folder / "summary.md", *save(findings.figure, folder, "figure")]
