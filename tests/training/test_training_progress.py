"""What a log says while a run works."""

import itertools

import pytest

from normbench.training import progress


@pytest.mark.parametrize(("seconds_a_step", "told"), [(1.0, "run: 100 steps, about 1:36 left\n"), (0.1, "")])
def test_a_log_soon_says_how_long_it_takes(seconds_a_step, told, monkeypatch, capsys):
    """Once, after some seconds; nothing of a run that is over soon."""
    clock = itertools.count(0, seconds_a_step)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    now = [0.0]
    display = progress.Display("lines", "run", 2, 100, 0, 8)
    for _ in range(60):
        now[0] = next(clock) + seconds_a_step
        display.step()
    assert capsys.readouterr().err == told
