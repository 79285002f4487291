"""Every mistake on the command line: one line that names key, value and choices, status 2, nothing left behind."""

import sys

import pytest

# What is typed → words that the one line must hold.
MISTAKES = {
    # unknown choice
    "norm=gruop": ["norm=gruop", "did you mean group?", "weight_standardization"],
    "+norm=gruop": ["norm=gruop", "did you mean group?", "batch"],
    "norm=": ["norm=", "batch, batch_renorm"],
    "norm=null": ["norm=null", "batch, batch_renorm"],
    "norm=[group]": ["norm=[group]", "ghost_batch"],
    "norm={a:1}": ["norm=", "ghost_batch"],
    "model=resnet9": ["model=resnet9", "did you mean resnet8?", "vgg"],
    "data=cifar": ["data=cifar", "did you mean cifar10?", "patterns"],
    "augment=standrad": ["augment=standrad", "did you mean standard?"],
    "optim=sdg": ["optim=sdg", "did you mean sgd?", "adamw"],
    "experiment=dmeo": ["experiment=dmeo", "did you mean demo?"],
    "model.activation=rleu": ["model.activation=rleu", "did you mean relu?", "sigmoid"],
    "optim.schedule=cosin": ["optim.schedule=cosin", "did you mean cosine?", "step"],
    "lr_scaling=lin": ["lr_scaling=lin", "did you mean linear?", "sqrt"],
    "precision=float16": ["precision=float16", "did you mean bfloat16?", "float32"],
    "device=tpu": ["device=tpu", "cpu", "cuda"],
    "logging.progress=foo": ["logging.progress=foo", "bar, lines, none"],
    "data.input=percentil": ["data.input=percentil", "did you mean percentile?", "three_sigma", "zscore"],
    "data.noise=gausian": ["data.noise=gausian", "did you mean gaussian?", "non_uniformity", "rician"],
    "data.labels=bright": ["data.labels=bright", "brightness", "class"],
    "augment.tta=flips": ["augment.tta=flips", "did you mean flip?", "zoom_rotate_crop"],
    "norm=weight_standardization norm.mode=ful": ["norm.mode=ful", "did you mean full?", "std_only"],
    "norm=weight_standardization norm.norm=grup": ["norm.norm=grup", "did you mean group?"],
    "model=vgg model.depth=12": ["model.depth=12", "11, 13, 16, 19"],
    # unknown key
    "nrom=group": ["nrom=group", "did you mean norm?"],
    "batchsize=2": ["batchsize=2", "did you mean batch_size"],
    "+batchsize=2": ["batchsize=2", "did you mean batch_size"],
    "++batch_sise=2": ["batch_sise=2", "did you mean batch_size"],
    "hydrax=3": ["hydrax=3", "unknown key"],
    "norm=group norm.num_group=4": ["norm.num_group=4", "norm=group", "did you mean norm.num_groups?", "norm.eps"],
    "norm.num_groups=4": ["norm.num_groups=4", "norm=batch has no such key", "norm.momentum"],
    "+norm.num_groups=4": ["norm.num_groups=4", "norm=batch has no such key", "norm.momentum"],
    "data.input_scale=2": ["data.input_scale=2", "data=cifar10", "data.input"],
    "optim.lrr=0.1": ["optim.lrr=0.1", "did you mean optim.lr?"],
    "optim=adamw optim.momentum=0.9": ["optim.momentum=0.9", "optim=adamw", "optim.betas"],
    "model.depth=11": ["model.depth=11", "model=resnet8 has no such key", "model.width"],
    "model=vgg model.foo=1": ["model.foo=1", "model=vgg", "model.depth"],
    "data.sise=3": ["data.sise=3", "data.train_size"],
    "evaluation.batch=3": ["evaluation.batch=3", "did you mean evaluation.batch_size?", "evaluation.precise_images"],
    "logging.foo=1": ["logging.foo=1", "logging.tensorboard"],
    "batch_size={a:1}": ["batch_size={a: 1}", "integer"],
    "batch_size.x=1": ["batch_size.x=1", "did you mean batch_size"],
    "evaluation=3": ["evaluation=3", "evaluation.batch_size"],
    "norm.name=group": ["norm.name=group", "write norm=group"],
    # wrong type
    "batch_size=two": ["batch_size=two", "integer"],
    "batch_size=2.5": ["batch_size=2.5", "integer"],
    "batch_size=true": ["batch_size=true", "integer"],
    "batch_size=null": ["batch_size=null", "integer"],
    "batch_size=[1,2]": ["batch_size=[1, 2]", "integer"],
    "model.width=abc": ["model.width=abc", "integer"],
    "optim.lr=abc": ["optim.lr=abc", "number"],
    "norm.eps=abc": ["norm.eps=abc", "number"],
    "norm.momentum=foo": ["norm.momentum=foo", "number", "scaled"],
    "norm.affine=3": ["norm.affine=3", "true or false"],
    "norm=group norm.num_groups=8.5": ["norm.num_groups=8.5", "integer"],
    "norm=skipinit norm.initial=foo": ["norm.initial=foo", "number"],
    "force=maybe": ["force=maybe", "true or false"],
    "stack=many": ["stack=many", "integer", "auto"],
    "optim.milestones=0.5": ["optim.milestones=0.5", "list"],
    "output=3": ["output=3", "name"],
    "augment.resize=16": ["augment.resize=16", "[[0,16],[0.5,32]]"],
    # out of range
    "batch_size=0": ["batch_size=0", "≥ 1"],
    "seed=-1": ["seed=-1", "≥ 0"],
    "optim.lr=nan": ["optim.lr=nan", "> 0"],
    "norm.momentum=2": ["norm.momentum=2", "between 0 and 1"],
    "norm.eps=-1": ["norm.eps=-1", "> 0"],
    "norm=weight_standardization norm.ws_eps=-1": ["norm.ws_eps=-1", "> 0"],
    "augment.label_smoothing=1": ["augment.label_smoothing=1", "below 1"],
    "augment.mixup=-0.2": ["augment.mixup=-0.2", "≥ 0"],
    "augment.cutmix=-1": ["augment.cutmix=-1", "≥ 0"],
    "augment.resize=[[0,0]]": ["augment.resize=[[0, 0]]", "a size (4 to 128)"],
    "augment.resize=[[0.5,32]]": ["augment.resize=[[0.5, 32]]", "from 0, rising"],
    "augment.resize=[[0,16],[0.6,24],[0.5,32]]": ["augment.resize=", "from 0, rising"],
    "data.bits=3": ["data.bits=3", "integer from 4 to 8"],
    "data.bits=9": ["data.bits=9", "integer from 4 to 8"],
    "data.channel_scale=0": ["data.channel_scale=0", "from 1e-9 to 1e9"],
    "evaluation.target_acc=0": ["evaluation.target_acc=0", "above 0, at most 100, or null"],
    "evaluation.target_acc=101": ["evaluation.target_acc=101", "above 0, at most 100, or null"],
    "optim.warmup_samples=100000000": ["optim.warmup_samples=100000000", "samples"],
    "data.val_size=60000": ["data.val_size=60000", "50000"],
    "data.train_size=45001": ["data.train_size=45001", "45000"],
    "data.test_size=10001": ["data.test_size=10001", "10000"],
    "data=patterns data.train_size=5001": ["data.train_size=5001", "5000"],
    # keys that do not fit together
    "norm=group norm.num_groups=3": ["norm.num_groups=3", "16 channels", "1, 2, 4, 8, 16"],
    "norm=group norm.num_groups=0": ["norm.num_groups=0", "1, 2, 4, 8, 16"],
    "norm=group model.width=12": ["norm.num_groups=8", "12 channels", "1, 2, 3, 4, 6, 12"],
    "batch_size=45001": ["batch_size=45001", "45000"],
    "batch_size=100 data.train_size=50": ["batch_size=100", "50"],
    "norm=ghost_batch norm.ghost_size=3": ["norm.ghost_size=3", "batch_size=128"],
    "norm=ghost_batch batch_size=8": ["norm.ghost_size=16", "batch_size=8"],
    "norm=ghost_batch norm.ghost_size=0": ["norm.ghost_size=0"],
    "model=vgg augment.resize=[[0,4],[0.5,32]]": ["augment.resize=4", "too small", "model=vgg", "norm=batch"],
    "model=vgg batch_size=1 augment.resize=[[0,16]]": ["augment.resize=16", "too small", "single value"],
    "optim.nesterov=true optim.momentum=0": ["optim.nesterov=true", "optim.momentum"],
    "model.zero_init_residual=true norm=none": ["model.zero_init_residual=true", "norm=none"],
    "norm=skipinit model=vgg": ["norm=skipinit", "model=vgg"],
    # several values without -m
    "norm=batch,group": ["norm=batch,group", "-m"],
    "+norm=batch,group": ["norm=batch,group", "-m"],
    "seed=range(0,3)": ["seed=0,1,2", "-m"],
    "experiment=demo,demo": ["experiment=demo,demo", "one experiment"],
    # a mistake in any job of a sweep
    "-m norm=batch,gruop": ["norm=gruop", "did you mean group?"],
    "-m +norm=batch,gruop": ["norm=gruop", "did you mean group?"],
    "-m batch_size=128,two": ["batch_size=two", "integer"],
    "-m norm=batch,group norm.num_groups=8": ["norm.num_groups=8", "norm=batch has no such key"],
    "-m data=patterns batch_size=2,6000": ["batch_size=6000", "5000"],
    "-m seed=range(0,0)": ["seed=range(0,0)", "no value"],
    "-m seed=range(0,2,0)": ["seed=range(0,2,0)", "no value"],
    "-m norm=glob(zz*)": ["norm=glob(zz*)", "no value"],
    "experiment=demo norm=group,foo": ["norm=foo", "ghost_batch"],
    "experiment=demo norm.momentum=0.2": ["norm.momentum=0.2", "norm=group has no such key"],
    # what is no override
    "foo": ["foo", "key=value"],
    "=3": ["=3", "key=value"],
    "~norm": ["~norm", "deleted"],
    "norm@foo=batch": ["norm@foo=batch", "key=value"],
    'batch_size="2': ["batch_size", "key=value"],
    "--batch_size=2": ["--batch_size=2", "key=value"],
    "--config-name foo": ["--config-name"],
    "--cfg job -m seed=0,1": ["--multirun"],
    "--cfg job batchsize=2": ["batchsize=2", "did you mean batch_size"],
    "--cfg job experiment=demo norm=batch,group": ["norm=batch,group"],
    "data.root=${nope}": ["data.root", "nope"],
    # a value that is none
    "batch_size=???": ["batch_size=???", "missing"],
    "output=???": ["output=???", "missing"],
    "-m norm.momentum=0.1,???": ["norm.momentum=???", "missing"],
    "seed=interval(0,1)": ["seed=interval(0,1)", "interval", "range"],
    "-m optim.lr=interval(0,1)": ["optim.lr=interval(0,1)", "interval"],
    "-m seed=range(0,1000000000)": ["seed=range(0,1000000000)", "1000000000 runs", "at most"],
    "epochs=${norm}": ["epochs={name: batch", "integer"],
    "epochs=${oc.env:NOT_THERE}": ["epochs", "NOT_THERE"],
    "epochs=${a.b": ["epochs=${a.b", "ends with }"],
    "epochs=${epochs}": ["epochs", "ecursive"],
    # beyond what numbers hold, or machines
    "norm=skipinit norm.initial=1e39": ["norm.initial=1e+39", "float32", "3.4e+38"],
    "norm.eps=1e-50": ["norm.eps=1e-50", "float32"],
    "optim.milestones=[1e-50]": ["optim.milestones=[1e-50]", "between 0 and 1"],
    "threads=2147483648": ["threads=2147483648", "from 0 to 1024"],
    "evaluation.batch_size=99999999999999999999": ["evaluation.batch_size=", "to 1000000", "auto"],
    "epochs=1000000000000000000000": ["epochs=1000000000000000000000", "to 1000000"],
    "seed=9223372036854775806 replicates=2": ["seed=9223372036854775806", "replicates=2"],
    "data=patterns model.width=100000": ["model.width=100000", "GiB", "cpu has", "lower model.width"],
    # nothing to mix
    "norm=group batch_size=1 augment=mixup": ["augment.mixup=0.2", "batch_size"],
    "norm=group batch_size=1 augment=cutmix": ["augment.cutmix=1", "batch_size"],
    # what Hydra's grammar does not take unquoted
    "output=ünï": ["output=ünï", """'output="ünï"'"""],
    "output=a(b": ["output=a(b", """'output="a(b"'"""],
    "study=[bold]x": ["study=[bold]x", """'study="[bold]x"'"""],
    # flags that do nothing alone
    "--shell-completion": ["--shell-completion", "install=", "bash"],
    "--shell-completion install=": ["--shell-completion"],
    "--resolve": ["--resolve", "--cfg job"],
    "--package norm": ["--package", "--cfg job"],
    "--cfg job --package nrom": ["--package=nrom"],
    "--dry-run --cfg job": ["--dry-run"],
    # what is Hydra's
    "hydra/launcher=basic": ["hydra/launcher=basic", "add -m"],
    "hydra.launcher.n_jobs=2": ["hydra.launcher.n_jobs", "n_jobs=2"],
    "hydra.sweep.dir=x": ["hydra.sweep.dir=x", "add -m"],
    "hydra.run.dir=x": ["hydra.run.dir=x", "`output`"],
    "-m hydra.sweep.subdir=x": ["hydra.sweep.subdir=x", "`output`"],
    "hydra.job.chdir=true": ["hydra.job.chdir=true", "folder"],
    "-m hydra.job.chdir=true": ["hydra.job.chdir=true", "folder"],
    "-m hydra.sweeper.params.batch_size=2,4": ["hydra.sweeper.params.batch_size=2,4", "-m batch_size=2,8"],
    "hydra.searchpath=[x]": ["hydra.searchpath=[x]", "configuration files"],
    "hydra.foo=3": ["hydra.foo"],
    "-m hydra.foo=3 seed=0,1": ["hydra.foo"],
    "-m hydra/launcher=foo seed=0,1": ["foo", "basic"],
}


