"""Which devices there are, asked of the driver while torch is not loaded."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from normbench.config import machine
from normbench.config.machine import cuda_devices, settle_device
from normbench.errors import InputError


class Driver:
    """Stands in for libcuda.so.1."""

    def __init__(self, devices, version=13_020, answer=0):
        self.devices, self.version, self.answer = devices, version, answer

    def cuInit(self, flags):
        assert flags == 0
        return self.answer

    def cuDriverGetVersion(self, pointer):
        pointer._obj.value = self.version
        return 0

    def cuDeviceGetCount(self, pointer):
        pointer._obj.value = self.devices
        return 0


@pytest.fixture
def without_torch(monkeypatch):
    """A process that has not loaded torch; takes what torch was built with and the driver, None for none."""
    monkeypatch.setattr(sys, "modules", {name: module for name, module in sys.modules.items() if name != "torch"})

    def set_up(build, driver):
        def load(name):
            if driver is None:
                raise OSError(name)
            return driver

        monkeypatch.setattr(machine, "_torchs_build", lambda: build)
        monkeypatch.setattr(ctypes, "CDLL", load)
        machine._asked_of_driver.cache_clear()

    yield set_up
    machine._asked_of_driver.cache_clear()


@pytest.mark.parametrize(
    ("build", "driver", "count"),
    [
        (("13.2", None), Driver(2), 2),
        (("12.8", None), Driver(1), 1),
        (("13.2", None), Driver(0), 0),
        (("13.2", None), Driver(2, answer=100), 0),  # no device that it may see
        (("13.2", None), Driver(2, version=12_080), 0),  # torch needs a newer driver
        (("13.2", None), None, 0),
        ((None, None), Driver(2), 0),  # torch is built for the CPU alone
    ],
)
def test_the_driver_is_asked(build, driver, count, without_torch):
    without_torch(build, driver)
    assert cuda_devices() == count


def test_torch_is_asked_where_it_is_loaded(monkeypatch):
    monkeypatch.setattr(machine, "_asked_of_driver", lambda: pytest.fail("of the driver"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert cuda_devices() == 3
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cuda_devices() == 0


def test_what_torch_was_built_with_is_read_without_loading_it():
    assert machine._torchs_build() == (torch.version.cuda, torch.version.hip)


def test_both_ways_tell_the_same_here():
    code = "from normbench.config.machine import cuda_devices as n; a = n(); import torch; print(a, n())"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    driver, torchs = done.stdout.split()
    assert driver == torchs


@pytest.mark.parametrize(
    ("count", "typed", "settled"), [(0, "auto", "cpu"), (1, "auto", "cuda"), (2, "cuda:1", "cuda:1")]
)
def test_a_device_settles(count, typed, settled, monkeypatch):
    monkeypatch.setattr(machine, "cuda_devices", lambda: count)
    assert settle_device(typed) == settled
    assert settle_device("cpu") == "cpu"


@pytest.mark.parametrize(
    ("count", "typed", "words"), [(0, "cuda", "has no CUDA device"), (2, "cuda:2", "has 2 CUDA devices")]
)
def test_a_device_that_is_not_there_is_told(count, typed, words, monkeypatch):
    monkeypatch.setattr(machine, "cuda_devices", lambda: count)
    with pytest.raises(InputError, match=f"device={typed}: this machine {words}"):
        settle_device(typed)
