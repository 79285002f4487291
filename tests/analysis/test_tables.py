"""Summaries: the numbers in them, and what they do not hide."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from normbench.analysis.claims import decide, parse_claims
from normbench.analysis.tables import rates, rates_summary, settings, summary
from normbench.errors import UserError

SEEDS = range(5)
BATCH = [60.0, 61.0, 59.5, 60.5, 62.0]
GROUP = [57.0, 59.5, 58.0, 58.5, 59.0]


def table(method, accuracies, batch_size=128, **more):
    columns = {
        "study": "mine",
        "run_id": f"{method}-{batch_size}-{more.get('lr', 0.1)}",
        "seed": list(SEEDS)[: len(accuracies)],
        "model": "resnet8",
        "method": method,
        "options": "",
        "batch_size": batch_size,
        "stats_batch": float(batch_size) if method == "batch" else np.nan,
        "data": "cifar10",
        "train_size": 1000,
        "epochs": 4,
        "optimizer": "sgd",
        "lr": 0.1,
        "status": "finished",
        "val_acc": accuracies,
        "test_acc": accuracies,
        "test_acc_precise": np.nan,
        "seconds": 10.0,
        "stack": 2.0,
        "ms_per_step": 4.0,
        "peak_memory_mb": 100.0,
        "device": "a device",
        "threads": 1.0,
        "torch": "2.99",
        "commit": "abc12345",
        "dirty": False,
        "command": "python -m normbench -m norm=batch,group",
        "error": None,
    }
    return pd.DataFrame(columns | more)


@pytest.fixture
def two():
    return pd.concat([table("batch", BATCH), table("group", GROUP)], ignore_index=True)


def test_results_and_differences_are_scipys(two):
    text = summary("mine", "A title.", two, [])
    half = stats.t.ppf(0.975, 4) * stats.sem(BATCH)
    assert f"| batch | 5 | finished | {np.mean(BATCH):.2f} ± {half:.2f} |" in text
    test = stats.ttest_rel(GROUP, BATCH)
    interval = test.confidence_interval(0.95)
    difference = np.mean(np.subtract(GROUP, BATCH))
    assert f"| group − batch | 5 | {difference:+.2f} [{interval.low:+.2f}, {interval.high:+.2f}] |" in text
    assert f"| {test.pvalue:.3f} |" in text
    assert "| 2.00 | 100 |" in text  # ms a step and replicate, MB
    assert "Nothing: all 10 replicates are over." in text


def test_the_header_says_scale_command_commit_device_and_n(two):
    text = summary("mine", "A title.", two, [])
    assert text.startswith("# mine\n\nA title.\n\n- Scale: resnet8, cifar10, 1000 training images, 4 epochs, sgd\n")
    assert "- Command: `python -m normbench -m norm=batch,group`\n" in text
    assert "- Commit: abc1234\n" in text
    assert "- Device: a device; threads a run: 1; torch 2.99\n" in text
    assert "- n: 5 replicates a run; seeds 0–4" in text
    assert "took 0:50 in all" in text  # ten replicates of 10 s, two at a time


def test_several_commits_and_uncommitted_changes_are_said(two):
    two.loc[two["method"] == "group", ["commit", "dirty"]] = ["def56789", True]
    text = summary("mine", "A title.", two, [])
    assert "- Commit: abc1234 (5 replicates); def5678 with uncommitted changes (5 replicates)" in text
    assert "Rows of several commits" in text


def test_what_is_not_over_is_shown_and_not_averaged_in(two):
    two.loc[[3, 4], ["status", "test_acc", "val_acc"]] = ["missing", np.nan, np.nan]
    two.loc[9, ["status", "test_acc", "val_acc", "error"]] = ["failed", np.nan, np.nan, "RuntimeError: out | of\npaper"]
    two.loc[5, ["status", "test_acc", "val_acc"]] = ["diverged", 10.0, 10.0]
    text = summary("mine", "A title.", two, [])
    assert "| batch | 3 | 3 finished, 2 missing |" in text
    group = [10.0, *GROUP[1:4]]
    half = stats.t.ppf(0.975, 3) * stats.sem(group)
    assert f"{np.mean(group):.2f} ± {half:.2f}" in text  # diverged at chance, failed not at all
    assert "| batch-128-0.1 | missing | 3, 4 | – |" in text
    assert "| group-128-0.1 | failed | 4 | RuntimeError: out   of paper |" in text
    assert "- n: 3 to 4 replicates a run" in text


def test_verdicts_are_in_the_summary(two):
    claim = {
        "name": "bn",
        "statement": "BN beats GN.",
        "source": "somebody",
        "kind": "difference",
        "a": {"method": "batch"},
        "b": {"method": "group"},
        "direction": "greater",
        "margin": 0.5,
    }
    verdicts = decide(parse_claims([claim]), two)
    text = summary("mine", "A title.", two, verdicts)
    assert f"| BN beats GN. (somebody) | difference, test_acc | 0.5 | 5 | {verdicts[0].estimate:+.2f} [" in text
    assert f"| **{verdicts[0].verdict}** |" in text


def test_settings_are_what_differs(two):
    assert settings(two) == ["method"]
    two.loc[two["method"] == "group", "batch_size"] = 2
    assert settings(two) == ["method", "batch_size"]
    ghost = table("ghost_batch", BATCH, stats_batch=16.0)
    assert settings(pd.concat([two, ghost])) == ["method", "batch_size", "stats_batch"]


def test_what_differs_in_any_key_is_not_averaged(two):
    other = two.assign(lr_scaling="sqrt", run_id=two["run_id"] + "-sqrt")
    text = summary("mine", "A title.", pd.concat([two.assign(lr_scaling="linear"), other]), [])
    assert text.count("| 5 | finished |") == 4
    assert "| batch | sqrt | 5 | finished |" in text
    assert "| sqrt | group − batch | 5 |" in text


def test_runs_that_differ_in_their_seeds_alone_are_rows_of_their_own(two):
    again = two[two["seed"] < 2].assign(run_id=two["run_id"] + "-r2")
    text = summary("mine", "A title.", pd.concat([two, again]), [])
    assert text.count("| 5 | finished |") == 2
    assert "| batch | batch-128-0.1-r2 | 2 | finished |" in text


def test_a_study_not_begun_has_a_summary(two):
    nothing = two.assign(status="missing", commit=np.nan, dirty=np.nan, test_acc=np.nan, val_acc=np.nan)
    text = summary("mine", "A title.", nothing, [])
    assert "| batch | 0 | missing |" in text
    assert "- Commit: none" in text


def half_width(values):
    return stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)


ECE = [4.0, 5.0, 6.5, 4.5, 5.5]


@pytest.fixture
def more(two):
    """With further outcomes: batch reaches the target five times, group twice, with one diverged."""
    two["test_ece"], two["train_seconds"] = [*ECE, *ECE], [8.0, 8.0, 9.0, 9.0, 9.0] * 2
    two["steps_to_target"] = [300.0, 100.0, 200.0, 400.0, 500.0, 700.0, 900.0, 900.0, 800.0, 900.0]
    two["target_reached"] = [True] * 5 + [True, False, False, True, False]
    two.loc[9, ["status", "test_acc", "val_acc", "test_ece"]] = ["diverged", 10.0, 10.0, np.nan]
    return two


def section(text, title):
    """The paragraph and the table below a title, a row a list of cells."""
    words, table = text.split(f"\n\n## {title}\n\n")[1].split("\n\n")[:2]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]
    return words, head, rows


def test_further_outcomes(more):
    words, head, (batch, group) = section(summary("mine", "A title.", more, []), "Further outcomes")
    assert head == ["method", "n", "ECE, test", "training, s", "steps to target"]
    assert batch == ["batch", "5", f"{np.mean(ECE):.2f} ± {half_width(ECE):.2f}", "4.5", "300 (5 of 5)"]
    assert group[2] == f"{np.mean(ECE[:4]):.2f} ± {half_width(ECE[:4]):.2f} (n = 4)"
    assert group[4] == "≥ 900 (2 of 5)"  # the median is of one that did not reach it
    assert "range test" not in words


def test_suggested_rates_and_their_regret(two):
    sought = {"suggested_lr": [0.1, 0.2, 0.4, 0.1 / 3, np.nan], "lr_found": [True] * 4 + [False]}
    for column, values in (sought | {"regret": [1.0, 2.0, 0.0, -1.0, np.nan]}).items():
        two[column] = pd.Series([*values, *[np.nan] * 5], dtype=object if column == "lr_found" else float)
    words, head, (batch, group) = section(summary("mine", "A title.", two, []), "Further outcomes")
    assert head == ["method", "n", "suggested rate", "regret"]
    assert batch[2:] == ["0.15 (4 of 5)", f"0.50 ± {half_width([1, 2, 0, -1]):.2f} (n = 4)"]
    assert group[2:] == ["–", "–"]  # none was sought
    assert "range test" in words


@pytest.mark.parametrize(
    ("steps", "reached", "told"),
    [
        ([100, 300, 900, 900], [True, True, False, False], "≥ 600 (2 of 4)"),
        ([100, 300, 500, 900], [True, True, True, False], "400 (3 of 4)"),
        ([900, 900], [False, False], "≥ 900 (0 of 2)"),
        ([100, 300, np.nan, np.nan], [True, True, np.nan, np.nan], "200 (2 of 2)"),
    ],
)
def test_a_median_of_censored_steps_is_a_bound(steps, reached, told):
    runs = table("batch", BATCH[: len(steps)], steps_to_target=steps, target_reached=reached)
    assert section(summary("mine", "A title.", runs, []), "Further outcomes")[2][0][-1] == told


@pytest.fixture
def augmented(two):
    """With test-time augmentation: batch gains two points and two thousand images."""
    two["test_acc_tta"] = two["test_acc"] + [2.0, 2.5, 1.5, 2.0, 2.0] * 2
    two["test_ece"], two["test_ece_tta"] = [*ECE, *ECE], [value / 2 for value in [*ECE, *ECE]]
    two["tta_gained"], two["tta_lost"] = [300.0, 310.0, 290.0, 300.0, 300.0] * 2, [100.0] * 10
    two["tta_p"], two["tta_cost"] = [1e-5, 0.02, 0.005, 0.004, 0.003] * 2, [6.02] * 10
    return two


def test_test_time_augmentation(augmented):
    _, head, (batch, _) = section(summary("mine", "A title.", augmented, []), "Test-time augmentation")
    higher, gain = [value + more for value, more in zip(BATCH, [2, 2.5, 1.5, 2, 2], strict=True)], [2, 2.5, 1.5, 2, 2]
    assert dict(zip(head, batch, strict=True)) == {
        "method": "batch",
        "n": "5",
        "test": f"{np.mean(BATCH):.2f} ± {half_width(BATCH):.2f}",
        "test, TTA": f"{np.mean(higher):.2f} ± {half_width(higher):.2f}",
        "difference": f"+2.00 ± {half_width(gain):.2f}",
        "ECE": f"{np.mean(ECE):.2f} ± {half_width(ECE):.2f}",
        "ECE, TTA": f"{np.mean(ECE) / 2:.2f} ± {half_width(ECE) / 2:.2f}",
        "turned right": "1500",
        "turned wrong": "500",
        "McNemar": "< 0.001 to 0.020",
        "time": "× 6.0",
    }


def test_arms_without_test_time_augmentation_and_diverged_ones(augmented):
    tta = [column for column in augmented if "tta" in column]
    augmented.loc[augmented["method"] == "group", tta] = np.nan
    augmented.loc[0, ["status", "test_acc", "test_acc_tta"]] = ["diverged", 10.0, 10.0]
    augmented.loc[0, ["test_ece", "test_ece_tta", "tta_gained", "tta_lost", "tta_p"]] = np.nan
    _, head, (batch,) = section(summary("mine", "A title.", augmented, []), "Test-time augmentation")
    found = dict(zip(head, batch, strict=True))
    assert [found[key] for key in ("n", "turned right", "turned wrong")] == ["5", "1200", "400"]
    assert found["McNemar"] == "0.003 to 0.020"
    assert found["ECE"].endswith("(n = 4)")


def test_outcomes_without_values_have_no_section(two):
    bare = summary("mine", "A title.", two, [])
    names = ["test_ece", "test_acc_tta", "tta_gained", "steps_to_target", "target_reached", "suggested_lr"]
    names += ["lr_found", "regret"]
    assert summary("mine", "A title.", two.assign(**dict.fromkeys(names, np.nan)), []) == bare
    assert "Further" not in bare
    assert "augmentation" not in bare
    assert summary("mine", "A title.", two.drop(columns="test_acc_precise"), []) == bare


def tuned():
    cells = {
        "batch": {0.1: [50, 52], 0.2: [55, 54], 0.4: [53, 50]},
        "none": {0.1: [40, 30], 0.2: [35, 35], 0.4: [10, 10]},
    }
    return pd.concat(
        [
            table(method, list(map(float, values)), lr=lr, test_acc=np.nan)
            for method, by_rate in cells.items()
            for lr, values in by_rate.items()
        ],
        ignore_index=True,
    )


def test_the_best_rate_and_the_edge_of_the_grid():
    best = rates(tuned()).set_index("method")
    assert best["lr"].to_dict() == {"batch": 0.2, "none": 0.1}  # equal means: the lower rate
    assert best["edge"].to_dict() == {"batch": "", "none": "lowest"}
    assert best["val_acc"].to_dict() == {"batch": 54.5, "none": 35.0}
    assert set(best["n"]) == {2}
    assert set(best["rates"]) == {3}
    text = rates_summary(rates(tuned()))
    assert "| batch | 0.2 | 54.50 | 2 × 3 | inside the grid |" in text
    assert "the lowest of the grid: widen it" in text


def test_a_diverged_rate_counts_at_chance_and_a_failed_one_not_at_all():
    runs = tuned()
    runs.loc[(runs["method"] == "batch") & (runs["lr"] == 0.2), ["status", "val_acc"]] = ["diverged", 10.0]
    assert rates(runs).set_index("method").loc["batch", "lr"] == 0.4
    runs["status"] = "failed"
    with pytest.raises(UserError, match="no rate can be chosen"):
        rates(runs)
