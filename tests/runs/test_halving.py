"""Halving as a sweep: its rungs, seeds and edges, what it waits for; killed and shared, it ends as if undisturbed."""

import math
import re
import signal

import pandas as pd
import pytest
from forked import Forked
from small_runs import MEASURED, last_of_each
from test_collect import entry, put
from test_sweep import results, wait_for

from normbench.config.overrides import Job, normalize, plan
from normbench.config.values import Values
from normbench.errors import InputError
from normbench.records.metrics import OVER
from normbench.runs.collect import collect, of_runs
from normbench.runs.forced import since
from normbench.runs.halving import Halving, rungs_of
from normbench.runs.planned import runs_of
from normbench.runs.seeds import carried

# The best rate of a method, at one epoch and at two.
BEST = {"batch": (0.2, 0.4), "group": (1.6, 1.6)}
RUNGS = [{"rates": 2, "replicates": 3, "epochs": 2}]


def study(folder, *typed, **said):
    grid = ("norm=batch,group", "optim.lr=0.1,0.2,0.4", "epochs=1", "seed=5", "device=cpu", f"output={folder}")
    jobs, _, _ = plan(normalize(last_of_each([*grid, *typed])), True)
    said = {"tunes": {"lr": "halving"}, "rungs": RUNGS} | said
    return [Job(job.overrides, Values({**job.config, **said})) for job in jobs]


def do(run, status="finished"):
    best, rate = BEST[run.config.norm.name][run.config.epochs - 1], run.config.optim.lr
    put(
        run,
        {
            "status": status,
            "seconds": 1.0,
            "replicates": [entry(seed, 60 - abs(math.log2(rate / best)) + seed / 100) for seed in run.seeds],
        },
    )


def swept(jobs, fail=()):
    """What a sweep did, stage by stage: (method, rate, epochs, seeds)."""
    done = []
    for todo, _ in Halving(carried(runs_of(jobs)), rungs_of(jobs)).stages():
        new = [run for run in todo if run.directory.status() not in (*OVER, "failed")]
        done.append([(c.norm.name, c.optim.lr, c.epochs, *run.seeds) for run in new for c in [run.config]])
        for run in new:
            do(run, "failed" if (run.config.norm.name, run.config.optim.lr) in fail else "finished")
    return done


def test_each_arm_climbs_on_its_own_and_edges_are_extended(tmp_path, capsys):
    first, *later = swept(study(tmp_path))
    assert first == [(method, rate, 1, 5) for method in ("batch", "group") for rate in (0.1, 0.2, 0.4)]
    assert later == [
        [("batch", 0.2, 2, 6, 7, 8), ("batch", 0.1, 2, 6, 7, 8), ("group", 0.8, 1, 5)],  # equal: the lower rate goes on
        [("batch", 0.4, 2, 6, 7, 8), ("group", 1.6, 1, 5)],  # at the edge of either
        [("batch", 0.8, 2, 6, 7, 8), ("group", 3.2, 1, 5)],
        [("group", 1.6, 2, 6, 7, 8), ("group", 0.8, 2, 6, 7, 8)],
        [("group", 3.2, 2, 6, 7, 8)],
    ]
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "normbench: on to rung 2: 1 of 2 arms, a rate beyond the edge: 1 of 2 arms"
    assert told[-1] == "normbench: through all 2 rungs: 2 of 2 arms"
    assert [stage for stage in swept(study(tmp_path)) if stage] == []  # and decides the same from what is there


def test_the_rows_of_a_table_say_their_rung(tmp_path):
    jobs = study(tmp_path)
    [(todo, _), *_] = Halving(runs_of(jobs), rungs_of(jobs)).stages()
    for run in todo:
        do(run)
    part = of_runs(runs_of(jobs), rungs=rungs_of(jobs)).runs
    assert part.groupby(["method", "rung"])["status"].agg(set).to_dict() == {
        ("batch", 1): {"finished"},
        ("batch", 2): {"missing"},
        ("group", 1): {"finished", "missing"},  # beyond the edge
    }
    swept(jobs)
    runs = of_runs(runs_of(jobs), rungs=rungs_of(jobs)).runs
    assert runs.groupby(["method", "rung"])["lr"].nunique().to_dict() == {
        ("batch", 1): 3,
        ("batch", 2): 4,
        ("group", 1): 6,
        ("group", 2): 3,
    }
    assert "rung" not in of_runs(runs_of(jobs)).runs


