"""Ray: a cluster of two nodes on this machine, one of which claims to have a GPU."""

import os
import signal
import socket
import tempfile
import time
from pathlib import Path

import pytest
from launching import ROOT, occupy, processes, refused, results, serially, threads

pytest.importorskip("hydra_plugins.hydra_ray_launcher")


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    # Its folder holds sockets, whose paths must be short; its nodes start in a folder that is not the command's.
    with tempfile.TemporaryDirectory(prefix="ray") as folder, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        node = {"num_cpus": 1, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=node | {"num_gpus": 1})
        try:
            cluster.add_node(**node)
            yield cluster
        finally:
            cluster.shutdown()


@pytest.fixture
def ray_sweep(cluster, sweep):
    """A sweep through the cluster."""
    ray = ["hydra/launcher=ray", f"hydra.launcher.ray.init.address={cluster.address}"]
    return lambda output, *overrides: sweep(output, *overrides, *ray, RAY_AUTH_MODE="disabled")


def nodes_at_work(cluster) -> list[int]:
    """The node (0 has the GPU) of each run under way."""
    raylets = [node.all_processes["raylet"][0].process.pid for node in cluster.list_all_nodes()]
    at_work = []
    for pid, (_, parent, _) in processes().items():
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::_run_job"):
                at_work.append(raylets.index(parent))
        except (OSError, ValueError):  # it has ended; it is somebody else's
            pass
    return at_work


def watched(sweep, cluster) -> set[tuple[int, ...]]:
    """Every set of nodes that were at work at the same time during a sweep."""
    seen = set()
    while sweep.process.poll() is None:
        seen.add(tuple(sorted(nodes_at_work(cluster))))
        time.sleep(0.1)
    return seen


def test_both_nodes_work_and_equal_the_serial_runs_and_one_that_fails_stops_nothing(
    cluster, ray_sweep, serial, tmp_path
):
    output = tmp_path / "outputs"
    occupied = occupy(output, "seed=2")
    started = ray_sweep(Path(os.path.relpath(output, ROOT)), "seed=0,1,2")
    seen = watched(started, cluster)
    printed = started.ends(1)
    assert f"{occupied.name}: File exists" in printed
    assert (0, 1) in seen
    assert results(output) == serial
    assert threads(output) == {1}
    assert all('"python -m normbench -m ' in path.read_text() for path in output.glob("*/env.json"))


def test_two_runs_share_a_gpu_by_halves(cluster, ray_sweep, serial, tmp_path):
    ask = [f"+hydra.launcher.ray.remote.{what}=0.5" for what in ("num_gpus", "num_cpus")]
    started = ray_sweep(tmp_path / "outputs", "seed=0,1", *ask)
    seen = watched(started, cluster)
    started.ends(0)
    assert (0, 0) in seen
    assert not any(1 in nodes for nodes in seen)
    assert results(tmp_path / "outputs") == serial


def test_sigterm_ends_the_runs_too_and_the_sweep_goes_on(cluster, ray_sweep, serial, tmp_path):
    output = tmp_path / "outputs"
    stopped = ray_sweep(output, "seed=0,1")
    stopped.keeps_a_checkpoint()
    stopped.process.send_signal(signal.SIGTERM)
    assert "normbench: stopped by SIGTERM; to go on: python -m normbench -m" in stopped.ends(128 + signal.SIGTERM)
    serially(output)  # it waits for what is still being stopped
    assert results(output) == serial
    assert not nodes_at_work(cluster)


def test_an_address_that_does_not_answer_is_told_in_one_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    ray = ["hydra/launcher=ray", f"hydra.launcher.ray.init.address={address}"]
    told = refused(tmp_path / "outputs", "seed=0,1", *ray)
    assert told.startswith(f"normbench: hydra.launcher.ray.init.address={address}: no Ray cluster answers there")
    assert told.count("\n") == 1
