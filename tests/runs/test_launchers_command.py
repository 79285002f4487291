"""What the command line says about launchers, and what the documents say about the command line."""

import re
import shlex
import tomllib

import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from launching import ROOT, refused
from omegaconf import OmegaConf

from normbench.cli import parse_flags
from normbench.config.overrides import LAUNCHERS as EXTRAS
from normbench.config.overrides import normalize, plan
from normbench.errors import InputError
from normbench.runs import launchers

Plugins.instance()  # registers the launchers that are installed
LAUNCHERS = (ROOT / "docs" / "launchers.md").read_text()
COMMANDS = re.findall(r"^python -m normbench (.*?)(?:  #.*)?$", LAUNCHERS, re.MULTILINE)


def installed(launcher) -> bool:
    return f"{launcher}.yaml" in ConfigStore.instance().list("hydra/launcher")


@pytest.mark.parametrize("typed", COMMANDS)
def test_the_documents_commands_are_understood(typed):
    (launcher,) = re.findall(r"hydra/launcher=(\w+)", typed)
    if not installed(launcher):
        pytest.skip(f"hydra/launcher={launcher} is not installed")
    arguments = parse_flags(shlex.split(typed))
    jobs, multirun, _ = plan(normalize(arguments.overrides), arguments.multirun)
    assert multirun
    assert len(jobs) > 1


def test_each_launcher_has_its_command_its_extra_and_its_versions():
    assert {launcher for typed in COMMANDS for launcher in re.findall(r"hydra/launcher=(\w+)", typed)} == {
        "joblib",
        "ray",
        "submitit_slurm",
    }
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    for extra in set(EXTRAS.values()):
        assert {re.split("[<>=]", requirement)[0] for requirement in extras[extra]} <= pinned
        assert f"pip install 'normbench[{extra}]'" in LAUNCHERS


@pytest.mark.parametrize(("launcher", "extra"), EXTRAS.items())
def test_one_that_is_not_installed_is_told_with_its_extra(launcher, extra, monkeypatch):
    monkeypatch.setattr(ConfigStore.instance(), "list", lambda group: ["basic.yaml"])
    with pytest.raises(InputError, match=re.escape(f"hydra/launcher={launcher}: not installed; pip install")) as told:
        normalize([f"hydra/launcher={launcher}", "seed=0,1"])
    assert str(told.value).endswith(f"'normbench[{extra}]'")


def test_an_unknown_one_is_told_with_the_choices_and_status_2(tmp_path):
    told = refused(tmp_path / "outputs", "seed=0,1", "hydra/launcher=joblab")
    assert told.startswith("normbench: hydra/launcher=joblab: unknown launcher; did you mean joblib? choices: basic, ")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("n_jobs", "cores", "runs", "threads"),
    [(-1, 8, 100, 1), (-1, 8, 3, 2), (2, 8, 100, 4), (-7, 8, 100, 4), (16, 8, 100, 1), (-1, 1, 1, 1), (-99, 8, 3, 8)],
)
def test_threads_of_joblibs_processes_do_not_exceed_the_cores(n_jobs, cores, runs, threads, monkeypatch):
    monkeypatch.setattr(launchers, "_cores", lambda: cores)
    config = OmegaConf.create({"n_jobs": n_jobs})
    assert launchers._threads("JoblibLauncher", config, runs) == threads
