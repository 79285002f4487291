"""The attacks, a few seconds of each: what is killed, closed or damaged ends as what nobody touched."""

import pytest
from attack_corruption import corruption
from attack_disk import disks
from attack_hangups import hangups
from attack_kills import kills
from attack_overlaps import overlaps
from attack_workers import workers


def test_kills(tmp_path):
    figures = kills(tmp_path, 6)
    assert figures["bit-equal"] == figures["runs"]


def test_overlaps(tmp_path):
    figures = overlaps(tmp_path, 4)
    assert figures["bit-equal"] == figures["sweeps"]


def test_hangups(tmp_path):
    figures = hangups(tmp_path, 2)
    assert figures["told and ended with 129"] == figures["hang-ups"]
    assert figures["bit-equal"] == 2


def test_a_killed_worker(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    assert workers(tmp_path, 1) == {"workers killed": 1, "told and gone on": 1, "sweeps": 1, "bit-equal": 1}


def test_disks(tmp_path):
    figures = disks(tmp_path, 2)
    if "skipped" in figures:
        pytest.skip(figures["skipped"])
    assert figures["full"] == figures["told in one line"]
    assert figures["bit-equal with room again"] == 2


def test_corruption(tmp_path):
    assert corruption(tmp_path, 4)["wrong"] == []
