"""The networks that a training left: read from its folder, to look at them or to use them."""

from contextlib import nullcontext
from pathlib import Path

import torch

from normbench.config.machine import settle_device
from normbench.config.values import Values
from normbench.data.inputs import DTYPES, Inputs
from normbench.errors import InputError, UserError
from normbench.kernels import fastest
from normbench.models import stack_states, take_replicate
from normbench.records.checkpoint import Unfit
from normbench.records.configuration import completed, configuration_of, identity_of
from normbench.records.damage import Damaged
from normbench.records.directory import RunDirectory, seeds_of
from normbench.records.metrics import OVER, TRAIN
from normbench.tasks import make_task
from normbench.tasks.build import make_model


class Networks:
    """The networks of a training that is over, side by side, in evaluation mode.

    config: of the run. seeds: one a network. model: inputs N×(R·3)×H×W → logits R×N×classes; `forward` the same by the
    kernels that are fastest. inputs: the input normalization, uint8 images → what the model takes. lost: R, which of
    them diverged; they are there as they were left.
    """

    def __init__(self, config: Values, seeds, state: dict, lost, inputs: Inputs):
        """config: complete, with the device to be used. state: of the model, all seeds side by side."""
        self.config, self.seeds, self.inputs, self.device = config, list(seeds), inputs, config.device
        self.lost = torch.tensor(lost)
        self.model = make_model(config, self.seeds)
        self.model.load_state_dict(state)
        self.model.to(self.device, DTYPES[config.precision]).eval()
        self.forward = fastest(config, self.model, len(self.seeds))

    def precision(self):
        """The context in which the model computes: what bfloat16 trained is looked at in float32."""
        return nullcontext()

    @torch.no_grad()
    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """R×N×classes, of images uint8 N×H×W×3, RGB, 0…255, on any device. Raises InputError for any others."""
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[3] != 3:
            given = f"{str(images.dtype).removeprefix('torch.')} {'×'.join(map(str, images.shape))}"
            raise InputError("images", given, "must be uint8 N×H×W×3, RGB, 0 to 255")
        size = max(1, self.config.evaluation.batch_size // len(self.seeds))
        parts = [self.inputs.repeated(part.to(self.device), len(self.seeds)) for part in images.split(size)]
        return torch.cat([self.forward(part) for part in parts], 1)

    def predict(self, images: torch.Tensor) -> torch.Tensor:
        """The class that each network sees in each image: R×N. images: as for `logits`."""
        return self.logits(images).argmax(2)


def load(run: str | Path, *, device: str = "auto", root: str | None = None) -> Networks:
    """The networks of a finished training, by its folder.

    device: auto, cpu, cuda or cuda:N. root: the folder of the data, where it is no longer the one of the run; the
    moments of the training images are part of an input normalization. Raises UserError for a folder that is no run's,
    and for a run that is not over or kept no networks.
    """
    directory = RunDirectory(Path(run).parent, Path(run).name)
    config = _configuration(directory).with_value("device", settle_device(device))
    if root is not None:
        config = config.with_value("data.root", root)
    directory.config = config
    if config.measure.name != TRAIN:
        raise UserError(f"{run}: measure={config.measure.name} keeps no networks; measure=train does")
    if (status := directory.status()) not in OVER:
        raise UserError(f"{run}: the run is {status}; its networks are there once it is finished")
    return kept(config, directory)


def kept(config: Values, directory: RunDirectory, seeds=None) -> Networks:
    """Those in the checkpoint of a run that is over: of some of its seeds, or all. config: complete, with the device to
    be used. Raises UserError where it does not have them."""
    seeds = list(seeds_of(config)) if seeds is None else list(seeds)
    try:
        if (there := directory.load_checkpoint()) is None:
            raise Unfit("is not there, and it is what holds the networks")
        of_seeds = {}
        for stack in there["finished"]:
            for place, (seed, entry) in enumerate(zip(stack["seeds"], stack["entries"], strict=True)):
                of_seeds[seed] = stack["model"], place, len(stack["seeds"]), entry["status"] == "diverged"
        state = stack_states([take_replicate(*of_seeds[seed][:3]) for seed in seeds])
        lost = [of_seeds[seed][3] for seed in seeds]
        return Networks(config, seeds, state, lost, make_task(config, seeds, config.device).test_inputs)
    except (Unfit, LookupError, TypeError, AttributeError, RuntimeError) as error:
        words = str(error) if isinstance(error, Unfit) else "is of another version"
        raise UserError(f"{directory.path}: checkpoint.pt {words}") from None


def _configuration(directory: RunDirectory) -> Values:
    """What config.yaml says, complete. Raises UserError where there is none, or a damaged one."""
    try:
        there = configuration_of(directory.path / "config.yaml")
        if there is not None and identity_of(directory.path / "config.yaml"):
            return completed(there)
    except Damaged as error:
        raise UserError(f"{directory.path}: no folder of a run: {error}") from None
    raise UserError(f"{directory.path}: no folder of a run: there is no config.yaml")
