"""What env.json says."""

import json
import subprocess
from importlib import metadata

import pytest
import torch

import normbench
from normbench.records import environment as env


@pytest.fixture
def repository(tmp_path, monkeypatch):
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))

    def git(*arguments):
        identity = ("-c", "user.name=N", "-c", "user.email=n@example.org")
        done = subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "-q")
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "environment.py").write_text("x = 1\n")
    return tmp_path, git


def test_commit_and_dirty_flag(repository):
    root, git = repository
    package = root / "records"
    assert env.git_state(package) == (None, None)  # nothing is tracked yet
    git("add", ".")
    git("commit", "-qm", "first")
    commit = git("rev-parse", "HEAD")
    assert env.git_state(package) == (commit, False)
    (root / "outputs").mkdir()
    (root / "outputs" / "new").write_text("not tracked")
    assert env.git_state(package) == (commit, False)
    (package / "environment.py").write_text("x = 2\n")
    assert env.git_state(package) == (commit, True)
    git("commit", "-qam", "second")
    assert env.git_state(package) == (git("rev-parse", "HEAD"), False)
    assert git("rev-parse", "HEAD") != commit


def test_no_commit_outside_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert env.git_state(tmp_path) == (None, None)


def test_no_commit_from_a_repository_that_only_surrounds_the_package(repository):
    """An environment inside some other project's checkout: its commit says nothing about this package."""
    root, git = repository
    git("add", ".")
    git("commit", "-qm", "first")
    site = root / "venv" / "site-packages" / "normbench" / "records"
    site.mkdir(parents=True)
    (site / "environment.py").write_text("x = 1\n")
    assert env.git_state(site) == (None, None)


def test_no_git_is_no_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert env.git_state(tmp_path) == (None, None)


def test_what_env_json_holds(monkeypatch):
    monkeypatch.setenv("NORMBENCH_COMMAND", "python -m normbench norm=group")
    found = env.environment("cpu", 3, 2)
    assert json.loads(json.dumps(found)) == found
    assert found["normbench"] == normbench.__version__
    assert found["packages"]["torch"] == torch.__version__ or found["packages"]["torch"] == metadata.version("torch")
    assert {"torch", "torchvision", "hydra-core", "numpy"} <= found["packages"].keys()
    assert None not in found["packages"].values()
    assert (found["threads"], found["processes"]) == (3, 2)
    assert found["command"] == "python -m normbench norm=group"
    assert found["device"]
    assert found["device"] != "cpu"
    assert {"python", "platform", "commit", "dirty"} <= found.keys()


def test_a_package_that_is_not_there_is_none(monkeypatch):
    monkeypatch.setattr(env, "PACKAGES", ("torch", "no-such-package"))
    assert env.environment("cpu", 1, 1)["packages"]["no-such-package"] is None
