"""Which test images were told rightly: the accuracies follow from it, diverged replicates tell none."""

import json

import numpy as np
import pytest

from normbench.errors import UserError
from normbench.records.correct import FILE, collected, correctness, packed
from normbench.runs.collect import gather
from normbench.runs.keep import keep


def test_the_accuracies_of_a_run_follow_from_it(run, tmp_path):
    """101 images: no whole number of bytes. Two stacks, all ways of evaluation."""
    result, _, folder = run(
        "norm=batch", "replicates=3", "stack=2", "epochs=1", "augment.tta=flip", "data.test_size=101"
    )
    found = gather(str(folder.parent))
    keep(found, found.runs, tmp_path)
    right = correctness(tmp_path)
    assert right.keys() == {(result["run_id"], seed, way) for seed in range(3) for way in ("", "_precise", "_tta")}
    for entry in result["replicates"]:
        mine = {way: right[result["run_id"], entry["seed"], way] for way in ("", "_precise", "_tta")}
        for way, one in mine.items():
            assert one.shape == (101,)
            assert 100 * one.mean() == pytest.approx(entry[f"test_acc{way}"])
        assert (mine["_tta"] & ~mine[""]).sum() == entry["tta_gained"]


def test_what_diverged_tells_none(run):
    _, _, folder = run("norm=none", "optim.lr=1e9", "epochs=1")
    assert json.loads((folder / "result.json").read_text())["status"] == "diverged"
    assert not (folder / FILE).exists()


def test_the_same_bytes_and_a_damaged_file_in_one_line(tmp_path):
    right = {"1": np.arange(10) > 3, "0": np.arange(10) > 5}
    assert packed(right) == packed(dict(reversed(right.items())))
    assert correctness(tmp_path) == {}
    (tmp_path / FILE).write_bytes(packed(right)[:50])
    with pytest.raises(UserError, match="not what a run wrote"):
        correctness(tmp_path)
    assert collected({}) == collected({})
