"""Networks on the line along the gradient of one batch, w − ηg: each replicate on its own."""

from collections.abc import Callable, Iterable

import torch

from normbench.training.network import Network


class Line:
    """The way from where replicates stand along their gradients, for as long as the `with` block lasts.

    losses: at the start, R in float64; gradients: by each parameter, likewise. Inside the block `go` sets the
    parameters to w − ηg; on leaving they are w again. No gradient is left in a parameter's `grad`.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], batch_losses: Callable[[], torch.Tensor]):
        """parameters: R outermost. batch_losses: R losses at the parameters as they are, of one batch."""
        self.parameters, self.batch_losses = list(parameters), batch_losses
        self.weights = [parameter.detach().clone() for parameter in self.parameters]
        self.losses, self.gradients = self.look()
        self.replicates = len(self.losses)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._set(self.weights)

    def go(self, rates: float | torch.Tensor) -> None:
        """To w − ηg. rates: η, one for all replicates or one each."""
        of_each = torch.as_tensor(rates, dtype=torch.float64).expand(self.replicates)
        self._set(w - spread(of_each, w) * g for w, g in zip(self.weights, self.gradients, strict=True))

    def look(self) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Losses and gradients where the replicates are."""
        losses = self.batch_losses()
        gradients = torch.autograd.grad(losses.sum(), self.parameters, materialize_grads=True)
        return losses.detach().double(), list(gradients)

    @torch.no_grad()
    def look_at_losses(self) -> torch.Tensor:
        """The losses alone."""
        return self.batch_losses().double()

    @torch.no_grad()
    def _set(self, values) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)


def spread(of_replicates: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """R numbers to be multiplied with a parameter, each with its replicate's part."""
    repeated = of_replicates.to(like).repeat_interleave(len(like) // len(of_replicates))
    return repeated.view(-1, *(1,) * (like.dim() - 1))


def squares(tensors: Iterable[torch.Tensor], replicates: int) -> torch.Tensor:
    """The squared Euclidean norm of each replicate's part of each tensor: tensors × R, in float64."""
    return torch.stack([one.detach().double().reshape(replicates, -1).square().sum(1) for one in tensors])


def next_batch_losses(network: Network, task, share: float) -> Callable[[], torch.Tensor]:
    """The losses of the batch that the next step will take, in training mode, with what layers draw in that step.

    share: of the training that lies behind it. Running averages move: `start.looked_at` is for that.
    """
    place = divmod(network.step, task.steps_per_epoch)
    batch = task.batch(*place)

    def forward(x):
        with network.precision():
            return network.model(x).to(network.dtype)

    def losses():
        network.draw_as_at(*place)
        return task.losses(forward, batch, share)[0]

    return losses
