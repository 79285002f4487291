"""Measure data and networks as they start, without training: tables, a summary and a figure of a probe.

python scripts/probe.py inputs                                       → results/probe_inputs/
python scripts/probe.py inputs norm=batch,group data.channel_scale=10000 --to somewhere

Its runs are those of `python -m normbench -m measure=inputs …`: in the folder `output`, and not repeated.
"""

import shlex
from pathlib import Path

from normbench.cli import CommandLine, one_line
from normbench.errors import InputError, choices_text
from normbench.records.files import require_writable
from normbench.runs.probe import PROBES, keep, probe_inputs


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
    folder = arguments.to or Path("results", f"probe_{arguments.probe}")
    if folder.exists():  # what cannot be shows before the work, not after
        require_writable(folder)
    findings = probe_inputs(arguments.overrides)
    command = shlex.join(["python", "scripts/probe.py", arguments.probe, *arguments.overrides])
    print(*keep(findings, folder, command), sep="\n")


if __name__ == "__main__":
    main()
