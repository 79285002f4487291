"""Conditioning of data and curvature of a loss, by their eigenvalues."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from normbench.random import derive
from normbench.tasks.classify import batch_loss


@dataclass(frozen=True)
class Condition:
    """Of XᵀX, by its eigenvalues λ.

    condition: λmax/λmin, infinite where λmin cannot be told from 0. condition_nonzero: λmax over the smallest λ that
    can; the same where all can. rank: how many can. features, rows: of X.
    """

    condition: float
    condition_nonzero: float
    rank: int
    features: int
    rows: int


def condition_number(x: torch.Tensor) -> Condition:
    """The condition number of XᵀX, the second-moment matrix of the rows of X: not centred unless X is.

    x: rows × features; computed in float64. For a linear unit with squared loss XᵀX is the Hessian (but for a factor),
    and this ratio the scale of gradient descent's learning time; a mean other than 0 puts a large eigenvalue into it
    (LeCun, Kanter & Solla 1991, doi 10.1103/PhysRevLett.66.2396).
    An eigenvalue counts as 0 up to λmax · features · 2.2e-16, the rounding of the largest, as numpy.linalg.matrix_rank
    has it: with 3,072 features no condition number above 1.5e12 can be told from infinity.
    """
    rows, features = x.shape
    x = x.cpu().double().numpy()
    gram = x.T @ x if rows >= features else x @ x.T  # the same eigenvalues other than 0; numpy knows it is symmetric
    values = torch.linalg.eigvalsh(torch.from_numpy(gram)).numpy()
    told = values[values > values[-1] * features * np.finfo(np.float64).eps]
    nonzero = float(told[-1] / told[0]) if len(told) else np.inf
    return Condition(nonzero if len(told) == features else np.inf, nonzero, len(told), features, rows)


LANCZOS_VECTORS, LANCZOS_RESTARTS = 12, 50


def hessian_extremes(
    model: nn.Module,
    x: torch.Tensor,
    labels: torch.Tensor,
    *,
    label_smoothing: float = 0.0,
    tolerance: float = 1e-2,
    seed: int = 0,
) -> tuple[float, float]:
    """The smallest and the largest eigenvalue of the Hessian of the loss by the parameters, in nats.

    model: of one replicate, in the mode that counts. x: inputs N×3×H×W, labels: N. seed: of the first vector.
    tolerance: a value is taken when its residual ‖Hv − λv‖ is at most this share of |λ|; that bounds the distance to an
    eigenvalue, and as a rule the error is of the order of its square. NaN where the loss or a product is not finite,
    and where 50 restarts with 12 vectors do not suffice.

    Lanczos' method (ARPACK) on Hessian-vector products by double backward, in the precision of the model. Power
    iteration, as in PyHessian (Yao et al. 2020, arXiv 1912.07145), finds the eigenvalue of largest magnitude alone,
    which with BN may be positive for one seed and negative for the next; Lanczos has both ends from fewer products.
    """
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh  # slow to import, and seldom needed

    parameters = list(model.parameters())
    loss = batch_loss(model, x, labels, label_smoothing)
    gradients = _flat(torch.autograd.grad(loss, parameters, create_graph=True))
    size = gradients.numel()

    def product(v):
        v = torch.from_numpy(v).to(gradients).flatten()
        return _flat(torch.autograd.grad(gradients, parameters, v, retain_graph=True)).cpu().numpy()

    start = torch.randn(size, generator=torch.Generator().manual_seed(derive(seed, "hessian"))).to(x.dtype).numpy()
    first = product(start)
    if not np.isfinite(first).all():
        return np.nan, np.nan
    if not first.any():  # ARPACK refuses: the loss is flat
        return 0.0, 0.0
    operator = LinearOperator((size, size), matvec=product, dtype=start.dtype)
    options = {"ncv": min(LANCZOS_VECTORS, size), "tol": tolerance, "maxiter": LANCZOS_RESTARTS}
    try:
        values = eigsh(operator, 2, which="BE", v0=start, return_eigenvectors=False, **options)
    except ArpackError:  # not converged, or not finite on the way
        return np.nan, np.nan
    return float(values.min()), float(values.max())


def _flat(tensors) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])
