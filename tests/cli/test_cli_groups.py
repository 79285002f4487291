"""Both spellings of a group, help, Hydra's flags, experiments, and real commands."""

import json
import re
import shlex

import pytest
from forked import Forked
from omegaconf import OmegaConf

from normbench.config.files import GROUPS, OF_ALL, choices, conf_dir, default_choices, flatten
from normbench.config.overrides import normalize, plan
from normbench.config.resolve import resolve
from normbench.config.values import plain, value_at

# A choice of each group that is not the default.
OTHER = {
    "model": "vgg",
    "norm": "group",
    "data": "patterns",
    "augment": "none",
    "optim": "adamw",
    "measure": "range_test",
    "recipe": "bn_x5",
    "experiment": "demo",
}


def planned(*typed, multirun=False):
    return plan(normalize(list(typed)), multirun)


@pytest.fixture
def composed(command, monkeypatch):
    """The configurations that a command would run, nothing trained: Hydra's own in a sweep."""

    def run(*arguments):
        taken = []
        monkeypatch.setattr("normbench.runs.run.execute", lambda config, since=None: taken.append(plain(config)) or {})
        monkeypatch.setattr("normbench.runs.report.print_run", lambda *_: None)
        monkeypatch.setattr("normbench.runs.sweep.print_line", lambda *_: None)
        monkeypatch.setattr("normbench.runs.report.print_sweep", lambda *_: 0)
        status, _, err = command(*arguments)
        assert (status, err) == (0, "")
        return taken

    return run


def test_the_test_knows_every_group():
    assert set(OTHER) == {group for group in GROUPS if len(choices(group)) > 1}
    assert set(GROUPS) == {path.name for path in conf_dir().iterdir() if path.is_dir()}
    assert all(default_choices().get(group) != choice for group, choice in OTHER.items())


@pytest.mark.parametrize("group", [group for group in OTHER if group not in OF_ALL])
def test_both_spellings_of_a_group_are_one(group, composed):
    choice = OTHER[group]
    (bare,) = composed(f"{group}={choice}")
    assert composed(f"+{group}={choice}") == [bare]
    assert composed(f"++{group}={choice}") == [bare]
    assert composed("-m", f"{group}={choice}") == [bare]
    assert composed("-m", f"+{group}={choice}") == [bare]
    # Before it is resolved: what follows from a group, like the warm-up from the data, is in others.
    bare, default = (plain(planned(*typed)[0][0].config) for typed in ([f"{group}={choice}"], []))
    assert bare[group]["name"] == choice != default[group]["name"]
    assert {key: value for key, value in bare.items() if key != group} == {
        key: value for key, value in default.items() if key != group
    }


@pytest.mark.parametrize("group", [group for group in OTHER if group not in OF_ALL])
def test_both_spellings_of_a_sweep_over_a_group_are_one(group, composed):
    values = [default_choices()[group], OTHER[group]]
    bare = composed("-m", f"{group}={','.join(values)}", "seed=3")
    assert [config[group]["name"] for config in bare] == values
    assert [config["seed"] for config in bare] == [3, 3]
    assert composed("-m", f"+{group}={','.join(values)}", "+seed=3") == bare


COUPLED = [(norm, size, None) for norm in ("batch", "group", "none") for size in (2, 8, 32)]
DECOUPLED = [("ghost_batch", 32, ghost) for ghost in (2, 8)]


def cells(configs):
    return [(config["norm"]["name"], config["batch_size"], config["norm"].get("ghost_size")) for config in configs]


@pytest.mark.parametrize("typed", [["experiment=demo"], ["-m", "+experiment=demo"]])
def test_both_spellings_of_an_experiment_sweep_its_grid(typed, composed):
    configs = composed(*typed)
    assert cells(configs) == COUPLED + DECOUPLED
    assert {config["study"] for config in configs} == {"demo"}
    assert {config["replicates"] for config in configs} == {3}
    assert {config["data"]["train_size"] for config in configs} == {3000}


