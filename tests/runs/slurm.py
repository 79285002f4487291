"""A Slurm of one node on this machine, for tests: `slurm.py up FOLDER`, then `slurm.py down FOLDER`.

Needs root and Debian's slurm-wlm and munge; neither systemd nor cgroups. Configuration, keys, logs and sockets are in
FOLDER alone; after `export SLURM_CONF=FOLDER/slurm.conf` the commands of Slurm talk to this one.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")  # in the order of their start
SECONDS = 30  # for the node to be ready, and for the daemons to end
CONFIG = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthInfo=socket={folder}/munge/socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
MpiDefault=none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=2000
PartitionName=tests Nodes={host} Default=YES State=UP
"""


def lacking() -> str | None:
    """Why there can be no Slurm here, or None."""
    if absent := [name for name in (*DAEMONS, "sbatch", "srun") if shutil.which(name, path=_path()) is None]:
        return f"no {', '.join(absent)}: apt-get install slurm-wlm munge"
    return None if os.geteuid() == 0 else "Slurm's daemons need root"


def up(folder: Path) -> None:
    """Start it and wait until its node is idle. Raises RuntimeError, with everything ended again, if it fails."""
    if reason := lacking():
        raise RuntimeError(reason)
    for name in (".", "munge", "state", "spool"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    munge = folder / "munge"
    (munge / "key").write_bytes(secrets.token_bytes(128))
    (munge / "key").chmod(0o400)
    for path in (munge, munge / "key"):
        shutil.chown(path, "munge", "munge")
    folder.chmod(0o755)
    munge.chmod(0o755)
    host = socket.gethostname().partition(".")[0]
    (folder / "slurm.conf").write_text(CONFIG.format(host=host, ports=_free_ports(2), folder=folder))
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    try:
        # munged does not trust a key below a folder that others may write to, such as /tmp.
        _run(folder, "munged", "--force", *(f"--{flag}={munge / name}" for flag, name in files.items()), user="munge")
        _run(folder, "slurmctld")
        _run(folder, "slurmd")
        _wait(lambda: "idle" in _run(folder, "sinfo", "--noheader", "--format=%t"), "no idle node")
    except Exception:
        down(folder)
        raise


def down(folder: Path) -> None:
    """Cancel its jobs and end its daemons."""
    if (folder / "slurmd.pid").exists():
        with suppress(RuntimeError, subprocess.TimeoutExpired):
            _run(folder, "scancel", "--full", "--user=root")
            _wait(lambda: not _run(folder, "squeue", "--noheader"), "jobs remain")
    for file in (folder / "slurmd.pid", folder / "slurmctld.pid", folder / "munge" / "pid"):
        with suppress(FileNotFoundError, ValueError, ProcessLookupError):
            pid = int(file.read_text())
            os.kill(pid, signal.SIGTERM)
            _wait(lambda pid=pid: not _runs(pid), f"{file.stem} does not end")


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])  # of the daemons


def _run(folder: Path, *command, user=None) -> str:
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": _path()}
    done = subprocess.run(
        command, env=environment, user=user, group=user, extra_groups=[] if user else None,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout


def _wait(condition, otherwise: str) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(otherwise)
        time.sleep(0.1)


def _runs(pid: int) -> bool:
    """Whether a process lives; where nothing reaps orphans, it stays as a zombie (Z) once it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("up", "down"):
        sys.exit(f"usage: {sys.argv[0]} up|down FOLDER")
    try:
        {"up": up, "down": down}[sys.argv[1]](Path(sys.argv[2]).resolve())
    except RuntimeError as error:
        sys.exit(f"{sys.argv[0]}: {error}")
