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


def last_of_each(words) -> list[str]:
    """A command line in which no key is typed twice: of several values the last one, as of TINY and what follows it."""
    last = {_key(word): word for word in words}
    return [word for number, word in enumerate(words) if word == last[_key(word)] and word not in words[number + 1 :]]


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+") if "=" in word and not word.startswith("-") else word
