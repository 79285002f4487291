"""scripts/scale.py as a user runs it."""


def test_what_a_hundred_runs_cost(script, tmp_path):
    done = script("scale", "--runs", "100", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    head, *_, row = done.stdout.splitlines()[1:]
    assert head.split(" | ")[1:4] == ["planning", "planning and status", "collect"]
    count, *cost = row.strip("| ").split(" | ")
    assert count == "100"
    assert all(float(value) > 0.1 for value in cost)  # to start Python takes longer
    assert list(tmp_path.iterdir()) == []


def test_what_it_writes_are_runs_that_are_over(script, tmp_path):
    for words, said in (("--write", ""), ("--ask", "100\n")):
        done = script("scale", "--runs", "100", words, "all", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, said), done.stderr
    done = script("collect", "all", cwd=tmp_path)
    assert done.stdout == "all/runs.csv: 100 runs, 100 replicates: 100 finished\n"


def test_fewer_than_a_hundred_are_refused(script, tmp_path):
    done = script("scale", "--runs", "50", cwd=tmp_path)
    assert done.returncode == 2
    assert "50: must be an integer from 100" in done.stderr
    assert done.stderr.count("\n") == 1
