"""Measure data and networks as they start, without training: tables, a summary and a figure of a probe.

python scripts/probe.py inputs                                       → results/probe_inputs/
python scripts/probe.py inputs norm=batch,group data.channel_scale=10000 --to somewhere
"""

import shlex
from collections.abc import Callable
from pathlib import Path

from normbench.cli import CommandLine, one_line
from normbench.errors import InputError, choices_text
from normbench.probes import Findings, inputs, keep

# A probe: overrides → Findings. To add one: a function in normbench/probes/ and a line here.
PROBES: dict[str, Callable[[list[str]], Findings]] = {
    "inputs": inputs.probe,
}


@one_line
def main() -> None:
    parser = CommandLine(__doc__)
    parser.add_argument("probe", help=f"which one: {', '.join(PROBES)}")
    parser.add_argument(
        "overrides", nargs="*", help="key=value, as for a run; keys that the probe varies: several values"
    )
    parser.add_argument("--to", type=Path, help="folder for what it finds (results/probe_PROBE)")
    arguments = parser.parse_intermixed_args()
    if arguments.probe not in PROBES:
        raise InputError("probe", arguments.probe, choices_text(arguments.probe, PROBES))
    findings = PROBES[arguments.probe](arguments.overrides)
    command = shlex.join(["python", "scripts/probe.py", arguments.probe, *arguments.overrides])
    print(*keep(findings, arguments.to or Path("results", f"probe_{arguments.probe}"), command), sep="\n")


if __name__ == "__main__":
    main()
