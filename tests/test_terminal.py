"""What is printed reaches any terminal, and files are the same whatever its locale."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import last_of_each

from normbench.__main__ import main
from normbench.terminal import any_terminal

ROOT = Path(__file__).parents[1]
PLAIN = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}  # open() then means ASCII


@pytest.mark.parametrize(
    ("encoding", "printed"),
    [
        ("utf-8", "41.5 ± 0.3 – β ≥ 1 λ 日 \\udcff"),
        ("latin-1", "41.5 ± 0.3 - beta >= 1 \\u03bb \\u65e5 \\udcff"),
        ("cp1252", "41.5 ± 0.3 – beta >= 1 \\u03bb \\u65e5 \\udcff"),
        ("ascii", "41.5 +/- 0.3 - beta >= 1 \\u03bb \\u65e5 \\udcff"),
    ],
)
def test_what_an_encoding_lacks_is_spelt(encoding, printed, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    with any_terminal():
        print("41.5 ± 0.3 – β ≥ 1 λ 日 \udcff", end="")
    assert stream.buffer.getvalue() == printed.encode(encoding)


def ascii_only(*arguments, cwd):
    environment = os.environ | PLAIN | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, timeout=300)


def test_a_table_in_a_terminal_of_ascii_is_the_same_file(tmp_path):
    shutil.copytree(ROOT / "results" / "brightness", tmp_path / "there")
    (tmp_path / "there" / "summary.md").unlink()
    done = ascii_only(ROOT / "scripts" / "table.py", "brightness", "--to", "there", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert (tmp_path / "there" / "summary.md").read_bytes() == (ROOT / "results/brightness/summary.md").read_bytes()


def test_help_in_a_terminal_of_ascii(tmp_path):
    done = ascii_only("-m", "normbench", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert b">=" in done.stdout or done.stdout.isascii()


def test_a_reader_that_leaves_early_is_no_fault(tmp_path):
    command = [sys.executable, "-m", "normbench", "--help"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 141  # as of a process that SIGPIPE ended


def test_a_sweep_goes_on_when_nobody_listens_any_more(tiny, tmp_path, monkeypatch):
    for name in ("stdout", "stderr"):
        reader, writer = os.pipe()
        os.close(reader)
        monkeypatch.setattr(sys, name, open(writer, "w"))  # noqa: SIM115 - until the end of the test
    typed = ["-m", "seed=0,1", *tiny, "epochs=1", f"output={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["normbench", *last_of_each(typed)])
    with pytest.raises(SystemExit, match="141"):
        main()
    results = [json.loads(path.read_text()) for path in tmp_path.glob("*/result.json")]
    assert [result["status"] for result in results] == ["finished", "finished"]
