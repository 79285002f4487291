"""Summaries: the numbers in them, and what they do not hide."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from normbench.analysis.cells import told_mean
from normbench.analysis.claims import Verdict, decide, parse_claims
from normbench.analysis.means import mean_of
from normbench.analysis.rates import best_rates, rates
from normbench.analysis.results_tables import settings
from normbench.analysis.statistics import Interval
from normbench.analysis.study import About
from normbench.analysis.tables import scale, summary
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
    assert not any(words in text for words in ("ms a step", "training, s", "time", "took"))  # it was shared with others
    assert "Nothing: all 10 replicates are over." in text


def test_the_header_says_scale_command_commit_device_and_n(two):
    text = summary("mine", "A title.", two, [])
    assert text.startswith("# mine\n\nA title.\n\n- Scale: resnet8, cifar10, 1000 training images, 4 epochs, sgd\n")
    assert "- Command: `python -m normbench -m norm=batch,group`\n" in text
    assert "- Commit: abc1234\n" in text
    assert "- Device: a device; threads a run: 1; torch 2.99\n" in text
    assert "- n: 5 replicates an arm; seeds 0–4, the same for every arm\n" in text
    other = two.assign(seed=two["seed"].where(two["method"] == "batch", two["seed"] + 1))
    assert "- n: 5 replicates an arm; seeds 0–5, **not the same for every arm**\n" in summary("mine", "", other, [])


def test_the_scale_tells_of_the_evaluation_what_is_known(two):
    common = {"data.test_size": 5000, "evaluation.precise_images": 100, "evaluation.precise_augment": True}
    assert scale(two, common).endswith(", sgd, 5000 test images")
    text = scale(two.assign(test_acc_precise=50.0), common | {"data.test_size": None})
    assert text.endswith(
        ", all test images, precise statistics over 100 training images, augmented as in training, 100 a pass"
    )
    probe = two.drop(columns=["test_acc", "val_acc"])
    assert scale(probe, common) == f"{two.model.iloc[0]}, {two.data.iloc[0]}, batches of {two.batch_size.iloc[0]}"
    assert scale(two.drop(columns="test_acc"), common | {"data.val_size": 500}).endswith(", 500 validation images")


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
    assert "| group-128-0.1 | failed | 4 | RuntimeError: out \\| of paper |" in text
    assert "- n: 3 to 4 replicates an arm; seeds 0–4, **not the same for every arm**" in text


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
    assert f"| BN beats GN. (somebody) | difference, test_acc | {verdicts[0].estimate:+.2f} [" in text
    assert f"| **{verdicts[0].verdict}** |" in text


def verdict(name, **more):
    """As `decide` has it: a factor of 12.345 from 5 seeds."""
    words = {"statement": f"{name}.", "source": "S", "metric": "steps_to_target", "kind": "difference", "note": ""}
    numbers = {"n": 5, "estimate": 12.345, "low": 8.1, "high": 19.0, "bca_low": np.nan, "bca_high": np.nan}
    rest = {"margin": 1.5, "p": 0.01, "p_holm": 0.02, "verdict": "holds", "pairing_ratio": 0.987, "detectable": 1.3}
    return Verdict(**{"name": name, "tier": "secondary", "scale": "log", "look": 0} | words | numbers | rest | more)


def test_claims_by_their_tier_and_on_their_scale(two):
    level = {"metric": "test_acc", "scale": "linear", "kind": "level", "detectable": 2.0, "pairing_ratio": np.nan}
    few = verdict("c", verdict="not enough runs", n=2, p=np.nan, p_holm=np.nan, detectable=np.nan, low=np.nan)
    found = [verdict("a"), verdict("b", tier="primary", note="so", look=1, **level), few]
    about = About(fixed={"a": "before the runs"}, looks=(5, 10, 20))
    text = summary("mine", "", two, found, about)
    words, _, rows = section(text, "Claims")
    assert [row[0] for row in rows] == ["**primary:** b. (S)", "a. (S)", "c. (S)"]
    assert rows[1][1:5] == ["difference, steps_to_target", "× 12.3 [8.1, 19]", "× 1.5", "5"]
    assert rows[1][5:] == ["0.020", "**holds**", "0.99", "before the runs", "–"]
    assert rows[0][2:] == ["12.35 [8.10, 19.00]", "1.5", "5", "0.020", "**holds**", "–", "not checked", "so"]
    assert rows[2][2] == "× 12.3"
    assert "The first 1 are **primary**" in words
    assert "1 of them could be tested" in words
    assert "Looks were planned at 5, 10 and 20 seeds (O'Brien–Fleming); made so far: 5." in words
    assert text.split("## Power")[1].split("##")[0].strip().splitlines()[2:] == ["- 2.00 points at n = 5: b."]
    alone = summary("mine", "", two, [verdict("a")])
    assert "All are secondary, corrected within their study: 1" in alone
    assert "- a factor of 1.3 at n = 5: a." in alone
    assert "Power" not in summary("mine", "", two, [few])


def test_an_exploratory_study_says_so_in_every_verdict(two):
    words, _, [row] = section(
        summary("mine", "", two, [verdict("a")], About(exploratory="seeds were added.")), "Claims"
    )
    assert row[6] == "**exploratory: holds**"
    assert words.startswith("**All of them are exploratory**: seeds were added. ")


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
    two["test_ece"], two["train_seconds"] = [*ECE, *ECE], 8.0
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
    assert head == ["method", "n", "ECE, test", "steps to target"]
    assert batch == ["batch", "5", f"{np.mean(ECE):.2f} ± {half_width(ECE):.2f}", "300 (5 of 5)"]
    assert group[2] == f"{np.mean(ECE[:4]):.2f} ± {half_width(ECE[:4]):.2f} (n = 4)"
    assert group[3] == "≥ 900 (2 of 5)"  # the median is of one that did not reach it
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
        ([900, 900], [False, False], "≥ 900, ≥ 900 (0 of 2)"),
        ([100, 300, np.nan, np.nan], [True, True, np.nan, np.nan], "100, 300 (2 of 2)"),
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
    two["tta_p"] = [1e-5, 0.02, 0.005, 0.004, 0.003] * 2
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


def test_best_rates_are_of_every_arm_that_was_tried_at_several():
    one = table("layer", [50.0, 51.0], test_acc=np.nan)
    runs = pd.concat(
        [tuned().assign(batch_size=size, stats_batch=np.nan) for size in (2, 8)] + [one], ignore_index=True
    )
    rows = section(summary("mine", "", runs, []), "Best rates")[2]
    assert [row[:2] for row in rows] == [[m, size] for size in ("2", "8") for m in ("batch", "none")]
    assert rows[0][2:] == ["0.2", "54.50", "2 × 3", "inside the grid"]
    assert rows[1][2:] == ["0.1", "35.00", "2 × 3", "**the lowest of the grid: widen it**"]
    assert best_rates(one) == ""


# --- Few values, and values of another scale. -------------------------------------------------------------------------


def test_means_are_on_the_scale_of_their_outcome():
    values = [1.0, 10.0, 1000.0]
    logs = np.log10(values)
    half = stats.t.ppf(0.975, 2) * stats.sem(logs)
    found = mean_of(values, "log")
    ends = 10 ** (logs.mean() + half * np.array([0, -1, 1]))
    assert [found.estimate, found.low, found.high] == pytest.approx(ends)
    assert told_mean(pd.Series(values), ".3g", "log") == f"{ends[0]:.3g} [{ends[1]:.3g}, {ends[2]:.3g}]"
    assert told_mean(pd.Series(values), ".1f") == f"337.0 ± {stats.t.ppf(0.975, 2) * stats.sem(values):.1f}"


@pytest.mark.parametrize(
    ("values", "scale", "words"),
    [
        ([54.3, 50.1], "linear", "54.3, 50.1"),
        ([54.3], "linear", "54.3"),
        ([2.0, 0.0, 5.0], "log", "2.0, 0.0, 5.0"),
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], "log", "2.5 (0.0 to 5.0)"),
    ],
)
def test_what_has_no_mean_is_told_value_by_value(values, scale, words):
    assert told_mean(pd.Series(values), ".1f", scale) == words
    assert np.isnan([mean_of(values, scale).low, mean_of(values, scale).high]).all()


def test_fewer_than_three_replicates_have_neither_intervals_nor_p(two):
    text = summary("mine", "A title.", two[two["seed"] < 2], [])
    assert "| batch | 2 | finished | 60.00, 61.00 | 60.00, 61.00 |" in text
    assert "| group − batch | 2 | -3.00, -1.50 | – | – |" in text
    assert text.count("Of fewer than three replicates the values are shown.") == 2
    assert "Of fewer" not in summary("mine", "A title.", two, [])


def test_bootstraps_take_ten_replicates(two):
    assert "BCa" not in summary("mine", "A title.", two, [])
    more = pd.concat([two, two.assign(seed=two["seed"] + 5, test_acc=two["test_acc"] + 0.5)])
    words, head, [batch, _] = section(summary("mine", "", more, []), "Results")
    assert "of 10 replicates or more" in words
    assert batch[head.index("BCa, test")].startswith("[60.")
    drawn = []

    def images(arm, base):
        drawn.append((set(arm["method"]), set(base["method"]), len(arm)))
        return Interval(-2.0, -3.0, -1.0, 10)

    name = "Paired differences from batch"
    _, head, [row] = section(summary("mine", "", more, [], images=images), name)
    assert row[head.index("seeds × images [95 %]")] == "[-3.00, -1.00]"
    assert drawn == [({"group"}, {"batch"}, 10)]
    assert "seeds × images" not in summary("mine", "", two, [], images=images)


def test_a_table_without_the_test_images_is_about_validation(augmented):
    runs = augmented.drop(columns=[column for column in augmented if column.startswith(("test_", "tta_"))])
    runs["val_acc_tta"], runs["val_ece"], runs["val_ece_tta"] = runs["val_acc"] + 1, 2.0, 1.0
    text = summary("mine", "A title.", runs, [])
    assert "test" not in text.split("Accuracy in percent")[1].lower().replace("test-time", "")
    _, head, [row] = section(text, "Paired differences from batch")
    assert head[2] == "validation accuracy, points [95 % t]"
    assert row[2].startswith(f"{np.mean(np.subtract(GROUP, BATCH)):+.2f} [")
    assert section(text, "Test-time augmentation")[1][2:] == [
        "validation",
        "validation, TTA",
        "difference",
        "ECE",
        "ECE, TTA",
    ]


def test_a_diverged_rate_counts_at_chance_and_a_failed_one_not_at_all():
    runs = tuned()
    runs.loc[(runs["method"] == "batch") & (runs["lr"] == 0.2), ["status", "val_acc"]] = ["diverged", 10.0]
    assert rates(runs).set_index("method").loc["batch", "lr"] == 0.4
    runs["status"] = "failed"
    with pytest.raises(UserError, match="no rate can be chosen"):
        rates(runs)
