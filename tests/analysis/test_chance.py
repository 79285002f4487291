"""What of a difference is chance of the seeds, and what of the images: the table against its parts."""

import numpy as np
import pandas as pd
import pytest

from normbench.analysis.chance import differences
from normbench.analysis.claims import parse_claims
from normbench.analysis.images import components, images_interval

CLAIM = {"name": "it", "statement": "So.", "source": "S", "kind": "difference", "direction": "greater", "margin": 0}
CLAIM |= {"a": {"method": "group"}, "b": {"method": "batch"}}


@pytest.fixture
def known():
    """Ten seeds of two methods on 200 images: the table of the runs, and what each told rightly."""
    rng, rows, right = np.random.default_rng(0), [], {}
    for method, share in (("group", 0.7), ("batch", 0.6)):
        for seed in range(10):
            right[method, seed, ""] = rng.random(200) < share
            right[method, seed, "_precise"] = rng.random(200) < share + 0.1
            row = {"run_id": method, "seed": seed, "method": method, "status": "finished"}
            ways = {f"test_acc{way}": 100 * right[method, seed, way].mean() for way in ("", "_precise")}
            rows.append(row | ways)
    return pd.DataFrame(rows), right


def cells_of(text):
    return text.splitlines()[-1].strip("| ").split(" | ")


def test_a_difference_has_both_intervals_and_the_parts_of_its_error(known):
    runs, right = known
    told = cells_of(differences(parse_claims([CLAIM]), runs, right))
    a, b = (np.stack([right[method, seed, ""] for seed in range(10)]) for method in ("group", "batch"))
    over, parts = images_interval(a, b, np.random.default_rng(10)), components(a, b)
    assert told[0:2] == ["So.", "10"]
    assert told[2].startswith(f"{over.estimate:+.2f} [")
    assert told[3] == f"[{over.low:+.2f}, {over.high:+.2f}]"
    assert told[4:7] == [f"{part:.2f}" for part in parts]
    paired = runs.pivot(index="seed", columns="method", values="test_acc")
    ratio = (paired["group"] - paired["batch"]).var() / paired.var().sum()
    assert told[7] == f"{ratio:.2f}"


def test_a_cell_has_the_images_of_its_own_evaluation(known):
    runs, right = known
    precise = CLAIM | {"a": {"method": "batch", "metric": "test_acc_precise"}}
    told = cells_of(differences(parse_claims([precise]), runs, right))
    a, b = (np.stack([right["batch", seed, way] for seed in range(10)]) for way in ("_precise", ""))
    assert told[4:7] == [f"{part:.2f}" for part in components(a, b)]


def test_few_seeds_have_the_parts_alone_and_what_is_not_known_has_no_row(known):
    runs, right = known
    claims = parse_claims([CLAIM])
    assert cells_of(differences(claims, runs[runs["seed"] < 5], right))[1:4:2] == ["5", "–"]
    assert differences(claims, runs[runs["seed"] < 2], right) == ""
    assert differences(claims, runs, {}) == ""
    del right["batch", 3, ""]
    assert differences(claims, runs, right) == ""