def test_rates_beyond_the_edge_have_an_end(tmp_path, monkeypatch):
    monkeypatch.setitem(BEST, "batch", (1e9, 0.4))
    rates = [rate for stage in swept(study(tmp_path, "norm=batch")) for _, rate, epochs, *_ in stage if epochs == 1]
    assert rates == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4]


def test_an_arm_with_a_failed_run_waits_and_the_others_go_on(tmp_path, capsys):
    done = [one for stage in swept(study(tmp_path), fail=[("batch", 0.1)]) for one in stage]
    assert {method for method, _, epochs, *_ in done if epochs == 2} == {"group"}
    assert "through all 2 rungs: 1 of 2 arms" in capsys.readouterr().err


def test_what_is_to_come_is_as_much_as_will_be(tmp_path):
    jobs = study(tmp_path)
    halving = Halving(runs_of(jobs), rungs_of(jobs))
    [runs] = halving.to_come()
    assert [(run.config.norm.name, run.config.epochs, *run.seeds) for run in runs] == [
        (method, 2, 6, 7, 8) for method in ("batch", "batch", "group", "group")
    ]
    swept(jobs)
    halving = Halving(runs_of(jobs), rungs_of(jobs))
    halving.climb()
    assert halving.to_come() == [[]]


@pytest.mark.parametrize(
    ("typed", "said", "wrong"),
    [
        (["optim.lr=0.1"], {}, r"optim\.lr=0\.1: a halving needs a grid of several rates"),
        (["seed=5,6"], {}, "seed=6: a halving has one first seed"),
        (["measure=inputs"], {}, "measure=inputs: has no rate to tune"),
        ([], {"rungs": [{"rates": 2, "epochs": 0}]}, "epochs=0"),
        ([], {"rungs": [{"rates": 2, "epoch": 3}]}, "epoch=3: unknown key"),
        ([], {"looks": [3, 5]}, "looks=.*leave one out"),
    ],
)
def test_what_cannot_be_halved_shows_before_any_run(tmp_path, typed, said, wrong):
    jobs = study(tmp_path, *typed, **said)
    with pytest.raises(InputError, match=wrong):
        Halving(runs_of(jobs), rungs_of(jobs))


# --- In processes of their own. ---------------------------------------------------------------------------------------

TYPED = ("+experiment=tune_batch", "norm=group", "batch_size=16", "optim.lr=0.05,0.1", "epochs=1")


def typed(tiny):
    rest = [word for word in tiny if not word.startswith(("batch_size", "epochs"))]
    rungs = "rungs=[{rates:1,replicates:2,epochs:2}]"
    return [*TYPED, *rest, rungs, "logging.tensorboard=false", "output=runs"]


def rows(root):
    overrides = [word for word in (root / "typed").read_text().splitlines() if not word.startswith(("+exp", "output"))]
    runs, _ = collect("tune_batch", str(root / "runs"), overrides)
    return runs.drop(columns=[*runs.columns.intersection(MEASURED), "command"])


def test_killed_and_taken_up_by_two_it_ends_as_if_undisturbed(tiny, tmp_path):
    words, roots = typed(tiny), [tmp_path / name for name in ("undisturbed", "killed")]
    for root in roots:
        root.mkdir()
        (root / "typed").write_text("\n".join(words))
    whole = Forked(roots[0], *words)
    killed = Forked(roots[1], *words, "checkpoint_seconds=0")
    wait_for(lambda: len(results(roots[1])) >= 2)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    out, err = whole.communicate(timeout=120)
    assert whole.returncode == 0, err
    assert "through all 2 rungs: 1 of 1 arms" in err
    assert len(results(roots[1])) < len(results(roots[0]))
    both = [Forked(roots[1], *words) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    found, expected = rows(roots[1]), rows(roots[0])
    pd.testing.assert_frame_equal(found, expected)
    assert set(found["rung"]) == {1, 2}
    assert len(found) == int(re.search(r"replicates: (\d+) finished", out)[1])


def test_with_nothing_left_of_a_rung_nothing_is_forced():
    """All of its runs are rows of reused tables."""
    assert since([]) is None
