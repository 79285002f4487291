"""The tables of docs/, made from the code: methods, measurements, keys, kinds of claims, outcomes.

A document holds each between `<!-- generated: NAME -->` and `<!-- end -->`; `scripts/docs.py` writes them anew.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields

import yaml

from normbench.analysis.kinds import KINDS
from normbench.cards import costs, findings
from normbench.config.files import GROUPS, OF_ALL, choices, conf_dir, default_choices
from normbench.config.keys import KEYS, identity_of
from normbench.errors import require_choice
from normbench.facts import facts_of
from normbench.measures import MEASURES
from normbench.norms import NORMS, Method
from normbench.records.metrics import COLUMNS, COST, MEASUREMENTS, PEAK_MEMORY, SERIES, Outcome

MARKED = re.compile(r"(?<=<!-- generated: )([\w ]+)( -->\n)(.*?)(?=<!-- end -->)", re.DOTALL)

# What a method may replace and do, in words.
PARTS = {
    "norm": "norm",
    "norm_act": "norm and activation as one",
    "conv": "convolution",
    "linear": "linear layer",
    "pad": "shortcut without weights",
    "residual_sum": "residual sum",
    "residual": "end of a residual branch",
    "initialize": "first draw of the weights",
    "prepare": "start on a first batch",
    "before_step": "something before each step",
    "lr_factor": "learning rates of its own",
    "form": "first steps of their own",
    "model": "one network alone",
}
NAMES_A_RUN = {"always": "always", "unless_default": "unless default", "never": "never"}


def filled(text: str) -> str:
    """A document with its tables as the code has them now. Raises InputError for a table that there is not."""

    def table(found: re.Match) -> str:
        name, end, _ = found.groups()
        require_choice("generated", name, TABLES)
        return f"{name}{end}\n{TABLES[name]()}\n\n"

    return MARKED.sub(table, text)


# --- Markdown. --------------------------------------------------------------------------------------------------------


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    def line(cells):
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    head = list(head)
    return "\n".join([line(head), "|" + "---|" * len(head), *map(line, rows)])


def _code(*words: str) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _paper(paper: str) -> str:
    """`Wu & He 2018, arXiv 1803.08494` as a link."""
    return re.sub(r"(.*), arXiv ([\d.]+)", r"[\1](https://arxiv.org/abs/\2)", paper)


# --- What the files of conf/ say. -------------------------------------------------------------------------------------


def _said(relative: str) -> dict[str, tuple[str, str]]:
    """Dotted key → its value as it stands in a file of conf/, and the comment behind it."""
    text = (conf_dir() / relative).read_text("utf-8")
    lines = text.splitlines()

    def leaves(node, prefix="") -> Iterator[tuple[str, tuple[str, str]]]:
        for key, value in node.value:
            name, end = f"{prefix}{key.value}", value.end_mark
            if isinstance(value, yaml.MappingNode):
                yield from leaves(value, f"{name}.")
            else:
                comment = lines[end.line][end.column :].partition("#")[2] if end.line < len(lines) else ""
                yield name, (text[value.start_mark.index : end.index], comment.strip())

    return {name: said for name, said in leaves(yaml.compose(text, yaml.SafeLoader)) if name != "defaults"}


def _options(group: str, choice: str) -> dict[str, tuple[str, str]]:
    """Key → value and comment, of a choice's own file, less its name."""
    return {name: said for name, said in _said(f"{group}/{choice}.yaml").items() if name != "name"}


def _head(group: str, choice: str) -> str:
    """The sentence at the head of a choice's file."""
    return (conf_dir() / group / f"{choice}.yaml").read_text("utf-8").splitlines()[0].removeprefix("# ")


# --- The tables. ------------------------------------------------------------------------------------------------------


def methods() -> str:
    """A row a method: what it is, where it is defined, what of a network is its own, and its options."""
    rows = []
    for name, method in NORMS.items():
        facts = facts_of(name)
        own = [PARTS[field.name] for field in fields(Method) if getattr(method, field.name) != field.default]
        batch = "yes" if facts.batch_statistics else ""
        rows.append(
            [_code(name), _what(name), _paper(facts.paper), ", ".join(own), batch, _code(*_options("norm", name))]
        )
    return _table(["`norm=`", "what it is", "paper", "of its own", "batch statistics", "options"], rows)


def method_options() -> str:
    """A row an option: its default and what it is; methods in which these agree share one."""
    owners: dict[tuple[str, str, str], list[str]] = {}
    for method in NORMS:
        for name, said in _options("norm", method).items():
            owners.setdefault((name, *said), []).append(method)
    rows = ([_code(f"norm.{name}"), _code(default), what, _code(*of)] for (name, default, what), of in owners.items())
    return _table(["key", "default", "what", "of"], rows)


def method_cards() -> str:
    """A section a method: what it is, its formula, paper and options, what it costs, what the studies found."""
    return "\n\n".join(map(_card, NORMS))


