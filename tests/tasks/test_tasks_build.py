"""The network of a configuration is tried before any work starts."""

import pytest

from normbench.config.overrides import normalize, plan
from normbench.config.resolve import resolve
from normbench.errors import InputError
from normbench.tasks.build import check_network


def check(*typed):
    check_network(resolve(plan(normalize(["device=cpu", *typed]), False)[0][0].config))


def test_a_size_too_small_for_the_model_is_refused():
    """Those of the schedule alone: what is wrong with the model at any size is told as such."""
    small = "augment.resize=[[0,32],[0.3,16],[0.5,24]]"
    with pytest.raises(InputError, match=r"^norm.num_groups=5: "):
        check("norm=group", "norm.num_groups=5", small)
    check("model=vgg", "batch_size=2", small)
    # One pixel of one image is left of 16.
    with pytest.raises(InputError, match=r"^augment.resize=16: too small for model=vgg, norm=batch \(.*single value"):
        check("model=vgg", "batch_size=1", small)
    with pytest.raises(InputError, match=r"^augment.resize=4: too small for model=vgg, norm=batch \("):
        check("model=vgg", "augment.resize=[[0,32],[0.3,4],[0.5,16]]")
