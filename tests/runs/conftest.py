import signal

import pytest
from launching import Sweep, results, serially


@pytest.fixture
def sweep():
    """sweep(output, *overrides, **environment) starts one; whatever is left of it after the test is ended."""
    started = []

    def start(*arguments, **environment):
        started.append(Sweep(*arguments, **environment))
        return started[-1]

    yield start
    for each in started:
        each.signal_all(signal.SIGKILL)
        each.process.wait()


@pytest.fixture(scope="session")
def serial(tmp_path_factory):
    """What the seeds 0 and 1 come to, one after the other in one process."""
    output = tmp_path_factory.mktemp("serial") / "outputs"
    serially(output)
    assert len(results(output)) == 2
    return results(output)
