"""Which rows a cell selects: one grammar, whoever asks."""

import numpy as np
import pandas as pd
import pytest

from normbench.analysis.claims import CHECKS, decide, parse_claims
from normbench.analysis.evidence import has_value, select
from normbench.analysis.figures import sweep_figure
from normbench.analysis.kinds import KINDS
from normbench.analysis.tables_io import read, write
from normbench.records.metrics import OVER, STATUSES

# A value that a file may give, and the cells that have it among those of its column.
COLUMN = {
    "integers": [2, 8, 128],
    "floats": [0.1, 0.30000000000000004, 1e-6],
    "gaps": [2.5, np.nan, 8.0],
    "texts": ["none", "batch", "0.1"],
    "numbers": ["0.1", "0.30000000000000004", "8"],
    "mixed": [None, "0:16 0.5:32", "none"],
    "booleans": [True, False, True],
}
WANTED = [
    ("integers", 8, [1]),
    ("integers", 8.0, [1]),
    ("integers", [128, 2], [0, 2]),
    ("integers", "8", []),  # a text is no number
    ("integers", 8.1, []),
    ("floats", 0.1, [0]),
    ("floats", 0.3, [1]),  # rounded once, on its way through a file
    ("floats", 1e-6, [2]),
    ("floats", 1.000001e-6, []),
    ("gaps", None, [1]),
    ("gaps", [None, 8], [1, 2]),
    ("gaps", 2.5, [0]),
    ("texts", "none", [0]),
    ("texts", ["none", "batch"], [0, 1]),
    ("texts", None, []),
    ("texts", "nothing", []),
    ("texts", 0.1, [2]),
    ("numbers", 0.1, [0]),
    ("numbers", 0.3, [1]),
    ("numbers", "0.1", [0]),
    ("numbers", 8, [2]),
    ("mixed", None, [0]),
    ("mixed", [None, "none"], [0, 2]),
    ("mixed", 16, []),
    ("booleans", True, [0, 2]),
    ("booleans", False, [1]),
]
IDS = [f"{column}-{wanted}" for column, wanted, _ in WANTED]


@pytest.fixture
def table() -> pd.DataFrame:
    """A row a cell of each column, five seeds each."""
    rows = pd.DataFrame(COLUMN | {"arm": ["x", "y", "z"]}).loc[np.repeat(range(3), 5)].reset_index(drop=True)
    plain = {"status": "finished", "stats_batch": np.nan, "lr": 1.0, "method": rows["arm"], "batch_size": 1}
    rows = rows.assign(seed=[0, 1, 2, 3, 4] * 3, run_id=rows["arm"], **plain)
    return rows.assign(test_acc=rows["arm"].map({"x": 10.0, "y": 20.0, "z": 40.0}) + rows["seed"], val_acc=1.0)


def taken_by_a_claim(table, where):
    """The arms in which a claim finds values."""
    level = {"statement": "So.", "source": "Someone", "kind": "level", "direction": "less", "level": 0}
    claims = parse_claims([level | {"name": arm, "a": where | {"arm": arm}} for arm in "xyz"])
    return [verdict.name for verdict in decide(claims, table) if verdict.n]


def taken_by_a_panel(table, where):
    """The arms that have a line."""
    panel = {"where": where, "x": "arm", "lines": "arm"}
    figure = sweep_figure(table, [panel, {"x": "arm", "lines": "arm"}])
    return sorted(line.get_label() for line in figure.axes[0].lines if not line.get_label().startswith("_"))


@pytest.mark.parametrize(("column", "wanted", "rows"), WANTED, ids=IDS)
def test_a_panel_and_a_claim_take_the_same_rows(column, wanted, rows, table):
    expected, where = ["xyz"[row] for row in rows], {column: wanted}
    assert sorted(set(select(table, where, KeyError).arm)) == expected
    assert taken_by_a_panel(table, where) == expected
    assert taken_by_a_claim(table, where) == expected


def test_a_rate_is_found_again_after_a_file(tmp_path):
    rates = np.random.default_rng(0).uniform(1e-6, 10, 200)
    write(pd.DataFrame({"lr": rates / 3}), tmp_path / "rates.csv")
    back = read(tmp_path / "rates.csv")["lr"]
    for i, rate in enumerate(rates):
        assert has_value(back, float(f"{rate / 3:.12g}")).to_numpy().nonzero()[0].tolist() == [i]


def test_statuses_that_count():
    assert OVER == ("finished", "diverged")
    assert set(STATUSES) == {"finished", "diverged", "failed", "stopped", "running", "missing"}


# --- Kinds. -----------------------------------------------------------------------------------------------------------


def test_a_kind_takes_no_key_of_all_claims():
    for word, kind in KINDS.items():
        assert kind.word == word
        assert not set(kind.checks()) & {*CHECKS, "metric"}
        assert kind.evidence.__doc__ is None  # its own: the one of `Kind` says what it takes
