"""The known picture of what each method takes its statistics over, asserted of the derivatives; and its drawing."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from forked import Forked

from normbench.analysis.claims import decide, parse_claims
from normbench.config.resolve import resolve
from normbench.errors import InputError
from normbench.measures.axes import _layer, check, moved, shares
from normbench.measures.axes_figure import STILL, figure
from normbench.norms import NORMS
from normbench.norms.weight import WeightNormConv2d, WeightStandardizationConv2d
from normbench.records.directory import RunDirectory
from normbench.runs.collect import collect

# The axes of N×C×H×W (3×6×4×4) over which a method's statistic goes, from its paper; c/2: the 3 channels of a group.
PICTURE = {
    "none": "",
    "skipinit": "",
    "weight_norm": "",
    "rescale": "",
    "fixup": "",
    "scaled_ws": "",
    "mean_field": "",
    "batch": "nhw",
    "sync_batch": "nhw",
    "ghost_batch": "gnhw",
    "noisy_batch": "nhw",
    "lp_batch": "nhw",
    "batch_renorm": "nhw",
    "extended_batch": "nchw",
    "switchable": "chw nhw",  # one statistic and another
    "online": "nchw",  # of its own image by the layer scaling; of others by the control of the gradient
    "rms": "c",
    "dyt": "",
    "divisive": "chw",  # two windows of 5 reach over all 4
    "frn": "hw",
    "evonorm_s0": "gchw",
    "evonorm_b0": "nhw",
    "proxy": "chw",
    "layer": "chw",
    "layer2d": "c",
    "instance": "hw",
    "group": "gchw",
    "weight_standardization": "gchw",  # of the group norm beside it
}
OPTIONS = {
    "group": ["norm.num_groups=2"],
    "evonorm_s0": ["norm.num_groups=2"],
    "weight_standardization": ["norm.num_groups=2"],
    "ghost_batch": ["norm.ghost_size=2"],
}

SWEPT = ["batch", "group", "layer2d", "instance", "frn"]  # by a real command


def expected(method: str) -> torch.Tensor:
    """Where an input shares the statistic of output (0, 0, 0, 0). g: of 2 images or 3 channels alone."""
    moves = torch.zeros(3, 6, 4, 4, dtype=torch.bool)
    for axes in PICTURE[method].split(" "):
        whole = {"n": slice(2) if axes.startswith("gn") else slice(None), "h": slice(None), "w": slice(None)}
        whole["c"] = slice(3) if axes.startswith("gc") else slice(None)
        moves[tuple(whole[axis] if axis in axes else slice(1) for axis in "nchw")] = True
    return moves


def configured(compose, method, *more):
    how = ["measure=axes", f"norm={method}", "measure.channels=6", "data=patterns", "device=cpu"]
    return resolve(compose(*how, *OPTIONS.get(method, ()), *more))


def normal(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("method", NORMS)
def test_the_known_picture(compose, method):
    assert torch.equal(moved(_layer(configured(compose, method)), normal(3, 6, 4, 4)), expected(method))


@pytest.mark.parametrize("method", ["batch", "group", "layer2d"])
def test_a_derivative_that_is_not_0_is_a_difference_that_is_not_0(compose, method):
    """Input by input, by moving it."""
    layer, x = _layer(configured(compose, method)), normal(3, 6, 4, 4)
    differ = torch.zeros(x.shape, dtype=torch.bool)
    with torch.no_grad():
        before = layer(x)[0, 0, 0, 0]
        for place in itertools.product(*map(range, x.shape)):
            other = x.clone()
            other[place] += 1
            differ[place] = (layer(other)[0, 0, 0, 0] - before).abs() > 1e-9
    assert torch.equal(moved(layer, x), differ)


def test_options_show(compose):
    pattern = moved(_layer(configured(compose, "weight_norm", "norm.mean_only_bn=true")), normal(3, 6, 4, 4))
    assert torch.equal(pattern, expected("batch"))


@pytest.mark.parametrize("conv", [WeightNormConv2d, WeightStandardizationConv2d])
def test_what_is_done_to_weights_moves_nothing_more_than_a_convolution_does(conv):
    torch.manual_seed(0)
    pattern = moved(conv(6, 6, 1, bias=False).double(), normal(3, 6, 4, 4))
    assert torch.equal(pattern, expected("layer2d"))  # its inputs at that position


def test_shares_are_of_the_others():
    found = shares(expected("group"))
    assert found == {"moves_batch": 0, "moves_channels": 40, "moves_space": 100}
    assert shares(expected("ghost_batch"))["moves_batch"] == 50
    assert set(shares(torch.ones(1, 1, 1, 1, dtype=torch.bool)).values()) == {0}


def test_a_mistake_is_told_before_any_run(compose):
    with pytest.raises(InputError, match=r"norm\.num_groups=4: does not divide the 6 channels"):
        check(configured(compose, "group", "norm.num_groups=4"), 1)
    with pytest.raises(InputError, match=r"measure\.size=0: must be an integer ≥ 1"):
        check(configured(compose, "batch", "measure.size=0"), 1)


@pytest.fixture(scope="module")
def swept(popen, tmp_path_factory):
    """The folder in which a real command has run, twice, and what the second time said."""
    folder, how = tmp_path_factory.mktemp("axes"), ("-m", "measure=axes", "data=patterns", "device=cpu", "replicates=3")
    for start in (popen, Forked):
        process = start(folder, *how, f"norm={','.join(SWEPT)}")
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    return folder, out + err


def test_a_command_measures_methods_and_repeats_none(swept):
    folder, said = swept
    assert f"{len(SWEPT)} of {len(SWEPT)} runs were over already" in said
    runs, _ = collect(str(folder / "outputs"))
    assert len(runs) == 3 * len(SWEPT)
    found = runs.groupby("method")[["moves_batch", "moves_channels", "moves_space"]].agg(["min", "max"])
    assert (found.xs("min", axis=1, level=1) == found.xs("max", axis=1, level=1)).all(axis=None)  # seeds agree
    assert runs.set_index("method").loc["batch", "moves_batch"].eq(100).all()
    directory = RunDirectory(folder / "outputs", runs["run_id"][0])
    assert directory.result()["status"] == "finished"
    rows = pd.read_csv(directory.path / "metrics.csv")
    assert (len(rows), list(rows)) == (3 * 3 * 16 * 16, ["seed", "image", "channel", "row", "column", "moves"])


def test_a_claim_on_it_gets_its_verdict(swept):
    runs, _ = collect(str(swept[0] / "outputs"))
    claim = {
        "statement": "BatchNorm looks at other images, GroupNorm does not",
        "source": "Wu & He 2018, arXiv 1803.08494",
        "kind": "difference",
        "metric": "moves_batch",
        "a": {"method": "batch"},
        "b": {"method": "group"},
        "direction": "greater",
        "margin": 50,
    }
    claims = parse_claims([{"name": "right", **claim}, {"name": "wrong", **claim, "direction": "less"}])
    assert [verdict.verdict for verdict in decide(claims, runs)] == ["holds", "does not hold"]


def test_the_script_draws_the_runs_of_a_folder(swept, run_script, capsys):
    run_script("axes", "outputs", "--to", "drawn", cwd=swept[0])
    assert capsys.readouterr().out.split() == ["drawn/axes.png", "drawn/axes.svg"]
    assert (swept[0] / "drawn" / "axes.svg").stat().st_size > 10_000


def test_the_faces_are_slices_through_the_output():
    moves = expected("group").numpy()
    places = np.array(list(np.ndindex(moves.shape)))
    pattern = pd.DataFrame(places, columns=["image", "channel", "row", "column"]).assign(moves=moves.flatten() * 1)
    drawn = figure({"group": pattern, "none": pattern.assign(moves=(pattern.index == 0) * 1)})
    one, other = drawn.axes
    still = [np.isclose(face.get_facecolors()[:, 0], float(STILL)).sum() for face in one.collections]
    assert still == [3 * 16, 18 - 3, 3 * 16 - 16]
    assert [len(face.get_facecolors()) for face in one.collections] == [6 * 16, 3 * 6, 3 * 16]
    assert [axes.texts[0].get_text() for axes in (one, other)] == [
        "moved by c in part, h, w",
        "moved by its own input alone",
    ]
