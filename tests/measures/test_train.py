"""Validation between epochs, and what a training is read by."""

import csv

import numpy as np
import pandas as pd
import pytest
import torch
from training_runs import outcomes

from normbench import load
from normbench.analysis.figures import curves_figure
from normbench.runs.collect import collect
from normbench.tasks import make_task

EVERY = ("norm=batch", "evaluation.every_steps=5")  # of twelve steps an epoch


def rows_of(folder, seed="0"):
    with open(folder / "metrics.csv") as file:
        return [row for row in csv.DictReader(file) if row["seed"] == seed]


def test_a_run_is_validated_every_so_many_steps_and_at_each_epochs_end(run, tmp_path):
    """And nothing else changes: the same network, the same last row, weighted means of the same losses."""
    often, _, folder = run(*EVERY)
    seldom, _, plain = run("norm=batch", output=tmp_path / "plain")
    rows, ends = rows_of(folder), rows_of(plain)
    assert [(int(row["epoch"]), int(row["step"])) for row in rows] == [
        *((1, step) for step in (5, 10, 12)),
        *((2, step) for step in (17, 22, 24)),
    ]
    assert outcomes(often) == outcomes(seldom)
    for number, end in enumerate(ends):
        part = rows[3 * number : 3 * number + 3]
        for key in ("val_loss", "val_acc", "lr"):
            assert part[-1][key] == end[key]
        mean = np.average([float(row["train_loss"]) for row in part], weights=[5, 5, 2])
        assert mean == pytest.approx(float(end["train_loss"]), rel=1e-12)
    assert often["run_id"] != seldom["run_id"]


def test_the_steps_to_a_target_are_as_fine_as_the_validations(run):
    result, _, folder = run(*EVERY, "evaluation.target_acc=1")
    reached = [int(row["step"]) for row in rows_of(folder) if float(row["val_acc"]) >= 1]
    assert result["replicates"][0]["steps_to_target"] == min(reached)


def test_the_gap_is_of_the_same_networks_on_training_and_test_images(run):
    """Without augmentation, in evaluation mode; and nothing else changes."""
    result, _, folder = run(
        "replicates=2", "evaluation.train=true", "data.channel_scale=2", "data.test_channel_scale=1"
    )
    networks = load(folder)
    task = make_task(networks.config, networks.seeds, "cpu")
    x = task.inputs.repeated(task.data.train_images, 2)
    with torch.no_grad():
        right = networks.model(x).argmax(2) == task.data.train_labels
    for entry, mine in zip(result["replicates"], right, strict=True):
        assert entry["train_acc_eval"] == pytest.approx(100 * mine.double().mean().item())
        assert entry["gap"] == entry["train_acc_eval"] - entry["test_acc"]
    plain, _, _ = run("replicates=2", "data.channel_scale=2", "data.test_channel_scale=1")
    own = {"train_acc_eval", "gap"}
    assert [{k: v for k, v in entry.items() if k not in own} for entry in outcomes(result)] == outcomes(plain)
    assert plain["run_id"] != result["run_id"]


def test_one_that_diverges_has_no_gap(run):
    result, _, _ = run("norm=none", "optim.lr=1e12", "lr_scaling=none", "evaluation.train=true")
    (entry,) = result["replicates"]
    assert (entry["status"], entry["train_acc_eval"], entry["gap"]) == ("diverged", 10, 0)


def test_one_that_diverges_within_an_epoch_ends_there(run):
    result, rows, _ = run("norm=none", "optim.lr=1e12", "lr_scaling=none", "evaluation.every_steps=4")
    assert result["status"] == "diverged"
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "4")]


def test_curves_of_steps_are_drawn_in_fractions_of_an_epoch(run, tmp_path):
    _, _, folder = run(*EVERY)
    runs, curves = collect(folder.parent)
    assert list(curves)[:4] == ["run_id", "seed", "epoch", "step"]
    path = tmp_path / "curves.csv"
    curves.to_csv(path, index=False)
    figure = curves_figure(pd.read_csv(path), runs.assign(seed=runs["seed"].astype(int)))
    (line,) = [line for line in figure.axes[0].lines if line.get_label() == "batch"]
    assert line.get_xdata() == pytest.approx([5 / 12, 10 / 12, 1, 17 / 12, 22 / 12, 2])