def assert_one_line(err, words):
    assert err.startswith("normbench: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    for word in words:
        assert word in err


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_is_told_in_one_line(typed, command, tmp_path):
    status, out, err = command(*typed.split(" "))
    assert status == 2
    assert out == ""
    assert_one_line(err, MISTAKES[typed])
    assert list(tmp_path.iterdir()) == []


def test_no_cuda_device_here_is_told(command, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, _, err = command("device=cuda")
    assert status == 2
    assert_one_line(err, ["device=cuda", "auto, cpu"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["+norm=gruop", "batch_size=2"],
        ["-m", "data=patterns", "norm=batch,none", "batch_size=2,6000"],
    ],
)
def test_the_same_in_a_process_of_its_own(arguments, process, tmp_path):
    done = process(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert_one_line(done.stderr, ["choices"] if "-m" not in arguments else ["batch_size=6000", "5000"])
    assert list(tmp_path.iterdir()) == []


def test_a_statistic_of_one_value_is_told(command, monkeypatch):
    """No model that ships shrinks a whole image to one pixel; one that does is refused with BN at batch size 1."""
    from torch import nn

    from normbench.tasks import build

    def to_one_pixel(name, layers, seeds, **options):
        return nn.Sequential(nn.AvgPool2d(32), layers.conv_norm(3, 8, 1))

    monkeypatch.setattr(build, "build_model", to_one_pixel)
    for typed, names in (
        (["norm=batch", "batch_size=1"], "batch_size=1"),
        (["norm=sync_batch", "batch_size=1"], "batch_size=1"),
        (["norm=instance", "batch_size=4"], "norm=instance"),
        (["norm=group", "batch_size=4"], "norm.num_groups=8"),
    ):
        build._try.cache_clear()
        status, _, err = command("data=patterns", *typed)
        assert status == 2
        assert_one_line(err, [f"{names}: ", "single value"])
    build._try.cache_clear()


@pytest.mark.parametrize("sweep", [[], ["-m", "seed=0,1"]])
def test_output_below_a_file_is_told(sweep, command, tmp_path, tiny):
    (tmp_path / "file").write_text("mine")
    status, _, err = command(*sweep, *tiny, f"output={tmp_path}/file/runs", "logging.progress=none")
    assert status == 2
    assert_one_line(err, [f"{tmp_path}/file/runs", "irectory"])
    assert (tmp_path / "file").read_text() == "mine"


def test_data_root_that_is_a_file_is_told(command, tmp_path):
    (tmp_path / "file").write_text("mine")
    status, _, err = command(f"data.root={tmp_path}/file", "logging.progress=none")
    assert status == 2
    assert_one_line(err, [f"data.root={tmp_path}/file", "not a folder"])


def test_ctrl_c_before_a_run_ends_quietly(command, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("normbench.config.overrides.plan", interrupted)
    status, out, err = command("norm=group")
    assert (status, out, err) == (130, "", "")


def test_only_the_first_process_tells(command, monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert command("norm=gruop") == (2, "", "")


def test_arguments_reach_main_through_sys_argv(monkeypatch, capfd):
    from normbench import __main__

    monkeypatch.setenv("NORMBENCH_COMMAND", "")
    monkeypatch.setattr(sys, "argv", ["normbench", "norm=x"])
    assert __main__.main() == 2
    assert "norm=x" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ("WORLD_SIZE=", ["WORLD_SIZE=:", "number"]),
        ("WORLD_SIZE=two", ["WORLD_SIZE=two", "number"]),
        ("WORLD_SIZE=0 RANK=0 LOCAL_RANK=0", ["WORLD_SIZE=0", "number"]),
        ("WORLD_SIZE=2", ["RANK is missing"]),
        ("RANK=1", ["RANK=1", "WORLD_SIZE is missing"]),
        ("WORLD_SIZE=2 RANK=1", ["LOCAL_RANK is missing"]),
        ("WORLD_SIZE=2 RANK=5 LOCAL_RANK=0", ["RANK=5", "below WORLD_SIZE=2"]),
        ("WORLD_SIZE=2 RANK=-1 LOCAL_RANK=0", ["RANK=-1", "number"]),
    ],
)
def test_variables_that_torchrun_does_not_set_so_are_told(variables, words, command, monkeypatch):
    for word in variables.split(" "):
        monkeypatch.setenv(*word.split("="))
    status, out, err = command("data=patterns", "--dry-run")
    assert (status, out) == (2, "")
    assert_one_line(err, words)


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["batch_size=2", "batch_size=4"], ["batch_size=4", "given twice", "batch_size=2"]),
        (["norm=batch", "+norm=group"], ["+norm=group", "given twice", "norm=batch"]),
        (["-m", "++seed=0,1", "seed=2"], ["seed=2", "given twice"]),
    ],
)
def test_a_key_typed_twice_is_told(typed, words, monkeypatch, capfd):
    from normbench import __main__

    monkeypatch.setenv("NORMBENCH_COMMAND", "")
    monkeypatch.setattr(sys, "argv", ["normbench", *typed])
    assert __main__.main() == 2
    assert_one_line(capfd.readouterr().err, words)


