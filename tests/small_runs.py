"""What the small runs of the tests have in common: their overrides, and what no two runs share."""

# A run of a second.
TINY = (
    "data=patterns",
    "data.val_size=20",
    "data.train_size=32",
    "data.test_size=20",
    "evaluation.precise_images=20",
    "model.width=8",
    "batch_size=16",
    "epochs=2",
    "threads=1",
    "device=cpu",
)
# What a clock or the machine measures.
MEASURED = (
    "seconds",
    "epoch_seconds",
    "train_seconds",
    "ms_per_step",
    "images_per_second",
    "tta_cost",
    "peak_memory_mb",
)


def without_times(row: dict) -> dict:
    """A row of metrics.csv, or an entry of result.json."""
    return {key: value for key, value in row.items() if key not in MEASURED}