def test_what_is_typed_replaces_the_grid_of_the_file(composed):
    assert cells(composed("experiment=demo", "batch_size=4")) == [
        (norm, 4, None) for norm in ("batch", "group", "none")
    ]
    assert cells(composed("batch_size=4,8", "+norm=skipinit", "experiment=demo")) == [
        ("skipinit", 4, None),
        ("skipinit", 8, None),
    ]
    assert {config["epochs"] for config in composed("experiment=demo", "epochs=1", "norm=none", "batch_size=2")} == {1}


def test_values_of_a_grid_are_what_yaml_says():
    jobs, _, _ = planned("experiment=recurrent")
    assert {value_at(job.config, "evaluation.every_steps") for job in jobs} == {26, None}


def test_what_is_typed_selects_from_the_further_grids(composed):
    assert cells(composed("experiment=demo", "batch_size=32", "epochs=1,2")) == [
        cell for cell in (*COUPLED, *DECOUPLED) if cell[1] == 32 for _ in (1, 2)
    ]
    assert cells(composed("experiment=demo", "norm=ghost_batch", "norm.ghost_size=2", "batch_size=32")) == [
        ("ghost_batch", 32, 2)  # of both grids, and once
    ]
    assert cells(composed("experiment=demo", "norm=group", "batch_size=2,32")) == [
        ("group", 2, None),
        ("group", 32, None),
    ]


def test_what_a_study_says_beside_its_grid_is_no_part_of_a_run(composed):
    (job, *_), _, _ = planned("experiment=demo")
    assert {"grids", "claims", "figure"} <= set(job.config)
    assert not {"grids", "claims", "figure", "tunes"} & set(resolve(job.config))


def test_the_plan_is_what_hydra_runs(composed):
    typed = ["norm=batch,group", "seed=range(0,2)", "optim.lr=0.05"]
    jobs, multirun, _ = planned(*typed, multirun=True)
    assert multirun
    assert [plain(resolve(job.config)) for job in jobs] == composed("-m", *typed)
    assert len(jobs) == 4
    jobs, multirun, _ = planned("experiment=demo", "batch_size=4")
    assert multirun
    executed = [resolve(OmegaConf.create(config)) for config in composed("experiment=demo", "batch_size=4")]
    assert [resolve(job.config) for job in jobs] == executed


def test_null_is_no_experiment_and_no_recipe(composed):
    assert composed("experiment=null", "recipe=null", "seed=1") == composed("seed=1")


def test_a_recipe_sets_keys_of_several_groups_and_yields_to_what_is_typed(composed):
    """What Ioffe & Szegedy 2015 change with BN, section 4.2.1: thorough shuffling, the seventh, is always there."""
    names = ("inception", "bn_baseline", "bn_x5", "bn_x30")
    arms = composed("-m", f"+recipe={','.join(names)}", "model.width=8")
    assert [arm["arm"] for arm in arms] == list(names)
    plain_net, baseline, x5, x30 = (flatten(arm) for arm in arms)

    def changed(one, other):
        return {key for key in one | other if one.get(key) != other.get(key)} - {"arm"}

    assert {key for key in changed(plain_net, baseline) if not key.startswith("norm.")} == set()
    colours = {"augment.brightness", "augment.contrast", "augment.saturation"}
    changes = {"optim.lr_factor", "model.dropout", "optim.weight_decay", "optim.gamma_every", "model.lrn"}
    assert changed(baseline, x5) == changes | colours
    assert changed(x5, x30) == {"optim.lr_factor"}
    assert (x5["model.dropout"], x5["model.lrn"], x5["optim.lr_factor"], x30["optim.lr_factor"]) == (0, False, 5, 30)
    assert baseline["optim.weight_decay"] == pytest.approx(5 * x5["optim.weight_decay"])
    assert baseline["optim.gamma_every"] == pytest.approx(6 * x5["optim.gamma_every"])
    assert all(0 < x5[colour] < baseline[colour] for colour in colours)
    (typed,) = composed("recipe=bn_x5", "optim.lr_factor=2", "norm=group", "arm=mine")
    assert (typed["optim"]["lr_factor"], typed["norm"]["name"], typed["arm"]) == (2, "group", "mine")


