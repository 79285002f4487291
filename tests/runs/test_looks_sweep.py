"""Looks: a sweep does the seeds of one, decides, and goes on with the runs behind what is undecided alone."""

import re

import pytest
from test_collect import entry, put

from normbench.config.overrides import Job, normalize, plan
from normbench.config.values import Values
from normbench.errors import InputError
from normbench.records.metrics import OVER
from normbench.runs.collect import of_runs
from normbench.runs.planned import at_work, looks_of, runs_of
from normbench.runs.seeds import carried
from normbench.runs.stages import stages

# Accuracy of a method at a seed: group is far above batch, layer and none differ by nothing.
ACCURACY = {
    "batch": lambda seed: 40 + seed % 3 / 50,
    "group": lambda seed: 60,
    "layer": lambda seed: 50 + (seed * 7) % 5,
    "none": lambda seed: 50 + (seed * 3) % 5,
}


def claim(name, a, b):
    words = {"name": name, "statement": name, "source": "a test", "kind": "difference", "direction": "greater"}
    return words | {"margin": 0, "a": {"method": a}, "b": {"method": b}}


CLAIMS = [claim("clear", "group", "batch"), claim("open", "layer", "none")]


def study(folder, *typed, looks=(3, 6, 9), claims=CLAIMS):
    jobs, _, _ = plan(
        normalize(["norm=batch,group,layer,none", "replicates=3", "device=cpu", f"output={folder}", *typed]), True
    )
    said = {"looks": list(looks) if isinstance(looks, tuple) else looks, "claims": claims}
    return [Job(job.overrides, Values({**job.config, **said})) for job in jobs]


def do(run):
    found = [entry(seed, ACCURACY[run.config.norm.name](seed)) for seed in run.seeds]
    put(run, {"status": "finished", "seconds": 1.0, "replicates": found})


def swept(jobs):
    """The runs that a sweep did, as (method, first seed, how many), look by look."""
    done = []
    for todo, _ in stages(carried(runs_of(jobs)), looks_of(jobs)):
        new = [run for run in todo if run.directory.status() not in OVER]
        done.append([(run.config.norm.name, run.config.seed, run.config.replicates) for run in new])
        for run in new:
            do(run)
    return done


def test_what_is_undecided_goes_on_alone(tmp_path, capsys):
    jobs = study(tmp_path)
    further = [("layer", 3, 3), ("none", 3, 3)]
    first = [(method, 0, 3) for method in ACCURACY]
    assert swept(jobs) == [first, further, [(method, 6, 3) for method, *_ in further]]
    told = re.findall(r"look at (\d) seeds: (.*)", capsys.readouterr().err)
    assert [look for look, _ in told] == ["3", "6", "9"]
    assert told[0][1] == "1 holds, 1 inconclusive; on to 6 seeds with 2 of 4 configurations"
    assert "on to" not in told[2][1]
    assert swept(jobs) == [[], [], []]  # and decides anew from what is there
    runs = of_runs(runs_of(jobs), looks_of(jobs)).runs
    assert runs.groupby("method")["seed"].count().to_dict() == {"batch": 3, "group": 3, "layer": 9, "none": 9}
    assert set(runs["status"]) == {"finished"}


def test_primary_claims_alone_say_whether_it_goes_on(tmp_path):
    claims = [CLAIMS[0] | {"primary": True}, CLAIMS[1]]
    assert len(swept(study(tmp_path, claims=claims))) == 1


def test_it_waits_for_a_look_that_is_not_over(tmp_path, capsys):
    jobs = study(tmp_path)
    first, *others = runs_of(jobs)
    for run in others:
        do(run)
    [(todo, runs)] = stages(carried(runs_of(jobs)), looks_of(jobs))
    assert [run.directory.status() for run in todo] == ["missing", *["finished"] * 3]
    assert "look at" not in capsys.readouterr().err
    do(first)
    *_, (todo, runs) = stages(carried(runs_of(jobs)), looks_of(jobs))  # as --dry-run asks: the next look's
    assert [(run.config.seed, run.directory.status()) for run in todo] == [(3, "missing")] * 2
    assert sorted(len(run.seeds) for run in runs) == [3, 3, 6, 6]
    assert len(at_work(runs)) == 6


def test_a_part_of_a_study_that_lacks_what_claims_are_about_is_not_decided(tmp_path, capsys):
    jobs = study(tmp_path, claims=[CLAIMS[0] | {"a": {"augment.mixup": 0.2}}])
    assert len(swept(jobs)) == 1
    assert "look at 3 seeds: the claims cannot be decided (" in capsys.readouterr().err


@pytest.mark.parametrize("looks", [(5, 3), (3, 3), (1, 5), "5", ("5",), 5, (), (5.5, 10)])
def test_looks_that_are_no_plan_are_one_line(tmp_path, looks):
    with pytest.raises(InputError, match=r"looks=.*must be rising numbers of seeds"):
        looks_of(study(tmp_path, looks=looks))


def test_other_replicates_than_those_of_the_first_look_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"replicates=7: the study is judged at \[3, 6, 9\] seeds"):
        looks_of(study(tmp_path, "replicates=7"))
    assert looks_of(study(tmp_path, "replicates=7", looks=None)) == ()
