"""The plain loop's training in JAX, which compiles it: a network, or several by vmap."""

import time
from functools import cache, partial

import jax
import jax.numpy as jnp
from jax import lax

MOMENTUM, DECAY, RATE = 0.9, 5e-4, 0.01
EPS, RUNNING, GROUPS = 1e-5, 0.1, 8


def convolution(x, w, stride=1):
    return lax.conv_general_dilated(
        x, w, (stride, stride), [(1, 1), (1, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def normalized(x, p, norm):
    """The map, and by batch norm what its running averages become."""
    if norm == "none":
        return x, None
    if norm == "group":
        n, h, w, c = x.shape
        grouped = x.reshape(n, h, w, GROUPS, c // GROUPS)
        mean, var = grouped.mean((1, 2, 4), keepdims=True), grouped.var((1, 2, 4), keepdims=True)
        x = ((grouped - mean) * lax.rsqrt(var + EPS)).reshape(x.shape)
        return x * p["scale"] + p["shift"], None
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    count = x.size // x.shape[-1]
    return (x - mean) * (lax.rsqrt(var + EPS) * p["scale"]) + p["shift"], (mean, var * count / (count - 1))


def blocks(depth):
    """(channels in, channels out, stride) of each residual block."""
    widths = [width for width in (16, 32, 64) for _ in range((depth - 2) // 6)]
    inputs = [16, *widths[:-1]]
    return [(a, b, 1 if a == b else 2) for a, b in zip(inputs, widths, strict=True)]


def start(key, depth):
    keys = iter(jax.random.split(key, 2 * depth))

    def unit(inputs, outputs):
        scale = (2 / (9 * inputs)) ** 0.5
        return {
            "w": scale * jax.random.normal(next(keys), (3, 3, inputs, outputs)),
            "scale": jnp.ones(outputs),
            "shift": jnp.zeros(outputs),
        }

    units = [unit(3, 16)]
    for inputs, outputs, _ in blocks(depth):
        units += [unit(inputs, outputs), unit(outputs, outputs)]
    head = {"w": 0.1 * jax.random.normal(next(keys), (64, 10)), "b": jnp.zeros(10)}
    running = [(jnp.zeros(one["shift"].shape), jnp.ones(one["shift"].shape)) for one in units]
    return {"units": units, "head": head}, running


def forward(params, x, depth, norm):
    found = []
    units = iter(params["units"])

    def unit(x, stride=1):
        p = next(units)
        x, statistics = normalized(convolution(x, p["w"], stride), p, norm)
        found.append(statistics)
        return x

    x = jax.nn.relu(unit(x))
    for inputs, outputs, stride in blocks(depth):
        y = unit(jax.nn.relu(unit(x, stride)))
        x = jnp.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (0, outputs - inputs)))
        x = jax.nn.relu(x + y)
    return x.mean((1, 2)) @ params["head"]["w"] + params["head"]["b"], found


def step(state, x, labels, depth, norm):
    params, running, momenta = state

    def loss(params):
        logits, found = forward(params, x, depth, norm)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1).mean(), found

    (value, found), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    if norm == "batch":
        running = jax.tree.map(lambda old, new: old + RUNNING * (new - old), running, found)
    momenta = jax.tree.map(lambda m, g, p: MOMENTUM * m + g + DECAY * p, momenta, gradients, params)
    return (jax.tree.map(lambda p, m: p - RATE * m, params, momenta), running, momenta), value


@cache
def compiled(depth, norm, replicates):
    """A step; compiled at the first call with each size of batch."""
    one = partial(step, depth=depth, norm=norm)
    return jax.jit(one if replicates == 1 else jax.vmap(one), donate_argnums=0)


def jax_loop(case, count, replicates) -> list[float]:
    """The moments after its steps, `count` of them, on one batch again and again; compiled before the first."""
    params, running = jax.vmap(partial(start, depth=case.depth))(jax.random.split(jax.random.PRNGKey(0), replicates))
    state = params, running, jax.tree.map(jnp.zeros_like, params)
    x = jax.random.normal(jax.random.PRNGKey(1), (replicates, case.batch_size, 32, 32, 3))
    labels = jnp.zeros((replicates, case.batch_size), jnp.int32)
    if replicates == 1:
        state, x, labels = jax.tree.map(lambda a: a[0], (state, x, labels))
    trained, moments = compiled(case.depth, case.norm, replicates), []
    for _ in range(count):
        state, value = trained(state, x, labels)
        jax.block_until_ready(value)
        moments.append(time.perf_counter())
    return moments
