"""What is known of the methods without their layers."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from normbench import norms
from normbench.facts import FACTS, Facts, facts_of
from normbench.models import build_model
from normbench.norms import NORMS, Layers
from normbench.norms.batch import BatchNorm

CONF = Path(__file__).parents[2] / "conf" / "norm"


def test_every_shipped_method_has_facts_and_no_other_has():
    assert FACTS.keys() == NORMS.keys()
    assert facts_of("a method of my own") == Facts()


@pytest.mark.parametrize("name", NORMS)
def test_its_paper_is_the_one_that_its_file_names(name):
    if name == "rescale":  # of a conference alone
        pytest.skip(FACTS[name].paper)
    (number,) = re.findall(r"arXiv (\d{4}\.\d{5})", FACTS[name].paper)
    if name != "none":
        assert f"arXiv {number}" in (CONF / f"{name}.yaml").read_text().splitlines()[0]


def test_looks_are_distinct():
    looks = [facts.look for facts in FACTS.values()]
    for part in ("colour", "marker", "pattern"):
        assert len({getattr(look, part) for look in looks}) == len(NORMS), part


@pytest.mark.parametrize("name", NORMS)
def test_a_method_has_batch_statistics_where_its_layers_have(name):
    model = build_model(NORMS[name].model or "resnet8", Layers(name), width=8)
    assert FACTS[name].batch_statistics == any(isinstance(module, BatchNorm) for module in model.modules())


@pytest.mark.parametrize("name", NORMS)
def test_what_a_fact_names_exists(name):
    facts, options = FACTS[name], NORMS[name].options()
    assert facts.images_option is None or options[facts.images_option][0] is int
    assert facts.rate_of is None or FACTS[facts.rate_of].rate_of is None


def test_images_that_a_statistic_takes():
    assert FACTS["batch"].statistic_images({}, 64) == 64
    assert FACTS["batch"].statistic_images({}, 64, processes=4) == 16
    assert FACTS["sync_batch"].statistic_images({}, 64, processes=4) == 64
    assert FACTS["ghost_batch"].statistic_images({"ghost_size": 8}, 64, processes=4) == 8


def test_facts_take_no_torch():
    code = "import sys, normbench.facts; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_public_names_of_the_package_are_there_and_no_others():
    for name in norms.__all__:
        assert name.isupper() or getattr(norms, name).__module__.startswith("normbench.norms.")
    with pytest.raises(AttributeError, match=r"'normbench\.norms' has no attribute 'convert_norm'"):
        _ = norms.convert_norm
