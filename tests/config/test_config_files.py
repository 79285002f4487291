"""Every file in conf/ composes, resolves and trains a step, through the training loop itself."""

import inspect
import math

import pytest
import torch

from normbench.config import files
from normbench.config.files import GROUPS, OF_ALL, choices, documented, study_title
from normbench.config.overrides import normalize, plan
from normbench.config.resolve import resolve
from normbench.data import Dataset, load_dataset, prepare
from normbench.data.cache import LOADING
from normbench.measures.train import train
from normbench.norms import NORMS
from normbench.tasks import make_task


def compose(*typed):
    return plan(normalize(list(typed)), False)[0][0].config


class Onlooker:
    """Stands in for training.session.Session."""

    saved = None

    def __init__(self):
        self.steps, self.gradients = 0, {}

    def step(self, epoch, state, loss):
        self.steps += 1

    def histograms(self, epoch, model, step):
        self.gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        self.parameters = {name: p.detach().clone() for name, p in model.named_parameters()}

    def begin(self, *_, **__):
        pass

    poll = add = correct = begin


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)

    def draw(n):
        return torch.randint(256, (n, 32, 32, 3), generator=generator, dtype=torch.uint8), torch.arange(n) % 10

    return Dataset("patterns", *draw(16), *draw(2), *draw(2), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


TRAINED = [(group, choice) for group in GROUPS if group not in OF_ALL for choice in choices(group)]


@pytest.mark.parametrize(("group", "choice"), TRAINED)
def test_a_file_composes_resolves_and_trains_a_step(group, choice, images):
    typed = [f"{group}={choice}", "data.train_size=16", "batch_size=16", "epochs=1", "evaluation.precise_images=2"]
    if group == "model":
        typed += ["norm=group"]
    if group == "norm" and NORMS[choice].model:
        typed += [f"model={NORMS[choice].model}"]
    config = resolve(compose(*typed, "device=cpu"))
    assert config[group].name == choice  # the name that records hold is the name that was typed
    onlooker = Onlooker()
    entries, _ = train(config, make_task(config, [0], "cpu", data=images), onlooker)
    assert onlooker.steps == 1
    assert onlooker.gradients.keys() == onlooker.parameters.keys()
    assert all(gradient.isfinite().all() for gradient in onlooker.gradients.values())
    assert any(gradient.abs().max() > 0 for gradient in onlooker.gradients.values())
    (entry,) = entries
    assert entry["status"] == "finished"
    assert math.isfinite(entry["test_loss"])


class Recording:
    """A configuration that notes what is read of it."""

    def __init__(self, options):
        self.options, self.read = options, set()

    def __getitem__(self, key):
        self.read.add(key)
        return self.options[key]

    __getattr__ = __getitem__


@pytest.mark.parametrize("name", choices("data"))
def test_every_key_of_a_data_file_is_read_and_no_other(name, images):
    """By the loader, by what prepares the images for a run, or by the inputs."""
    options = Recording(resolve(compose(f"data={name}", "device=cpu")).data)
    prepare(images, options)
    assert set(LOADING) == set(inspect.signature(load_dataset).parameters)
    assert set(options.options) == options.read | set(LOADING) | {"input"}


@pytest.mark.parametrize("name", choices("norm"))
def test_the_keys_of_a_norm_file_are_the_methods_options_with_their_defaults(name):
    options = {key: value for key, value in compose(f"norm={name}").norm.items() if key != "name"}
    assert options == {key: default for key, (_, default) in NORMS[name].options().items()}


def test_a_method_a_file():
    assert sorted(NORMS) == choices("norm")


def test_every_other_key_trains_a_step_too(images):
    """Everything that is off by default, on."""
    config = resolve(
        compose(
            "data.train_size=16",
            "batch_size=16",
            "epochs=1",
            "device=cpu",
            "augment.brightness=0.5",
            "augment.contrast=0.5",
            "augment.saturation=0.5",
            "augment.mixup=0.5",
            "augment.cutmix=0.5",
            "augment.label_smoothing=0.1",
            "augment.resize=[[0,16]]",
            "augment.tta=zoom_rotate_crop",
            "augment.tta_average=probabilities",
            "data.input=percentile",
            "evaluation.target_acc=50",
            "evaluation.early_acc=0.5",
            "model.dropout=0.5",
            "model.zero_init_residual=true",
            "model.activation=gelu",
            "model.init_scale=0.5",
            "optim.nesterov=true",
            "optim.clip_norm=1",
            "optim.lr_factor=2",
            "optim.schedule=exponential",
            "lr_scaling=sqrt",
            "norm.momentum=scaled",
            "evaluation.precise_images=2",
        )
    )
    onlooker = Onlooker()
    (entry,), _ = train(config, make_task(config, [0], "cpu", data=images), onlooker)
    assert onlooker.steps == 1
    norm = math.sqrt(sum(gradient.square().sum().item() for gradient in onlooker.gradients.values()))
    assert norm <= 1 + 1e-5
    assert entry["status"] == "finished"


# --- What users read of the files. ------------------------------------------------------------------------------------


@pytest.fixture
def conf(tmp_path, monkeypatch):
    """A folder of configuration files of this test's own."""
    monkeypatch.setattr(files, "conf_dir", lambda: tmp_path)
    (tmp_path / "experiment").mkdir()
    return tmp_path


def test_the_lines_of_a_file_with_their_comments(conf):
    (conf / "a.yaml").write_text("""# The head.
name: a  # not told
lr: 0.1  # a rate

rows:    # of two
  # the first
  - name: b
  # the second
  - {hydra: c}

hydra:
  mode: null
""")
    told = documented("a.yaml", without=("name", "hydra"))
    assert told == [
        "lr: 0.1  # a rate",
        "",
        "rows:    # of two",
        "  # the first",
        "  - name: b",
        "  # the second",
        "  - {hydra: c}",
    ]
    assert documented("a.yaml")[0] == "name: a  # not told"


def test_the_title_of_a_study_is_what_follows_the_command_and_its_time(conf):
    path = conf / "experiment" / "mine.yaml"
    sentences = "Does it matter (a little)?\n(As some say\nmake believe.)"
    head = "# @package _global_\n# make study STUDY=mine\n# (about 3 minutes on two cores)\n"
    path.write_text(head + "".join(f"# {line}\n" for line in sentences.splitlines()) + "study: mine  # of course\n")
    assert study_title("mine") == sentences