def test_hydras_mode_and_globs_sweep(composed):
    assert [c["seed"] for c in composed("hydra.mode=MULTIRUN", "seed=4,5")] == [4, 5]
    assert [c["norm"]["name"] for c in composed("-m", "norm=glob(*batch)")] == [
        "batch",
        "ghost_batch",
        "lp_batch",
        "noisy_batch",
        "sync_batch",
    ]
    assert [c["norm"]["name"] for c in composed("-m", "+norm=glob(g*,exclude=ghost*)")] == ["group"]


def test_flags_and_overrides_stand_in_any_order(composed):
    expected = composed("-m", "norm=group,none", "seed=1")
    assert composed("norm=group,none", "-m", "seed=1") == expected
    assert composed("norm=group,none", "seed=1", "--multirun") == expected


@pytest.mark.parametrize("folder", ["a b", "a,b", "a=b", "[a]", "äb", "{a}", "a$b"])
def test_a_folder_of_any_name_reaches_the_run(folder, composed):
    (config,) = composed(f"output='{folder}'")
    assert config["output"] == folder
    assert plain(planned(f"output='{folder}'", multirun=True)[0][0].config)["output"] == folder


# --- Help and Hydra's own flags. --------------------------------------------------------------------------------------


def test_help_names_every_group_choice_and_key(command, tmp_path):
    status, text, err = command("--help")
    assert (status, err) == (0, "")
    for group in GROUPS:
        listed = re.search(rf"^  {group} +((?:.*\n)(?:   +.*\n)*)", text, re.M)
        names = listed[1].split()
        assert [name.strip("*") for name in names] == choices(group)
        assert [name for name in names if name.endswith("*")] == (
            [f"{default_choices()[group]}*"] if group in default_choices() else []
        )
    config = OmegaConf.load(conf_dir() / "config.yaml")
    for key in config:
        if key not in ("defaults", "hydra"):
            assert re.search(rf"^  {key}:( |$)", text, re.M), key
    for section in ("model", "evaluation", "logging"):
        for key in config[section]:
            assert re.search(rf"^    {key}: .*# ", text, re.M), key
    assert "hydra:" not in text
    assert list(tmp_path.iterdir()) == []
    assert command("-h") == (0, text, "")


def test_every_key_of_config_yaml_has_its_comment():
    text = (conf_dir() / "config.yaml").read_text()
    body = text[text.index("\nbatch_size:") : text.index("\nhydra:")]
    lines = [line for line in body.splitlines() if re.match(r" *[a-z_]+: +[^#\s]", line)]
    assert len(lines) > 20
    assert [line for line in lines if not re.search(r" # .{8}", line)] == []


def test_cfg_prints_the_configuration_and_runs_nothing(command, tmp_path):
    status, text, err = command("--cfg", "job", "+norm=group", "batch_size=2")
    assert (status, err) == (0, "")
    config = OmegaConf.create(text)
    assert (config.norm.name, config.norm.num_groups, config.batch_size) == ("group", 8, 2)
    assert "hydra" not in config
    assert list(tmp_path.iterdir()) == []
    assert command("batch_size=2", "-c", "job", "norm=group") == (0, text, "")


def test_cfg_all_holds_hydras_part(command):
    status, text, _ = command("--cfg", "all")
    assert status == 0
    assert OmegaConf.create(text).hydra.output_subdir is None


@pytest.mark.parametrize("flag", ["--hydra-help", "--version"])
def test_hydras_flags_pass_through(flag, command):
    with pytest.raises(SystemExit) as exit:
        command(flag)
    assert exit.value.code in (0, None)


def test_info_passes_through(command):
    status, text, _ = command("--info", "searchpath")
    assert status == 0
    assert str(conf_dir()) in text