def test_a_home_is_found_in_every_folder_key(command, tiny, tmp_path, monkeypatch):
    """`~`, quoted or not after `=` in most shells, is the user's home, for a run as for a sweep."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for sweep in ([], ["-m"]):
        status, _, err = command(*sweep, *tiny, "output=~/runs", "reuse=null", "data.root=~/data")
        assert status == 0, err
    [run] = (tmp_path / "home" / "runs").iterdir()
    assert f"root: {tmp_path}/home/data" in (run / "config.yaml").read_text("utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


BOMB = "\n".join(["a0: &a0 [1, 1]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: [", ["no YAML"]),
        (b"\t- :", ["no YAML"]),
        (b"- 1\n- 2\n", ["mapping"]),
        (b"word", ["mapping"]),
        (b"", ["mapping"]),
        (BOMB.encode(), ["100000 values"]),
        (b"a: &a [*a]", ["100000 values"]),
        ("study: Größe".encode("latin-1"), ["UTF-8"]),
        (b"study: a\nstudy: b\n", ["duplicate"]),
        (b"hydra: {sweeper: {params: [1]}}", ["hydra.sweeper.params"]),
        (b"hydra: {sweeper: {params: {seed: {a: 1}}}}", ["hydra.sweeper.params"]),
        (b"grids: {seed: 1}", ["grids"]),
        (b"grids: [[1]]", ["grids"]),
    ],
)
def test_an_experiment_file_that_is_none_is_told_by_its_name(content, words, tmp_path, monkeypatch):
    from normbench.config import files
    from normbench.errors import UserError

    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_bytes(content)
    monkeypatch.setattr(files, "conf_dir", lambda: tmp_path)
    with pytest.raises(UserError) as told:
        files.check_experiment("mine")
    assert str(told.value).startswith(f"{tmp_path}/experiment/mine.yaml: ")
    assert_one_line(f"normbench: {told.value}\n", words)
