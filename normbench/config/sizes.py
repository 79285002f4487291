"""Numbers of images and classes, known without loading any."""

# Training and test images of each dataset.
IMAGES = {"cifar10": (50_000, 10_000), "patterns": (6_000, 1_000)}
# What is to be told, and among how many.
LABELS = {"class": 10, "brightness": 2}
# What no run comes near: a mistake rather than a wish.
MOST_IMAGES = 1_000_000  # of a batch, or of the training images
MOST_EPOCHS = 1_000_000
MOST_REPLICATES = 100_000
MOST_THREADS = 1024
MOST_WIDTH = 100_000  # channels
MOST_INTEGER = 2**63 - 1  # of torch, and of a table
PRECISE_BATCH = 200  # images per forward pass of the precise statistics: earlier layers normalize by these


def train_images(config) -> int:
    """Images in the training split of a configuration."""
    return config.data.train_size or IMAGES[config.data.name][0] - config.data.val_size


def images_in_all(config) -> int:
    """Training images that a run processes, replicates counted: the measure of its work."""
    return config.epochs * samples_per_epoch(config) * config.replicates


def samples_per_epoch(config) -> int:
    """Images an epoch sees: the last incomplete batch is dropped."""
    return train_images(config) // config.batch_size * config.batch_size
