"""A search by Optuna's sweeper: what may be typed; where it is installed, what it asks for and that it goes on."""

import re

import pytest
from forked import Forked
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf
from small_runs import TINY, last_of_each
from test_sweep import results

from normbench.config.overrides import is_search, normalize, normalize_search
from normbench.errors import InputError, UserError

Plugins.instance()  # registers the sweepers that are installed
INSTALLED = "optuna.yaml" in ConfigStore.instance().list("hydra/sweeper")
SEARCH = ("hydra/sweeper=optuna", "hydra.sweeper.sampler.seed=1", "hydra.sweeper.n_trials=3")


def test_one_run_within_it_stands_for_all():
    typed = [*SEARCH, "+norm=batch,group", "optim.lr=tag(log,interval(0.01,1))", "batch_size=8"]
    hydra, one = normalize_search(typed)
    assert hydra == [*SEARCH, "norm=batch,group", "optim.lr=tag(log,interval(0.01,1))", "batch_size=8"]
    assert one == ["norm=batch", "optim.lr=0.01", "batch_size=8"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("hydra.sweeper.direction=minimize", "maximizes the validation accuracy"),
        ("hydra.sweeper.storage=sqlite:///a.db", "with the same hydra.sweeper.sampler.seed it goes on"),
        ("hydra.sweeper.params.seed=1", "write the values"),
        ("+experiment=demo", "a search types its keys"),
        ("norm=grup", "did you mean group"),
        ("optim.lr", "not understood"),
    ],
)
def test_what_has_no_place_in_it_is_one_line(word, said):
    with pytest.raises(UserError, match=re.escape(said)):
        normalize_search([*SEARCH, word])


def test_without_it_its_keys_and_intervals_are_refused():
    for word in ("hydra.sweeper.n_trials=3", "hydra/sweeper=basic", "optim.lr=interval(0.01,1)"):
        assert not is_search([word])
        with pytest.raises(UserError, match=re.escape(word)):
            normalize([word])


def test_one_that_is_not_installed_is_told_with_its_extra(monkeypatch):
    monkeypatch.setattr(ConfigStore.instance(), "list", lambda group: ["basic.yaml"])
    with pytest.raises(InputError, match=r"hydra/sweeper=optuna: not installed; pip install 'normbench\[optuna\]'"):
        is_search(["hydra/sweeper=optuna"])


@pytest.mark.skipif(not INSTALLED, reason="hydra/sweeper=optuna is not installed")
def test_it_finds_the_best_of_its_runs_and_repeated_asks_for_the_same(tmp_path):
    small = ("epochs=1", "logging.tensorboard=false", "output=runs")
    typed = [*TINY, *small, *SEARCH, "hydra.sweeper.n_jobs=1", "norm=none", "optim.lr=tag(log,interval(0.01,1))"]
    for again in (False, True):
        process = Forked(tmp_path, "-m", *last_of_each(typed))
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert len(results(tmp_path)) == 3
        assert out.count("finished earlier") == 3 * again
        told = re.findall(r"val acc ([\d.]+) %", out)
        found = OmegaConf.load(tmp_path / "runs" / "optimization_results.yaml")
        assert found.best_value == max(map(float, told))
        assert 0.01 <= found.best_params["optim.lr"] <= 1
