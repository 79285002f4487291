"""normbench.load: what is read from a run's folder is what the run evaluated."""

import shutil

import pytest
import torch

import normbench
from normbench.config.values import to_yaml
from normbench.data.cache import dataset
from normbench.errors import InputError, UserError
from normbench.records.configuration import configuration_of
from normbench.signals import Stopped

HOW = ("model.width=2", "epochs=1", "data.train_size=32", "evaluation.precise_images=0")


@pytest.fixture(scope="module")
def ran(run_in, tmp_path_factory):
    """A run of three replicates in two stacks: (its result, its folder)."""
    result, _, folder = run_in(tmp_path_factory.mktemp("kept"), *HOW, "replicates=3", "stack=2")
    return result, folder


def test_its_networks_tell_what_the_run_told(ran):
    result, folder = ran
    networks = normbench.load(folder)
    data = dataset("cpu", to_yaml(configuration_of(folder / "config.yaml").data))
    seen = networks.predict(data.test_images)
    found = [100 * (mine == data.test_labels).double().mean().item() for mine in seen]
    assert (networks.seeds, seen.shape) == ([0, 1, 2], (3, 100))
    assert found == pytest.approx([entry["test_acc"] for entry in result["replicates"]])
    assert len(set(found)) > 1  # or their order would not show
    assert (networks.model.training, networks.lost.tolist()) == (False, 3 * [False])


def test_they_are_inputs_and_model(ran):
    networks = normbench.load(str(ran[1]), device="cpu")
    images = torch.randint(256, (7, 32, 32, 3), dtype=torch.uint8)
    logits = networks.logits(images)
    with torch.no_grad():
        torch.testing.assert_close(networks.model(networks.inputs.repeated(images, 3)), logits)
    assert torch.equal(networks.predict(images), logits.argmax(2))


def test_a_run_of_before_there_were_certain_keys(ran, tmp_path):
    """Its name, and its networks, are the same."""
    folder = shutil.copytree(ran[1], tmp_path / ran[1].name)
    text = (folder / "config.yaml").read_text()
    for line in (
        "  shortcut: pad\n",
        "  norm_position: before\n",
        "task:\n  name: classify\n",
        "  every_steps: null\n",
    ):
        assert line in text
        text = text.replace(line, "")
    (folder / "config.yaml").write_text(text)
    images = torch.randint(256, (3, 32, 32, 3), dtype=torch.uint8)
    assert torch.equal(normbench.load(folder).logits(images), normbench.load(ran[1]).logits(images))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: shutil.rmtree(folder), "no folder of a run: there is no config.yaml"),
        (lambda folder: (folder / "checkpoint.pt").unlink(), "checkpoint.pt is not there"),
        (lambda folder: (folder / "checkpoint.pt").write_bytes(b"PK"), "checkpoint.pt damaged"),
        (lambda folder: (folder / "config.yaml").write_text("a: 1"), "no folder of a run"),
        (lambda folder: (folder / "result.json").unlink(), "the run is stopped; its networks are there once"),
    ],
)
def test_a_folder_without_networks_is_told_in_a_line(damage, told, ran, tmp_path):
    folder = shutil.copytree(ran[1], tmp_path / ran[1].name)
    damage(folder)
    with pytest.raises(UserError, match=told) as error:
        normbench.load(folder)
    assert str(error.value).startswith(str(folder))
    assert "\n" not in str(error.value)


def test_a_run_that_was_stopped_or_is_no_training(run, monkeypatch):
    _, _, folder = run("measure=axes", *HOW)
    with pytest.raises(UserError, match="measure=axes keeps no networks"):
        normbench.load(folder)
    monkeypatch.setattr("normbench.measures.train.plain", lambda *_, **__: (_ for _ in ()).throw(Stopped(15)))
    with pytest.raises(Stopped):
        run(*HOW)
    (stopped,) = [path for path in folder.parent.iterdir() if "axes" not in path.name]
    with pytest.raises(UserError, match="the run is stopped"):
        normbench.load(stopped)


@pytest.mark.parametrize("images", [torch.zeros(2, 32, 32, 3), torch.zeros(2, 3, 32, 32, dtype=torch.uint8)])
def test_other_images_are_refused(images, ran):
    with pytest.raises(InputError, match=r"images=.*: must be uint8 N×H×W×3"):
        normbench.load(ran[1]).predict(images)
