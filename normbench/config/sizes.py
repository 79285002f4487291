"""Numbers of images and classes, known without loading any."""

# Training and test images of each dataset.
IMAGES = {"cifar10": (50_000, 10_000), "patterns": (6_000, 1_000)}
# What is to be told, and among how many.
LABELS = {"class": 10, "brightness": 2}
PRECISE_BATCH = 200  # images per forward pass of the precise statistics: earlier layers normalize by these


def train_images(config) -> int:
    """Images in the training split of a configuration."""
    return config.data.train_size or IMAGES[config.data.name][0] - config.data.val_size


def samples_per_epoch(config) -> int:
    """Images an epoch sees: the last incomplete batch is dropped."""
    return train_images(config) // config.batch_size * config.batch_size
