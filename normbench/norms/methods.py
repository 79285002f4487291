"""Every normalization method by name.

To add one: a class in its family's file, a line in NORMS, a file in conf/norm/; what figures and tables should know of
it, an entry in FACTS.
"""

from normbench.errors import InputError, choices_text
from normbench.norms.activation import (
    EvoNormB0,
    EvoNormS0,
    FilterResponse,
    FilterResponseThreshold,
    ProxyNorm,
    scale_shift,
    without_proxy,
)
from normbench.norms.batch import GhostBatchNorm, SyncBatchNorm, batch_norm, freeze_statistics
from normbench.norms.free import (
    FixupConv2d,
    FixupEnd,
    FixupLinear,
    FixupShortcut,
    NormFreeEnd,
    RescaleConv2d,
    RescaleLinear,
    RescaleSum,
    ScaledWSConv2d,
    expect_variances,
    fixup_factors,
    fixup_weights,
    gathering,
    rescale_weights,
    tell_step,
)
from normbench.norms.local import DivisiveNorm, DynamicTanh, RMSNorm
from normbench.norms.mean_field import (
    MeanFieldConv2d,
    MeanFieldLinear,
    mean_field_rates,
    mean_field_weights,
)
from normbench.norms.method import Method
from normbench.norms.mixed import ExtendedBatchNorm, SwitchableNorm
from normbench.norms.plain import ResidualScalar
from normbench.norms.running import BatchRenorm, OnlineNorm, grow_limits
from normbench.norms.sample import GroupNorm, InstanceNorm, LayerNorm, LayerNorm2d
from normbench.norms.variants import LpBatchNorm, noisy_batch_norm
from normbench.norms.weight import (
    WeightNormConv2d,
    WeightNormLinear,
    WeightStandardizationConv2d,
    data_dependent_init,
    mean_only_or_none,
    standardization_norm,
)

NORMS: dict[str, Method] = {
    "none": Method(),
    "skipinit": Method(residual=ResidualScalar),
    "batch": Method(batch_norm, before_step=freeze_statistics),
    "sync_batch": Method(SyncBatchNorm),
    "ghost_batch": Method(GhostBatchNorm),
    "noisy_batch": Method(noisy_batch_norm),
    "lp_batch": Method(LpBatchNorm),
    "batch_renorm": Method(BatchRenorm, before_step=grow_limits),
    "online": Method(OnlineNorm),
    "switchable": Method(SwitchableNorm),
    "extended_batch": Method(ExtendedBatchNorm),
    "layer": Method(LayerNorm),
    "layer2d": Method(LayerNorm2d),
    "instance": Method(InstanceNorm),
    "group": Method(GroupNorm),
    "rms": Method(RMSNorm),
    "dyt": Method(DynamicTanh),
    "divisive": Method(DivisiveNorm),
    "frn": Method(FilterResponse, norm_act=FilterResponseThreshold),
    "evonorm_s0": Method(scale_shift, norm_act=EvoNormS0),
    "evonorm_b0": Method(scale_shift, norm_act=EvoNormB0),
    "proxy": Method(without_proxy, norm_act=ProxyNorm),
    "weight_norm": Method(
        mean_only_or_none, conv=WeightNormConv2d, linear=WeightNormLinear, prepare=data_dependent_init
    ),
    "weight_standardization": Method(standardization_norm, conv=WeightStandardizationConv2d),
    "rescale": Method(
        conv=RescaleConv2d,
        linear=RescaleLinear,
        residual_sum=RescaleSum,
        initialize=rescale_weights,
        before_step=tell_step,
        form=gathering,
    ),
    "fixup": Method(
        conv=FixupConv2d,
        linear=FixupLinear,
        pad=FixupShortcut,
        residual=FixupEnd,
        initialize=fixup_weights,
        lr_factor=fixup_factors,
    ),
    "scaled_ws": Method(conv=ScaledWSConv2d, residual=NormFreeEnd, initialize=expect_variances),
    "mean_field": Method(
        conv=MeanFieldConv2d,
        linear=MeanFieldLinear,
        initialize=mean_field_weights,
        lr_factor=mean_field_rates,
        model="mlp",
    ),
}


def get_method(name: str) -> Method:
    """The method of that name. Raises InputError with the choices for an unknown one."""
    if name not in NORMS:
        raise InputError("norm", name, f"unknown method; {choices_text(name, NORMS)}")
    return NORMS[name]


def require_options(name: str, options) -> None:
    """Raises InputError with the choices for an option that the method of that name does not have."""
    known = get_method(name).options()
    for key, value in options.items():
        if key not in known:
            choices = choices_text(key, known) if known else "it has none"
            raise InputError(key, value, f"norm={name} has no such option; {choices}")
