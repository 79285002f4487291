"""scripts/scale.py as a user runs it."""


def test_what_a_hundred_runs_cost(script, tmp_path):
    done = script("scale", "--runs", "100", "--runs", "150", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("scale.py: 100 runs\n")
    head, _, row = [line.strip("| ").split(" | ") for line in done.stdout.splitlines()[1:]]
    assert head[1:6] == ["planning", "status", "status of stacks", "--dry-run", "collect"]
    count, planning, *statuses, dry_run, collect, memory = map(float, row)
    assert count == 100
    assert min(planning, dry_run, collect) > 0.1  # to start Python takes longer
    assert min(statuses) > 0
    assert 30 < memory < 1500
    assert list(tmp_path.iterdir()) == []


def test_what_it_writes_are_runs_that_are_over(script, tmp_path):
    assert script("scale", "--runs", "200", "--write", "all", cwd=tmp_path).returncode == 0
    done = script("scale", "--runs", "200", "--ask", "all", "--stacks", cwd=tmp_path)
    assert (done.returncode, done.stdout.split()[0], done.stderr) == (0, "200", "")
    done = script("collect", "all", cwd=tmp_path)
    assert done.stdout == "all/runs.csv: 200 runs, 200 replicates: 200 finished\n"


def test_fewer_than_a_hundred_are_refused(script, tmp_path):
    done = script("scale", "--runs", "50", cwd=tmp_path)
    assert done.returncode == 2
    assert "50: must be an integer from 100" in done.stderr
    assert done.stderr.count("\n") == 1