def _card(name: str) -> str:
    facts, options = facts_of(name), _options("norm", name)
    lines = [
        f"## {name}",
        "",
        _what(name),
        "",
        f"* **Formula**: {facts.formula}",
        f"* **Paper**: {_paper(facts.paper)}",
    ]
    lines += [f"* `norm.{key}` {_code(default)}: {what}" for key, (default, what) in options.items()]
    cost = [f"{shape}: {ms} ms, × {time} ({kept})" for shape, (ms, time, kept) in costs(name).items()]
    lines.append(f"* **Cost**: {'; '.join(cost) or 'not measured yet'}")
    found = findings(name)
    lines.append("* **Found here**:" if found else "* **Found here**: no claim of a finished study names it yet")
    return "\n".join([*lines, *(f"  * {line}" for line in found)])


def _what(name: str) -> str:
    """The sentence at the head of a method's file, less its paper."""
    return re.sub(r" \(arXiv [\d.]+\)", "", _head("norm", name))


def measurements() -> str:
    """A row a measurement: what it does, and its options with their defaults."""
    rows = []
    for name in MEASURES:
        options = [f"{_code(key)} {default}: {what}" for key, (default, what) in _options("measure", name).items()]
        rows.append([_code(name), _head("measure", name), "; ".join(options)])
    return _table(["`measure=`", "what it does", "options, with their defaults"], rows)


def keys() -> str:
    """Those of config.yaml, then group by group: the default, what it is, and whether the key is part of a run's name.

    Options of methods and measurements are in tables of their own.
    """
    own = {name: said for name, said in _said("config.yaml").items() if not name.startswith("hydra.")}
    parts = [_keys_table({name: said for name, said in own.items() if "." not in name})]
    for part in dict.fromkeys([*GROUPS, *(name.partition(".")[0] for name in own if "." in name)]):
        rows = {name: said for name, said in own.items() if name.startswith(f"{part}.")}
        if part in GROUPS and part not in OF_ALL:
            rows = _of_group(part) | rows
        if rows:
            parts += [f"### {part}", _keys_table(rows)]
    return "\n\n".join(parts)


def _of_group(group: str) -> dict[str, tuple[str, str]]:
    """Key → default and comment: the choice of a group, then what the files of its choices have."""
    default = default_choices()[group]
    rows = {group: (default, f"one of {_code(*choices(group))}")}
    if group in ("norm", "measure"):  # but for options that have a line in KEYS
        every = {f"{group}.{key}": said for one in choices(group) for key, said in _options(group, one).items()}
        return rows | {name: said for name, said in every.items() if name in KEYS}
    others: dict[str, dict[str, list[str]]] = {}
    for choice in (default, *(choice for choice in choices(group) if choice != default)):
        for name, (value, comment) in _options(group, choice).items():
            known = rows.setdefault(f"{group}.{name}", (value if choice == default else "", comment))
            if known[0] != value:
                others.setdefault(f"{group}.{name}", {}).setdefault(value, []).append(choice)
    for name, values in others.items():
        told = "; ".join(f"{', '.join(of)}: {_code(value)}" for value, of in values.items())
        rows[name] = (rows[name][0], f"{rows[name][1]} ({told})".strip())
    return rows


def _keys_table(rows: dict[str, tuple[str, str]]) -> str:
    def cells(name, default, what):
        key = f"{name}.name" if name in GROUPS else name
        return [_code(name), _code(default) if default else "", what, NAMES_A_RUN[identity_of(key)]]

    return _table(["key", "default", "what", "names a run"], (cells(name, *said) for name, said in rows.items()))


def kinds() -> str:
    """A row a kind of claims: its keys, which of the options of some it takes, and when such a claim holds."""
    rows = ([_code(word), _code(*kind.checks()), _code(*kind.options), kind.__doc__] for word, kind in KINDS.items())
    return _table(["`kind`", "keys", "and", "holds where"], rows)


def outcomes() -> str:
    """A row an outcome of a replicate; those that several measurements have stand once."""
    of: dict[Outcome, list[str]] = {}
    for measurement, some in MEASUREMENTS.items():
        for outcome in some:
            of.setdefault(outcome, []).append(_code(measurement))
    of |= {outcome: ["all"] for outcome in (*COST, PEAK_MEMORY)}
    rows = ([*_outcome(outcome), ", ".join(names)] for outcome, names in of.items())
    return _table(["column", "what", "unit", "better", "measurement"], rows)


def series() -> str:
    """A row a column of a training's metrics.csv that says how it stands."""
    return _table(["column", "what", "unit", "better"], map(_outcome, SERIES))


def columns() -> str:
    """The columns of metrics.csv, by measurement."""
    rows = ([_code(name), _code(*columns)] for name, columns in COLUMNS.items())
    return _table(["measurement", "columns of metrics.csv"], rows)


def _outcome(outcome: Outcome) -> list[str]:
    return [_code(outcome.name), outcome.words, outcome.unit, outcome.better or ""]


TABLES: dict[str, Callable[[], str]] = {
    "methods": methods,
    "method options": method_options,
    "method cards": method_cards,
    "measurements": measurements,
    "keys": keys,
    "kinds of claims": kinds,
    "outcomes": outcomes,
    "series": series,
    "columns": columns,
}
