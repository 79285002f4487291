"""Command lines: normbench's flags and its --help, and what the scripts have in common."""

import os
import re
import sys
from argparse import Action, ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Callable
from functools import wraps
from pathlib import Path

from normbench.config.files import GROUPS, choices, conf_dir, default_choices, documented
from normbench.errors import UserError
from normbench.terminal import any_terminal


class CommandLine(ArgumentParser):
    """The parser of a script, whose mistakes are UserErrors. doc: of the script, which is its help."""

    def __init__(self, doc: str):
        super().__init__(description=doc, formatter_class=RawDescriptionHelpFormatter)

    def error(self, message):
        raise UserError(f"{message} (see --help)")


def whole(least: int, most: int) -> Callable[[str], int]:
    """The type of an argument that is an integer from `least` to `most`."""

    def number(text: str) -> int:
        if not re.fullmatch(r"[+-]?\d{1,18}", text) or not least <= int(text) <= most:
            raise ArgumentTypeError(f"{text}: must be an integer from {least} to {most}")
        return int(text)

    return number


def study_command(doc: str, to: str, target: str = "a study, or a folder with runs.csv") -> CommandLine:
    """What the scripts take: a study or folder, `target`, and its tables' folder, `to`: what `study_of` asks for.

    doc: of the script. to, target: what they are to it.
    """
    parser = CommandLine(doc)
    parser.add_argument("target", help=target)
    parser.add_argument("--to", type=Path, help=to)
    where = "only rows that have the value, or one of several with commas between; repeatable"
    parser.add_argument("--where", action=Where, type=_condition, default={}, metavar="COLUMN=VALUE", help=where)
    return parser


class Where(Action):
    """Gathers conditions: column → values."""

    def __call__(self, parser, namespace, values, option_string=None):
        column, wanted = values
        before = getattr(namespace, self.dest)
        setattr(namespace, self.dest, before | {column: [*before.get(column, []), *wanted]})


def _condition(text: str) -> tuple[str, list]:
    """`batch_size=2,8` → the column and its values, as a study's file has them."""
    column, equals, values = text.partition("=")
    if not (column and equals):
        raise UserError(f"--where {text}: write column=value")
    return column, [_value(value) for value in values.split(",")]


def _value(text: str):
    try:
        return float(text)
    except ValueError:
        return {"null": None, "": None, "true": True, "false": False}.get(text, text)


def power(words: list[str]) -> int:
    """`normbench power STUDY`: which differences its seeds will show."""
    from normbench.analysis.foresight import foresight
    from normbench.analysis.study import study_of

    doc = "Which difference the seeds of a study show with 80 % power, before its runs: `normbench power STUDY`."
    parser = CommandLine(doc)
    parser.prog = "normbench power"
    parser.add_argument("study", help="a study")
    parser.add_argument("--like", help="a study whose runs tell the spread between seeds (by default itself)")
    parser.add_argument("--seeds", help="numbers of seeds, like 5,10,20 (those of its looks, or its replicates)")
    arguments = parser.parse_args(words)
    seeds = (arguments.seeds or "").replace(" ", "")
    if seeds and not all(n.isdigit() and int(n) > 1 for n in seeds.split(",")):
        raise UserError(f"--seeds={arguments.seeds}: must be numbers of seeds from 2 on, like 5,10,20")
    study = study_of(arguments.study, None)
    similar = study_of(arguments.like, None) if arguments.like else study
    if similar is study and not (study.folder / "runs.csv").is_file():
        raise UserError(f"{study.name}: no runs in {study.folder} yet; --like names a study whose runs tell the spread")
    print(foresight(study, similar, [int(n) for n in seeds.split(",") if n]))
    return 0


def one_line(main: Callable[[], None]) -> Callable[[], None]:
    """A script's main function that ends with one line and exit status 2 at a user's mistake."""

    @wraps(main)
    def guarded():
        with any_terminal():
            try:
                main()
            except UserError as error:
                print(f"{sys.argv[0]}: {error}", file=sys.stderr)
                raise SystemExit(2) from None

    return guarded


