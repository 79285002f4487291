"""Values in words."""

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt

from normbench.words import code, duration, literal, markdown, typed


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (128.0, "128"),
        (128, "128"),
        (5_000_000, "5000000"),
        (1e-6, "1e-06"),
        (0.30000000000000004, "0.3"),
        (np.float64(2.5), "2.5"),
        (np.int64(3), "3"),
        (None, "null"),
        (float("nan"), "null"),
        (pd.NA, "null"),
        (True, "true"),
        (np.bool_(False), "false"),
        ("two\n words", "two words"),
        ("nan", "nan"),
        ([0.5, None, "a"], "[0.5, null, a]"),
        ({"method": ["batch", "none"], "lr": 0.1}, "{method: [batch, none], lr: 0.1}"),
    ],
)
def test_a_value_is_written_as_it_is_typed(value, expected):
    assert typed(value) == expected


def test_an_empty_cell_of_a_table():
    assert [typed(value, empty="–") for value in (None, float("nan"), pd.NA, 0)] == ["–", "–", "–", "0"]


@pytest.mark.parametrize(("seconds", "expected"), [(0.4, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3723, "1:02:03")])
def test_a_duration(seconds, expected):
    assert duration(seconds) == expected


def test_a_table_keeps_its_cells_apart():
    assert markdown(["a", "b"], "lr", [["x|y", "1\n2"]]) == "| a | b |\n| --- | ---: |\n| x\\|y | 1 2 |"


OUTSIDE = (
    *(
        "per_image",
        "_x_ and *y*",
        "**b**",
        "a|b",
        "<script>alert(1)</script>",
        "&lt;",
        "`code`",
        "[a](http://x)",
        "~~s~~",
    ),
    *(r"a\b", r"a\|b", "[0.5, 0.75]", "p < 0.001", "AT&T", "tuned*2", "![i](x)", "[a][b]", "<!-- c -->", "__init__"),
)


@pytest.fixture(scope="module")
def page():
    """Markdown → the texts of its table's cells, and the tags in it: an independent reader's."""
    reader = MarkdownIt("commonmark").enable(["table", "strikethrough"])

    def read(text):
        inline = [token for token in reader.parse(text) if token.type == "inline"]
        inside = [child for token in inline for child in token.children]
        return ["".join(child.content for child in token.children) for token in inline], {c.type for c in inside}

    return read


@pytest.mark.parametrize("text", OUTSIDE)
def test_a_text_from_outside_stands_in_a_table_as_it_is(text, page):
    assert page(markdown(["head"], "l", [[literal(text)]])) == (["head", text], {"text"})


@pytest.mark.parametrize("text", ["plain", "a`b", "``", "`", "a|b"])
def test_code_is_code_whatever_it_has_inside(text, page):
    assert page(code(text)) == ([text], {"code_inline"})


def test_what_is_meant_in_a_cell_is_markdown_and_no_page_s_tag(page):
    cells, kinds = page(markdown(["head"], "l", [["**holds**, p < 0.001 | <b>x</b>"]]))
    assert cells == ["head", "holds, p < 0.001 | <b>x</b>"]
    assert kinds == {"text", "strong_open", "strong_close"}
