"""The table of Ba et al. 2016 for every method, by comparison: the paper's rows, and what follows from each formula."""

import pandas as pd
import pytest
import torch
from forked import Forked

from normbench.analysis.claims import decide, parse_claims
from normbench.config.resolve import resolve
from normbench.errors import InputError
from normbench.measures.invariances import TOLERANCE, check, differences
from normbench.norms import NORMS
from normbench.records.metrics import INVARIANCES
from normbench.runs.collect import collect

NAMES = [outcome.name for outcome in INVARIANCES]
# Weight matrix scaled and centred, a weight vector scaled; data scaled and centred, a single case scaled. Table 1:
BATCH, WEIGHT, LAYER = "yny yyn", "yny nnn", "yyn yny"
PAPER = {"batch": BATCH, "weight_norm": WEIGHT, "layer": LAYER}
# On feature maps a group's statistic goes over positions, whose γᵀx differ.
MAPS = {
    "none": "nnn nnn",
    "skipinit": "nnn nnn",
    "batch": BATCH,
    "sync_batch": BATCH,
    "ghost_batch": BATCH,
    "noisy_batch": BATCH,
    "lp_batch": BATCH,
    "weight_norm": WEIGHT,
    "batch_renorm": "yny ynn",  # at the limits of its correction, whose sign is that of the mean
    "extended_batch": "ynn ynn",  # one scale for all neurons
    "switchable": "ynn ynn",
    "online": "ynn ynn",
    "rms": "ynn yny",
    "dyt": "yny yny",  # here the sign of its input
    "divisive": "ynn yny",
    "frn": "yny yny",
    "evonorm_s0": "ynn yny",
    "evonorm_b0": "yny ynn",
    "proxy": "ynn yny",
    "layer": "ynn yny",
    "group": "ynn yny",
    "layer2d": LAYER,
    "instance": "yny yyy",
    "rescale": "nnn nnn",
    "fixup": "nnn nnn",
    "scaled_ws": WEIGHT,
    "mean_field": "nnn nnn",
    "weight_standardization": "yny yny",  # its filters are scaled alike, and its group norm has the rest
}


def configured(compose, method, *more):
    return resolve(compose("measure=invariances", f"norm={method}", "data=patterns", "device=cpu", *more))


def told(found: dict) -> str:
    assert list(found) == NAMES
    letters = "".join("y" if difference < TOLERANCE else "n" for difference in found.values())
    return f"{letters[:3]} {letters[3:]}"


@pytest.mark.parametrize("method", PAPER)
def test_the_rows_of_the_paper(compose, method):
    assert told(differences(configured(compose, method, "measure.size=1"), 0)) == PAPER[method]


def test_without_positions_both_layer_norms_are_one(compose):
    found = [differences(configured(compose, method, "measure.size=1"), 0) for method in ("layer", "layer2d")]
    assert told(found[0]) == told(found[1])
    assert found[0]["invariant_data_centre"] == pytest.approx(found[1]["invariant_data_centre"])


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("method", NORMS)
def test_every_method_on_feature_maps(compose, method, seed):
    found = differences(configured(compose, method), seed)
    assert told(found) == MAPS[method]
    assert all(difference < 1e-9 or difference > 0.05 for difference in found.values())  # no matter of a tolerance


@pytest.mark.parametrize(
    ("method", "option", "expected"),
    [
        ("group", "num_groups=16", MAPS["instance"]),
        ("group", "num_groups=1", MAPS["layer"]),
        ("ghost_batch", "ghost_size=1", MAPS["instance"]),
        ("lp_batch", "p=linf", BATCH),
        ("lp_batch", "centre_first=false", "yny ynn"),  # the scale depends on the mean
        ("noisy_batch", "normalize=false", MAPS["none"]),
        ("weight_norm", "mean_only_bn=true", "yny nyn"),
        ("weight_standardization", "norm=batch", BATCH),
        ("weight_standardization", "mode=mean_only", MAPS["group"]),
    ],
)
def test_options_show(compose, method, option, expected):
    assert told(differences(configured(compose, method, f"norm.{option}"), 0)) == expected


def test_the_words_of_the_table_by_the_formula_of_the_paper():
    """LN by hand, 5 cases of 4 inputs and 6 neurons: W → δW + 1γᵀ (equation 6) and x → δx (equation 7)."""
    generator = torch.Generator().manual_seed(0)
    w, x, shift = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((6, 4), (5, 4), (4,)))

    def layer(w, x):
        a = x @ w.T
        return (a - a.mean(1, keepdim=True)) / a.std(1, correction=0, keepdim=True)

    torch.testing.assert_close(layer(3 * w + shift, x), layer(w, x))
    torch.testing.assert_close(layer(w, 3 * x), layer(w, x))
    assert (layer(w, x + shift) - layer(w, x)).abs().max() > 0.05


def test_a_mistake_is_told_before_any_run(compose):
    with pytest.raises(InputError, match=r"measure\.channels=0: must be an integer ≥ 1"):
        check(configured(compose, "batch", "measure.channels=0"), 1)
    with pytest.raises(InputError, match=r"norm\.num_groups=8: does not divide the 6 channels"):
        check(configured(compose, "group", "measure.channels=6"), 1)
    with pytest.raises(InputError, match="norm=instance: the statistic of a channel of one sample would be taken"):
        check(configured(compose, "instance", "measure.size=1"), 1)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The folder in which a real command has run, twice, and what the second time said."""
    folder, how = tmp_path_factory.mktemp("invariances"), ("data=patterns", "device=cpu", "replicates=3")
    for _ in range(2):
        process = Forked(folder, "-m", "measure=invariances", *how, "norm=batch,layer,weight_norm,none")
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    return folder / "outputs", out + err


def test_a_command_prints_ours_beside_the_papers_and_repeats_nothing(swept):
    folder, said = swept
    assert "4 of 4 runs were over already" in said
    runs, _ = collect(str(folder))
    for method, group in runs.groupby("method"):
        assert group[NAMES].eq([letter == "y" for letter in MAPS[method].replace(" ", "")]).all(axis=None)
        rows = pd.read_csv(folder / group["run_id"].iloc[0] / "metrics.csv")
        assert list(rows) == ["seed", "change", "paper", "invariant", "difference"]
        assert rows["change"].tolist() == 3 * NAMES
        paper = ["y" if value == 1 else "n" for value in rows["paper"].dropna()[:6]]
        assert "".join(paper) == PAPER.get(method, "").replace(" ", "")
        assert rows["invariant"].eq(rows["difference"] < TOLERANCE).all()


def test_a_claim_on_it_gets_its_verdict(swept):
    claim = {
        "statement": "under layer normalization, not under batch normalization, a case may be re-scaled",
        "source": "Ba et al. 2016, arXiv 1607.06450, table 1",
        "kind": "difference",
        "metric": "invariant_case_scale",
        "a": {"method": "layer"},
        "b": {"method": "batch"},
        "direction": "greater",
        "margin": 0.5,
    }
    claims = parse_claims([{"name": "right", **claim}, {"name": "wrong", **claim, "direction": "less"}])
    assert [verdict.verdict for verdict in decide(claims, collect(str(swept[0]))[0])] == ["holds", "does not hold"]
