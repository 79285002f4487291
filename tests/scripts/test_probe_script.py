"""scripts/probe.py as a user runs it."""

import pytest

SMALL = ("data=patterns", "data.train_size=50", "model.width=1", "replicates=2", "batch_size=8")


def test_a_probe_leaves_tables_summary_and_figure_and_again_the_same(script, tmp_path):
    typed = [*SMALL, "data.input=raw,zscore"]
    done = script("probe", "inputs", *typed, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "results" / "probe_inputs"
    names = ["conditions.csv", "networks.csv", "summary.md", "figure.png", "figure.svg"]
    assert done.stdout.split() == [f"results/probe_inputs/{name}" for name in names]
    text = (folder / "summary.md").read_text()
    assert text.startswith("# Probe of input normalization\n")
    assert f"- Command: `python scripts/probe.py inputs {' '.join(typed)}`\n" in text
    for word in ("- Commit: ", "- Device: ", "torch ", "2 seeds (0 to 1)", "50 training images"):
        assert word in text
    assert script("probe", "inputs", *typed, "--to", tmp_path / "again", cwd=tmp_path).returncode == 0
    assert {name: (folder / name).read_bytes() for name in names} == {
        path.name: path.read_bytes() for path in (tmp_path / "again").iterdir()
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["input"], ["probe=input", "did you mean inputs?", "choices: inputs"]),
        (["inputs", "norm=gruop"], ["norm=gruop", "did you mean group?"]),
        (["inputs", "batch_size=8,16"], ["data.input and norm may have several values"]),
        (["inputs", *SMALL, "data.input=raw", "norm=none", "--to", "taken"], ["taken: File exists"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_status_2(arguments, words, told, tmp_path):
    (tmp_path / "taken").write_text("")
    (line,) = [line for line in told("probe", *arguments).splitlines() if not line.endswith(": measured")]
    for word in words:
        assert word in line
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
