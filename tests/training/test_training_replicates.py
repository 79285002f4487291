"""R replicates side by side are R runs of one seed each."""

import pytest
import torch
from training_runs import STEPS, TECHNIQUES, outcomes

from normbench.norms import NORMS
from normbench.tasks import classify

FEW = ("data.train_size=48", "data.val_size=20", "data.test_size=20", "evaluation.precise_images=24")
# Nothing in the course of a training, whose layers the tests of the models' replicates have.
OF_LAYERS_ALONE = ("switchable", "extended_batch", "rms", "dyt", "divisive", "evonorm_s0", "evonorm_b0", "proxy")
EVERYTHING = ("model.dropout=0.2", "augment.mixup=0.4", "augment.label_smoothing=0.1", "optim.clip_norm=1.0")


def assert_close(a: dict, b: dict, tolerance: float):
    assert a.keys() == b.keys()
    for key, value in a.items():
        if key == "status" or value in (None, ""):
            assert value == b[key], key
        else:
            assert float(value) == pytest.approx(float(b[key]), rel=tolerance, abs=tolerance), key


@pytest.mark.parametrize("norm", [norm for norm in NORMS if norm not in OF_LAYERS_ALONE])
def test_a_stacked_run_equals_the_run_of_each_seed_alone(run, norm):
    options = [f"norm={norm}", "precision=float64", *EVERYTHING, *FEW]
    options += ["norm.ghost_size=4"] if norm == "ghost_batch" else []
    options += [f"model={NORMS[norm].model}"] if NORMS[norm].model else []
    stacked, rows, _ = run(*options, "replicates=3", "stack=3", "seed=4")
    for r in (0, 2):
        alone, alone_rows, _ = run(*options, f"seed={4 + r}")
        for a, b in zip(rows[2 * r : 2 * r + 2], alone_rows, strict=True):
            assert_close(a, b, 1e-8)
        assert_close(outcomes(stacked)[r], outcomes(alone)[0], 1e-8)


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_so_it_does_under_every_technique(run, technique):
    options = ["norm=batch", "precision=float64", *STEPS, *TECHNIQUES[technique]]
    stacked, rows, _ = run(*options, "replicates=3", "stack=3", "seed=4")
    alone, alone_rows, _ = run(*options, "seed=5")
    assert alone["status"] == "finished"
    for a, b in zip(rows[2:4], alone_rows, strict=True):
        assert_close(a, b, 1e-8)
    assert_close(outcomes(stacked)[1], outcomes(alone)[0], 1e-8)
    assert rows[1]["train_loss"] != rows[3]["train_loss"]


def test_stacks_of_different_sizes_give_the_same_run(run, tmp_path):
    whole = run("norm=batch", "precision=float64", "replicates=3", "stack=3")
    parts = run("norm=batch", "precision=float64", "replicates=3", "stack=2", output=tmp_path)
    for a, b in zip(whole[1], parts[1], strict=True):
        assert_close(a, b, 1e-8)
    assert [entry["stack"] for entry in parts[0]["replicates"]] == [2, 2, 1]
    for a, b in zip(outcomes(whole[0]), outcomes(parts[0]), strict=True):
        assert_close(a, b, 1e-8)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_diverged_replicate_is_noted_and_harms_no_other(run, monkeypatch, tmp_path, norm):
    clean, clean_rows, _ = run(f"norm={norm}", "replicates=3", "stack=3")
    make_model = classify.make_model

    def poisoned(config, seeds):
        model = make_model(config, seeds)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.chunk(3)[1].fill_(float("nan"))
        return model

    monkeypatch.setattr(classify, "make_model", poisoned)
    result, rows, _ = run(f"norm={norm}", "replicates=3", "stack=3", output=tmp_path / "poisoned")
    assert [entry["status"] for entry in result["replicates"]] == ["finished", "diverged", "finished"]
    assert result["status"] == "finished"
    lost = result["replicates"][1]
    assert lost["diverged_epoch"] == 1
    assert lost["test_acc"] == 10.0
    assert lost["test_loss"] is None
    # bit for bit what they were beside a healthy one
    assert [row for row in rows if row["seed"] != "1"] == [row for row in clean_rows if row["seed"] != "1"]
    assert outcomes(result)[0::2] == outcomes(clean)[0::2]
    assert [row["epoch"] for row in rows if row["seed"] == "1"] == ["1"]


def test_a_run_whose_replicates_all_diverge_ends_there(run):
    result, rows, _ = run("norm=none", "optim.lr=1e12", "lr_scaling=none", "epochs=3", "replicates=2", "stack=2")
    assert result["status"] == "diverged"
    assert [entry["diverged_epoch"] for entry in result["replicates"]] == [1, 1]
    assert [row["epoch"] for row in rows] == ["1", "1"]


def test_precise_statistics_may_be_of_augmented_images(run):
    """Without augmentation the two are the same; with it only the precise evaluation changes."""
    plain, _, _ = run("norm=batch", "augment=none", "evaluation.precise_images=96")
    same, _, _ = run("norm=batch", "augment=none", "evaluation.precise_images=96", "evaluation.precise_augment=true")
    a, b = outcomes(plain)[0], outcomes(same)[0]
    assert a["val_loss_precise"] == pytest.approx(b["val_loss_precise"], rel=1e-4)  # the order of the images differs
    assert a["test_acc"] == b["test_acc"]
    bare, _, _ = run("norm=batch", "evaluation.precise_images=96")
    augmented, _, _ = run("norm=batch", "evaluation.precise_images=96", "evaluation.precise_augment=true")
    c, d = outcomes(bare)[0], outcomes(augmented)[0]
    assert c["val_loss_precise"] != pytest.approx(d["val_loss_precise"], rel=1e-4)
    assert c["val_loss"] == d["val_loss"]
