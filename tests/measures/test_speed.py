"""The time of products over the scale of their inputs: what is multiplied, in which order, how the times are told."""

import pytest
import torch

from normbench.config.resolve import resolve
from normbench.errors import InputError
from normbench.measures.speed import WARM_UP, check, flushes, flushing, operands, subnormal, timed, told


def test_operands_are_of_the_scale_that_they_say():
    for operation in ("matmul", "conv"):
        product, x = operands(operation, 128, 0, "cpu")
        again, same = operands(operation, 128, 0, "cpu")
        assert torch.equal(x, same)
        assert torch.equal(product(x), again(same))
        assert x.std() == pytest.approx(1, abs=0.05)
        assert product(x).std() == pytest.approx(1, abs=0.1)
        assert product(x).shape == x.shape


def test_a_convolution_is_of_three_by_three():
    product, x = operands("conv", 128, 0, "cpu")  # on maps of 8×8
    point = torch.zeros_like(x[:1])
    point[0, 0, 4, 4] = 1
    reached = product(point)[0].ne(0).all(0)
    assert reached.nonzero().tolist() == [[row, column] for row in (3, 4, 5) for column in (3, 4, 5)]


def test_passes_take_turns():
    seen, (x, reference) = [], (torch.tensor(2.0), torch.tensor(1.0))
    times = timed(lambda given: seen.append(given.item()), x, reference, 3, "cpu")
    assert seen[2 * WARM_UP :] == [1, 2, 2, 1, 1, 2]
    assert all(ms >= 0 and other >= 0 for ms, other in times)
    assert len(times) == 3


def test_what_takes_longer_is_told_by_how_much():
    found = timed(lambda given: torch.ones(int(given)).cumsum(0), torch.tensor(3e6), torch.tensor(3e3), 5, "cpu")
    assert told(found)["slowdown"] > 5
    assert told([(2.0, 1.0), (2.0, 1.0), (90.0, 1.0)]) == {"slowdown": 2, "product_ms": 2}  # an interruption


def test_subnormal_numbers_are_those_below_the_smallest_normal_one():
    assert subnormal(torch.tensor([0.0, 1.0, 1e-39, -1e-45])) == 50
    assert subnormal(torch.tensor([torch.finfo(torch.float32).tiny])) == 0
    assert subnormal(torch.randn(100) * 1e-30) == 0


def test_the_processor_is_as_before():
    before = flushes()
    small = torch.full((4,), 1e-39)
    with flushing(True):
        assert flushes()
        assert (small + 0).eq(0).all()
    with flushing(False):
        assert (small + 0).ne(0).all()
    assert flushes() is before


def test_a_run_tells_each_pass(run):
    result, rows, _ = run("measure=speed", "measure.size=16", "measure.passes=4", "measure.scale=1e-40", "replicates=2")
    assert [row["pass"] for row in rows] == list("1234") * 2
    for entry in result["replicates"]:
        assert entry["subnormal"] > 99
        assert entry["slowdown"] > 0 < entry["product_ms"]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("measure.operation=add", r"measure\.operation=add: choices: conv, matmul"),
        ("measure.size=40", r"measure\.size=40: must be a multiple of 16"),
        ("measure.scale=0", r"measure\.scale=0: must be a number > 0"),
        ("measure.passes=0", r"measure\.passes=0: must be an integer ≥ 1"),
    ],
)
def test_a_mistake_is_told_before_any_run(compose, typed, message):
    config = resolve(compose("data=patterns", "device=cpu", "measure=speed", typed))
    with pytest.raises(InputError, match=message):
        check(config, 1)
