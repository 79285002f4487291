"""The documents say what the code does: their tables are the code's, their links and commands lead somewhere."""

import json
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
from hydra.core.config_store import ConfigStore

from normbench import cards
from normbench.analysis.kinds import KINDS
from normbench.cli import parse_flags, power
from normbench.config.files import choices
from normbench.config.keys import KEYS, measure_keys, method_keys
from normbench.config.overrides import is_search, normalize, normalize_search, plan
from normbench.docs import PARTS, TABLES, filled
from normbench.errors import InputError
from normbench.facts import facts_of
from normbench.norms import NORMS, Method
from normbench.records.metrics import MEASUREMENTS, METRICS, of_measurement
from normbench.runs.planned import runs_of

ROOT = Path(__file__).parents[1]
DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
}
FENCED = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(start: str) -> list[str]:
    """The lines of all code blocks that begin so, less the comment behind them."""
    lines = [line for text in DOCUMENTS.values() for block in FENCED.findall(text) for line in block.splitlines()]
    return sorted({re.split(r"\s+#", line)[0] for line in lines if re.match(start, line)})


def anchors(text: str) -> set[str]:
    """The names that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def in_table(document: str, table: str) -> set[str]:
    """What the first column of a generated table names, its head aside."""
    text = re.search(rf"<!-- generated: {table} -->(.*?)<!-- end -->", DOCUMENTS[f"docs/{document}.md"], re.DOTALL)[1]
    return set(re.findall(r"^\| `([^`]+)` \|(?!.*\n\|---)", text, re.MULTILINE))


# --- The tables. ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS)
def test_its_tables_are_what_the_code_makes(document):
    assert filled(DOCUMENTS[document]) == DOCUMENTS[document], "make docs"


def test_every_kind_of_claim_has_its_error_rates():
    simulated = re.findall(r"^\| (\w+)", DOCUMENTS["docs/error_rates.md"], re.MULTILINE)
    assert set(KINDS) <= set(simulated)


def test_every_table_stands_once():
    marked = [name for text in DOCUMENTS.values() for name in re.findall(r"<!-- generated: (.*?) -->", text)]
    assert sorted(marked) == sorted(TABLES)
    assert sum(text.count("<!-- end -->") for text in DOCUMENTS.values()) == len(TABLES)


def test_a_table_that_the_code_has_changed_is_told_apart():
    stale = DOCUMENTS["docs/methods.md"].replace("| `group` |", "| `groups` |")
    assert filled(stale) == DOCUMENTS["docs/methods.md"] != stale


def test_an_unknown_table_is_told_with_the_choices():
    with pytest.raises(InputError, match="generated=method: did you mean methods"):
        filled("<!-- generated: method -->\n<!-- end -->\n")


def test_every_method_and_option_is_told():
    assert in_table("methods", "methods") == set(choices("norm"))
    options = {name for method in choices("norm") for name in method_keys(method)}
    assert in_table("methods", "method options") == options


def test_every_measurement_and_option_is_told():
    assert in_table("measurements", "measurements") == set(choices("measure"))
    for measure in choices("measure"):
        for option in measure_keys(measure):
            assert f"`{option.removeprefix('measure.')}`" in DOCUMENTS["docs/measurements.md"]


def test_every_key_is_told_with_what_it_names():
    named = in_table("keys", "keys")
    assert {name.removesuffix(".name") for name in KEYS} == named
    for name, names_a_run in (
        ("batch_size", "always"),
        ("evaluation.every_steps", "unless default"),
        ("force", "never"),
    ):
        assert re.search(rf"^\| `{name}` \|.*\| {names_a_run} \|$", DOCUMENTS["docs/keys.md"], re.MULTILINE)


def test_every_kind_of_claim_and_outcome_is_told():
    assert in_table("studies", "kinds of claims") == set(KINDS)
    some = {outcome.name for measurement in MEASUREMENTS for outcome in of_measurement(measurement)}
    assert in_table("records", "outcomes") == some | {"peak_memory_mb"}
    assert in_table("records", "series") < set(METRICS)


def test_what_a_method_may_replace_and_do_has_words():
    assert set(PARTS) == {field.name for field in fields(Method)}


# --- What stands around them. -----------------------------------------------------------------------------------------


def test_the_readme_is_short():
    assert DOCUMENTS["README.md"].count("\n") < 150


@pytest.mark.parametrize("document", DOCUMENTS)
def test_its_links_lead_somewhere(document):
    folder = (ROOT / document).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", DOCUMENTS[document])):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = (folder / name).resolve() if name else ROOT / document
        assert path.exists(), target
        assert not anchor or anchor in anchors(path.read_text()), target


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_files_that_it_names_are_there(document):
    for name in re.findall(
        r"`((?:conf|docs|normbench|notebooks|scripts|tests)/[a-z_0-9/]+(?:\.\w+|/))`", DOCUMENTS[document]
    ):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name.startswith("docs/")])
def test_the_readme_leads_to_it(document):
    assert f"]({document})" in DOCUMENTS["README.md"]


@pytest.mark.parametrize("command", commands(r"python -m normbench power "))
def test_its_question_is_answered(command, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    power(shlex.split(command.partition(" power ")[2]))
    assert "| claim | margin |" in capsys.readouterr().out


@pytest.mark.parametrize("command", commands(r"python -m normbench (?!power )|torchrun .*-m normbench "))
def test_its_command_is_understood(command):
    """Up to the configuration of each of its runs; none begins."""
    for group, name in re.findall(r"(hydra/launcher|hydra/sweeper)=(\w+)", command):
        if f"{name}.yaml" not in ConfigStore.instance().list(group):
            pytest.skip(f"{group}={name} is not installed")
    arguments = parse_flags(shlex.split(command.partition("-m normbench ")[2]))
    if not arguments.help:
        searched = is_search(arguments.overrides)
        overrides = normalize_search(arguments.overrides)[1] if searched else normalize(arguments.overrides)
        jobs, _, _ = plan(overrides, arguments.multirun and not searched)
        assert runs_of(jobs)


@pytest.mark.parametrize("command", commands(r"make |python scripts/"))
def test_its_script_or_target_is_there(command):
    runner, what, *arguments = shlex.split(command)
    if runner == "make":
        assert re.search(rf"^{what}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        study = dict(argument.split("=", 1) for argument in arguments).get("STUDY")
        assert study in (None, *choices("experiment"))
    else:
        assert (ROOT / what).exists()


@pytest.mark.parametrize("start", ["python -m normbench ", "python scripts/", "make ", "torchrun "])
def test_there_are_commands_to_try(start):
    assert commands(start)


def test_the_script_has_nothing_left_to_write(run_script, tmp_path, capsys):
    run_script("docs", cwd=tmp_path)
    assert capsys.readouterr().out == ""


# --- Cards. -----------------------------------------------------------------------------------------------------------


def test_a_card_has_the_formula_cost_and_verdicts_of_its_method(tmp_path, monkeypatch):
    claim = {"kind": "difference", "statement": "A.", "source": "X", "a": {"method": ["rms", "group"]}}
    other = {"kind": "level", "statement": "C.", "source": "Y", "metric": "val_acc", "a": {"method": "batch"}}
    rows = [
        "| claim | kind, metric | estimate | margin | n | p | verdict | note |",
        "|---|---|",
        "| C. (Y) | level, val_acc | 3 | 1 | 5 | 0.5 | **holds** | – |",
        "| **primary:** A. (X) | difference, test_acc | +1 | 0 | 5 | 0.01 | **does not hold** | – |",
    ]
    (tmp_path / "some").mkdir()
    (tmp_path / "some/claims.json").write_text(json.dumps({"one": {"text": claim}, "two": {"text": other}}))
    (tmp_path / "some/summary.md").write_text(
        "\n".join(["# some", "", "## Claims", "", *rows, "", "## Power", "| D |"])
    )
    monkeypatch.setattr(cards, "RESULTS", tmp_path)
    (found,) = cards.findings("rms")
    assert found.startswith("**does not hold**, [some](../results/some/summary.md): A. ")
    assert found.endswith(" (difference, test_acc): +1, n = 5")
    assert (cards.findings("group"), cards.findings("dyt"), cards.costs("rms")) == ([found], [], {})
    sections = DOCUMENTS["docs/method_cards.md"].split("\n## ")[1:]
    assert [section.splitlines()[0] for section in sections] == list(NORMS)
    assert all(f"* **Formula**: {facts_of(name).formula}\n" in text for name, text in zip(NORMS, sections, strict=True))
