"""Replicates side by side as one network, with what trains them: how they start, where they stand, how they go on."""

from contextlib import nullcontext

import torch

from normbench.data.inputs import DTYPES
from normbench.kernels import fastest
from normbench.norms import get_method
from normbench.norms.plain import Drawing
from normbench.random import derive
from normbench.training.optimizer import adaptive_units, make_optimizer, set_lr

INIT_IMAGES = 512  # training images that a method prepares itself with


class Network:
    """The replicates of a task's seeds and their optimizer.

    step: how many steps are done. lost: R, which replicates have diverged; nothing is done for them alone. model: as it
    is evaluated, `forward` the same by the kernels that are fastest. recorded: its steps are to be a CUDA graph.
    `network(x)` is the forward pass of training, over all processes, in the configured precision.
    """

    def __init__(self, config, task, saved: dict | None = None):
        """config: resolved. task: a tasks.Task, of whose seeds it has a replicate each. saved: by `state`, or None."""
        self.seeds, self.replicates, self.rank = task.seeds, len(task.seeds), task.processes.rank
        self.dtype, self.device = DTYPES[config.precision], task.device
        self.autocasts = config.precision == "bfloat16"
        self.model = task.network([derive(seed, "init") for seed in task.seeds]).to(task.device, self.dtype)
        drawing = [module for module in self.model.modules() if isinstance(module, Drawing) and module.draws]
        purposes = dict.fromkeys(module.purpose for module in drawing)
        self.generators = {purpose: [torch.Generator(task.device) for _ in task.seeds] for purpose in purposes}
        for module in drawing:
            module.generators = self.generators[module.purpose]
        self.parameters = list(self.model.parameters())
        self.method = get_method(config.norm.name)
        self.recorded = config.kernels == "graph"
        factors = self.method.lr_factor(self.model) if config.optim.rates_from == "theory" else {}
        self.optimizer = make_optimizer(self.model, config.optim, factors, self.recorded)
        self.units = adaptive_units(self.model, self.replicates) if config.optim.agc is not None else []
        self.step, self.lost = 0, torch.zeros(self.replicates, dtype=torch.bool)
        if saved is None:
            self.method.prepare(self.model, task.first_inputs(INIT_IMAGES))
        else:
            self.model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
        self.forward = fastest(config, self.model, self.replicates, task.processes.count)
        self.parallel = self.forward
        if task.processes.count > 1:
            self.parallel = torch.nn.parallel.DistributedDataParallel(self.model)

    def state(self) -> dict:
        """What another session goes on from, beside the number of steps done. The tensors are the living ones."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def begin_step(self, rate: float, share: float, epoch: int, at: int) -> None:
        """Ready for the step `at` of an epoch, both counted from 0, at a rate and at that share of the training."""
        if not self.model.training:
            self.model.train()
        self.forget_gradients()
        set_lr(self.optimizer, rate)
        self.draw_as_at(epoch, at)
        self.method.before_step(self.model, self.step, share)

    def draw_as_at(self, epoch: int, at: int) -> None:
        """The next pass in training mode draws what the step `at` of an epoch does: masks of dropout, noise."""
        for purpose, generators in self.generators.items():
            for generator, seed in zip(generators, self.seeds, strict=True):
                generator.manual_seed(derive(seed, purpose, epoch, at, self.rank))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        with self.precision():
            return self.parallel(x).to(self.dtype)

    def precision(self):
        """The context in which the model computes."""
        return torch.autocast(self.device.partition(":")[0], dtype=torch.bfloat16) if self.autocasts else nullcontext()

    def forget_gradients(self) -> None:
        """They are as large as the network: not to be kept through an evaluation."""
        self.optimizer.zero_grad()