# --- Experiments. -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", choices("experiment"))
def test_an_experiment_plans_and_resolves(name):
    jobs, multirun, _ = planned(f"experiment={name}")
    assert multirun == (len(jobs) > 1)
    for job in jobs:
        assert resolve(job.config).study == name
    head = (conf_dir() / "experiment" / f"{name}.yaml").read_text().splitlines()[:3]
    assert head[0] == "# @package _global_"
    assert re.search(rf"(experiment|STUDY)={name}|make {name}", head[1])  # the command to type
    assert re.search(r"\(.*\babout\b.*\bminutes\b.*\)", " ".join(head))


def test_the_demo_runs_without_network_too():
    """`make demo DATA=patterns`"""
    jobs, _, _ = planned("experiment=demo", "data=patterns")
    assert {resolve(job.config).data.name for job in jobs} == {"patterns"}


# --- Real commands. ---------------------------------------------------------------------------------------------------


def test_the_command_of_the_readme(process, tmp_path, tiny):
    typed = ["+norm=group", "batch_size=2", *(word for word in tiny if not word.startswith("batch_size"))]
    done = process(*typed)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "outputs").iterdir()
    assert re.fullmatch(r"resnet8-group-patterns-b2-s0-.*[0-9a-f]{16}", folder.name)
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "finished"
    assert f"{result['replicates'][0]['test_acc']:.2f}" in done.stdout
    assert folder.name in done.stdout.replace("\n", "")
    assert "epoch 1/1" in done.stderr  # a log takes a line an epoch
    assert done.stderr.count("\n") == 1
    command = json.loads((folder / "env.json").read_text())["command"]
    assert command == shlex.join(["python", "-m", "normbench", *typed])
    config = OmegaConf.load(folder / "config.yaml")
    assert (config.norm.name, config.batch_size, config.device in ("cpu", "cuda")) == ("group", 2, True)


def test_a_sweep_in_a_process_of_its_own(tmp_path, tiny):
    sweep = Forked(tmp_path, "-m", "+norm=none,layer", "seed=0,1", *tiny, "logging.progress=none", "output=runs")
    out, err = sweep.communicate(timeout=120)
    assert sweep.returncode == 0, err
    folders = sorted(path.name for path in (tmp_path / "runs").iterdir() if path.is_dir())
    assert [name.split("-")[1] for name in folders] == ["layer", "layer", "none", "none"]
    assert "4 runs; replicates: 4 finished" in out
    assert not (tmp_path / "outputs").exists()
    assert not (tmp_path / "multirun").exists()


def test_a_failed_run_stops_no_sweep_and_shows_in_the_exit_status(command, monkeypatch, tmp_path, tiny):
    from normbench.measures import MEASURES, Measurement

    train = MEASURES["train"].measure

    def broken(config, *rest):
        if config.norm.name == "none":
            raise RuntimeError("out of paper\nand ink")
        return train(config, *rest)

    monkeypatch.setitem(MEASURES, "train", Measurement(broken))
    typed = ["-m", "norm=none,layer", *tiny, "logging.progress=none"]
    status, out, err = command(*typed)
    assert status == 1
    assert "1 failed, 1 finished" in out
    assert "RuntimeError: out of paper and ink" in out
    assert "Traceback" in err  # a bug, not a mistake of the user
    assert "2 runs" in out
    statuses = {
        path.name.split("-")[1]: json.loads((path / "result.json").read_text())["status"]
        for path in (tmp_path / "outputs").iterdir()
        if path.is_dir()
    }
    assert statuses == {"none": "failed", "layer": "finished"}

    monkeypatch.setitem(
        MEASURES, "train", Measurement(train)
    )  # mended: the failed run is taken up again, the other is not
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "outputs").glob("*layer*/result.json")}
    status, out, err = command(*typed)
    assert (status, err) == (0, "")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "2 runs; replicates: 2 finished" in out
