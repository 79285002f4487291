"""Tables as files: harmless to a spreadsheet, and what hands did to one told in one line."""

import csv

import pandas as pd
import pytest

from normbench.analysis.study import study_of
from normbench.analysis.tables_io import read, write
from normbench.errors import UserError

RESULTS = "results/brightness"
TEXTS = ("=1+1", "+1+1", "-x", "@sum", "'=1+1", "'", "it's", "-1.5", "+2", "=", "plain", "\tx")


def test_texts_that_a_spreadsheet_would_work_out_are_marked_and_come_back(tmp_path):
    write(pd.DataFrame({"study": TEXTS, "lr": range(len(TEXTS))}), tmp_path / "table.csv")
    with open(tmp_path / "table.csv", newline="") as file:
        cells = [row["study"] for row in csv.DictReader(file)]
    assert cells == ["'=1+1", "'+1+1", "'-x", "'@sum", "''=1+1", "''", "it's", "-1.5", "+2", "'=", "plain", "'\tx"]
    assert list(read(tmp_path / "table.csv")["study"]) == list(TEXTS)


def test_a_study_of_any_name_comes_back_as_it_was_written(tmp_path):
    names = ["NA", "None", "null", "nan", "1e5", "true", "007", "-", "N/A"]
    write(pd.DataFrame({"study": [*names, None], "lr": [0.1] * 9 + [None]}), tmp_path / "table.csv")
    table = read(tmp_path / "table.csv")
    assert list(table["study"][:9]) == names
    assert table["study"].isna().tolist() == table["lr"].isna().tolist() == [False] * 9 + [True]


@pytest.fixture
def edited(tmp_path):
    """A study's table with its text changed."""
    text = (study_of("brightness", None).folder.resolve() / "runs.csv").read_text()

    def edit(change):
        content = change(text)
        (tmp_path / "runs.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
        return study_of("brightness", tmp_path)

    return edit


def test_a_spreadsheet_s_mark_before_a_table_is_none_of_it(edited):
    assert list(edited(lambda text: "\ufeff" + text).runs) == list(edited(lambda text: text).runs)


def cell(column: str, value: str, row: int = 3):
    """Edits one cell."""

    def change(text):
        rows = list(csv.reader(text.splitlines()))
        rows[row][rows[0].index(column)] = value
        return "\n".join(",".join(f'"{one}"' if "," in one else one for one in line) for line in rows) + "\n"

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (cell("test_acc", "abc"), "row 3: test_acc=abc: must be a number"),
        (cell("test_acc", "41,5"), "row 3: test_acc=41,5: must be a number"),
        (cell("seed", ""), "row 3: seed=: must not be empty"),
        (cell("seed", "1.5"), "row 3: seed=1.5: must be an integer"),
        (cell("seed", "9" * 30), "row 3: seed=9999"),
        (cell("status", "done"), "row 3: status=done: choices: diverged, failed, finished"),
        (cell("status", ""), "row 3: status=: choices"),
        (cell("method", ""), "row 3: method=: must not be empty"),
        (cell("batch_size", "two", 5), "row 5: batch_size=two: must be a number"),
        (lambda text: text.splitlines()[0] + "\n", "a table without rows"),
        (lambda text: "", "no table that scripts/collect.py wrote"),
        (lambda text: text.replace(",", ";"), "no table that scripts/collect.py wrote (without"),
        (lambda text: text.encode().replace(b"finished", b"\xe9"), "no table that scripts/collect.py wrote"),
        (lambda text: text.replace("val_acc,", "test_acc,", 1), "several columns test_acc"),
        (lambda text: text.replace("val_acc,", "", 1), "row 1: seed=resnet8: must be an integer"),
    ],
)
def test_what_hands_did_to_a_table_is_told_in_one_line(edited, change, words):
    with pytest.raises(UserError) as told:
        _ = edited(change).runs
    assert "runs.csv" in str(told.value)
    assert words in str(told.value)
    assert "\n" not in str(told.value)


def test_a_column_of_truths_is_none_of_numbers(edited):
    def change(text):
        rows = list(csv.reader(text.splitlines()))
        at = rows[0].index("test_acc")
        return "\n".join(
            ",".join([*row[:at], row[at] if i == 0 else "True", *row[at + 1 :]]) for i, row in enumerate(rows)
        )

    with pytest.raises(UserError, match="row 1: test_acc=true: must be a number"):
        _ = edited(change).runs
