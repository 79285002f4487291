"""The package as pip installs it, away from the checkout."""

import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from normbench import __main__
from normbench.config.files import GROUPS, choices

ROOT = Path(__file__).parents[2]


def test_the_console_script_is_main():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, name = project["scripts"]["normbench"].partition(":")
    assert getattr(import_module(module), name) is __main__.main


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that holds `pip install .` and nothing of the checkout."""
    folder = tmp_path_factory.mktemp("installed") / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder]
    try:
        import hatchling  # noqa: F401

        pip.append("--no-build-isolation")
    except ModuleNotFoundError:
        pass
    done = subprocess.run([*pip, ROOT], capture_output=True, text=True, timeout=300, cwd=folder.parent)
    if "No matching distribution found for hatchling" in done.stderr:
        pytest.skip("pip finds no hatchling, the build backend")
    assert done.returncode == 0, done.stderr
    return folder


def test_the_installed_package_brings_its_configuration(installed, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(installed)}
    where = "import normbench.config.files as c; print(c.__file__); print(c.conf_dir())"
    run = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "timeout": 120}
    done = subprocess.run([sys.executable, "-c", where], **run)
    module, conf = map(Path, done.stdout.split("\n")[:2])
    assert module.is_relative_to(installed)
    assert conf.is_relative_to(installed)
    assert {p.relative_to(conf) for p in conf.rglob("*.yaml")} == {
        p.relative_to(ROOT / "conf") for p in (ROOT / "conf").rglob("*.yaml")
    }

    script = next((installed / "bin").glob("normbench*"))
    for command in ([sys.executable, "-m", "normbench"], [sys.executable, script]):
        done = subprocess.run([*command, "--help"], **run)
        assert (done.returncode, done.stderr) == (0, "")
        assert all(choice in done.stdout for group in GROUPS for choice in choices(group))

    done = subprocess.run([sys.executable, script, "+norm=gruop"], **run)
    assert done.returncode == 2
    assert "did you mean group?" in done.stderr

    from_git = (
        "from normbench.records.environment import *; import normbench as n; print(git_state(Path(n.__file__).parent))"
    )
    assert subprocess.run([sys.executable, "-c", from_git], **run).stdout.strip() == "(None, None)"