def parse_flags(command: list[str]):
    """The flags of the command line, which are Hydra's, and its overrides, in any order.

    Raises UserError for a flag that there is not, or that would do nothing here.
    """

    def refuse(message):
        raise UserError(f"{message}; keys are written key=value, without dashes (see --help)")

    from hydra._internal.utils import get_args_parser  # the scripts do without

    parser = get_args_parser()
    parser.add_argument("--dry-run", action="store_true")
    parser.error = refuse
    arguments = parser.parse_intermixed_args(command)
    for flag in ("--config-path", "--config-name", "--config-dir", "--experimental-rerun"):
        if getattr(arguments, flag.strip("-").replace("-", "_")) is not None:
            raise UserError(f"{flag}: normbench reads its own configuration files alone; set keys with key=value")
    asked = arguments.cfg or arguments.info or arguments.hydra_help
    for flag, given in (("--resolve", arguments.resolve), ("--package", arguments.package)):
        if given and not arguments.cfg:
            raise UserError(f"{flag}: says how --cfg prints; add --cfg job")
    if arguments.shell_completion:
        _check_completion(arguments.overrides)
    if arguments.run and (arguments.multirun or asked):
        raise UserError("--run: is one run, which is what there is without flags; leave it out")
    if arguments.dry_run and (asked or arguments.shell_completion):
        raise UserError("--dry-run: lists runs; --cfg, --info and the like print something else: leave one out")
    if arguments.multirun and (arguments.cfg or arguments.info):
        raise UserError("--multirun: --cfg and --info show one configuration; leave it out")
    return arguments


def _check_completion(overrides: list[str]) -> None:
    words = [word.partition("=") for word in overrides]
    if len(words) != 1 or words[0][0] not in ("install", "uninstall", "query") or not words[0][2]:
        raise UserError("--shell-completion: add install=SHELL or uninstall=SHELL, where SHELL is bash, fish or zsh")


def help_text() -> str:
    """What `--help` prints: the groups with their choices, every top-level key with its comment."""
    lines = [
        "normbench trains small networks on CIFAR-10 with any normalization method.",
        "",
        "  python -m normbench norm=group batch_size=2                  one run",
        "  python -m normbench -m norm=batch,group,none batch_size=2,8  a sweep: every combination",
        "",
        "Both norm=group and +norm=group are understood. A finished run is not repeated, a stopped one goes on.",
        "",
        "Groups (choose with group=choice; the default is marked *):",
    ]
    for group in GROUPS:
        names = [f"{name}*" if default_choices().get(group) == name else name for name in choices(group)]
        lines += _wrapped(f"  {group:<11}", names)
    lines += ["", "Keys (set with key=value; group keys with group.key=value):", ""]
    lines += [f"  {line}" if line else "" for line in documented("config.yaml", without=("defaults", "hydra"))]
    for group in ("norm", "data", "augment", "optim"):
        choice = default_choices()[group]
        lines += ["", f"  {group}:                 # with {group}={choice}"]
        lines += [f"    {line}" for line in documented(f"{group}/{choice}.yaml", without=("name",))]
    lines += [
        "",
        "python -m normbench power STUDY: the differences that its seeds will show (--like OTHER, --seeds 5,10,20).",
        "Flags: -m, --multirun: a sweep. --dry-run: list the runs with their status and time, and stop.",
        "       --cfg job: print the configuration and stop. --hydra-help: Hydra's own.",
        f"Files of the groups: {os.path.relpath(conf_dir())}",
    ]
    return "\n".join(lines)


def _wrapped(head: str, names: list[str], width: int = 110) -> list[str]:
    lines = [head]
    for name in names:
        if len(lines[-1]) + len(name) > width:
            lines.append(" " * len(head))
        lines[-1] += f"{name} "
    return [line.rstrip() for line in lines]
