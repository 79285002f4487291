import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def script():
    """Runs a script in a process of its own."""

    def run(name, *arguments, cwd):
        command = [sys.executable, ROOT / "scripts" / f"{name}.py", *map(str, arguments)]
        environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)

    return run


@pytest.fixture
def told(run_script, tmp_path, capsys):
    """What a script says of a mistake on standard error: all it says."""

    def run(name, *arguments):
        with pytest.raises(SystemExit) as exit_:
            run_script(name, *arguments, cwd=tmp_path)
        assert exit_.value.code == 2
        out, err = capsys.readouterr()
        assert out == ""
        return err

    return run
