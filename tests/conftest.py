import pytest
import torch


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """The layers here are tiny: threads would only wait for each other, for minutes on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
