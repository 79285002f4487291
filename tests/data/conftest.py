import os
from pathlib import Path

import pytest

from normbench.data import cifar10
from normbench.errors import UserError


@pytest.fixture(scope="session")
def cifar10_root():
    """A folder that holds CIFAR-10, fetched if need be; skips where it cannot be had."""
    root = Path(os.environ.get("NORMBENCH_DATA") or Path(__file__).parents[2] / "data")
    try:
        cifar10.load_arrays(root)
    except UserError as error:
        pytest.skip(str(error))
    return root
