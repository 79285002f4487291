"""More seeds where some are there: which runs have them, which do the rest, and what the table makes of it."""

import pytest
from test_collect import entry, put

from normbench.analysis.columns import of_configuration
from normbench.config.identity import earlier, run_id
from normbench.config.overrides import normalize, plan
from normbench.runs.collect import REPEAT, collect, doubles
from normbench.runs.planned import at_work, left, runs_of
from normbench.runs.seeds import carried, consecutive, stem


def planned(folder, *typed):
    return runs_of(plan(normalize([*typed, "device=cpu", "batch_size=8", f"output={folder}"]), True)[0])


def parts(folder, *typed):
    """(first seed, how many, status) of the runs that do what is typed, each method's apart."""
    runs = carried(planned(folder, *typed))
    return [[(p.config.seed, p.config.replicates, p.directory.status()) for p in run.work()] for run in runs]


def over(run, status="finished"):
    return put(run, {"status": status, "seconds": 1.0, "replicates": [entry(seed, 40.0 + seed) for seed in run.seeds]})


@pytest.fixture
def five(tmp_path):
    """A folder with the seeds 0 to 4 of two methods, those of one diverged."""
    batch, group = planned(tmp_path, "norm=batch,group", "replicates=5")
    over(batch)
    over(group, "diverged")
    return tmp_path


def test_the_seeds_that_are_there_are_used(five):
    assert parts(five, "norm=batch", "replicates=10") == [[(0, 5, "finished"), (5, 5, "missing")]]
    assert parts(five, "norm=batch,group,none", "replicates=7") == [
        [(0, 5, "finished"), (5, 2, "missing")],
        [(0, 5, "diverged"), (5, 2, "missing")],
        [(0, 7, "missing")],
    ]
    assert parts(five, "norm=batch", "seed=2", "replicates=2") == [[(0, 5, "finished")]]
    assert parts(five, "norm=batch", "seed=0,1,9") == [[(0, 5, "finished")], [(0, 5, "finished")], [(9, 1, "missing")]]


@pytest.mark.parametrize(
    "other",
    [
        "epochs=3",
        "norm.eps=1e-4",
        "augment.mixup=0.2",
        "data.test_size=50",
        "precision=float64",
        "model=vgg",
    ],
)
def test_those_of_other_settings_are_not(five, other):
    assert parts(five, "norm=batch", "replicates=7", other) == [[(0, 7, "missing")]]


def test_what_the_machine_settled_does_not_part_them(five):
    assert parts(five, "norm=batch", "replicates=7", "stack=1") == parts(five, "norm=batch", "replicates=7")
    [elsewhere] = planned(five, "norm=none", "replicates=2", "precision=bfloat16", "stack=2")
    elsewhere.config = elsewhere.config.with_value("device", "cuda")
    elsewhere.name = run_id(elsewhere.config)
    over(elsewhere)
    assert parts(five, "norm=none", "replicates=3") == [[(0, 2, "finished"), (2, 1, "missing")]]
    assert parts(five, "norm=none", "replicates=3", "precision=float64") == [[(0, 3, "missing")]]


def test_a_run_as_planned_is_taken_as_it_is_and_what_others_began_goes_on(five):
    [ten] = planned(five, "norm=batch", "seed=5", "replicates=5")
    put(ten)  # stopped
    assert parts(five, "norm=batch", "replicates=10") == [[(0, 5, "finished"), (5, 5, "stopped")]]
    assert parts(five, "norm=batch", "replicates=7") == [[(0, 5, "finished"), (5, 2, "missing")]]
    [whole] = planned(five, "norm=batch", "replicates=10")
    put(whole)
    assert parts(five, "norm=batch", "replicates=10") == [[(0, 10, "stopped")]]


def test_what_is_forced_is_done_anew(five):
    [run] = carried(planned(five, "norm=batch", "replicates=7", "force=true"))
    assert [part.config.replicates for part in left(at_work([run]))] == [7]


def test_a_part_is_the_run_that_its_overrides_stand_for(five):
    [run] = carried(planned(five, "norm=batch", "replicates=7"))
    held, rest = run.work()
    again = runs_of(plan(normalize(list(rest.job.overrides)), False)[0])
    assert [one.name for one in again] == [rest.name]
    assert held.directory.status() == "finished"
    assert run.result() is None
    over(rest)
    assert [one["seed"] for one in run.result()["replicates"]] == list(range(7))


def test_each_run_is_read_once_and_others_not_at_all(five, monkeypatch):
    from normbench.runs import seeds

    read, real = [], seeds._read
    monkeypatch.setattr(seeds, "_read", lambda path: read.append(path.name) or real(path))
    carried(planned(five, "norm=batch", "replicates=6,7,8"))
    assert len(read) == 1
    carried(planned(five, "norm=batch,group", "replicates=5"))
    assert len(read) == 1


def test_a_name_without_its_seeds():
    assert stem("resnet8-batch-b2-s0-r5-epochs4-cfff4f") == stem("resnet8-batch-b2-s15-epochs4-0123ab")
    assert stem("resnet8-batch-b2-s0-epochs4-p2-cfff4f") == stem("resnet8-batch-b2-s0-epochs4-cfff4f")
    assert stem("resnet8-batch-b2-s0-epochs4-cfff4f") != stem("resnet8-batch-b4-s0-epochs4-cfff4f")
    assert stem(f"resnet8-batch-b2-s0-{'x' * 120}"[:120] + "-0123ab") == stem(
        f"resnet8-batch-b2-s10-r1000-{'x' * 120}"[:120] + "-cfff4f"
    )


def test_ranges():
    assert consecutive({7, 0, 1, 2, 5, 6}) == [range(0, 3), range(5, 8)]
    assert consecutive([]) == []


# --- The table. -------------------------------------------------------------------------------------------------------


def test_a_seed_of_two_runs_is_two_rows_that_are_told_apart(five):
    [alone] = planned(five, "norm=batch", "seed=3")
    over(alone)
    table, _ = collect(str(five))
    assert len(table) == 11
    twice = table[(table["method"] == "batch") & (table["seed"] == 3)]
    assert sorted(zip(twice[REPEAT], twice["run_id"] == alone.name, strict=True)) == [(1, False), (2, True)]
    assert (table.loc[table["run_id"] != alone.name, REPEAT] == 1).all()
    [line] = doubles(table)
    assert line.startswith("method=batch stats_batch=8: seed 3 of several runs, which the column repeat tells apart: ")
    assert line.endswith(f", {alone.name}")
    assert doubles(table[table[REPEAT] == 1]) == []
    alone.directory.path.rename(five / ".away")
    assert REPEAT not in collect(str(five))[0]


def test_summaries_keep_both(five):
    """A setting like any other: arms are compared where they have it alike."""
    [alone] = planned(five, "norm=batch", "seed=3")
    over(alone)
    table, _ = collect(str(five))
    assert REPEAT in of_configuration(table)
    assert not table.duplicated([*of_configuration(table), "seed"]).any()


# --- Names. -----------------------------------------------------------------------------------------------------------


def test_a_run_under_its_earlier_name_is_found_and_another_under_that_name_is_not(tmp_path):
    [run] = planned(tmp_path, "norm=group")
    over(run)
    before = run.directory.path.rename(tmp_path / earlier(run.name))
    [again] = planned(tmp_path, "norm=group")
    assert (again.directory.path, again.directory.status()) == (before, "finished")
    (before / "config.yaml").write_text((before / "config.yaml").read_text().replace("num_groups: 8", "num_groups: 4"))
    [again] = planned(tmp_path, "norm=group")
    assert (again.name, again.directory.status()) == (run.name, "missing")
