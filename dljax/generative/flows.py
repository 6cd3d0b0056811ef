"""Normalizing flows: exact densities by invertible maps (Rezende and Mohamed, 2015), with neural spline couplings (Durkan et al., 2019).

A `Bijector` speaks of one point, `chain` and `repeat` compose bijectors, and `flow` makes a learner of any of them.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen
from jax import lax
from jaxtyping import Array, Float

from dljax.core.axis import pmean
from dljax.core.checks import check_int, check_range
from dljax.core.contract import Batch, Fold, Key, Learner, Mean, Metrics, Params
from dljax.core.precision import wrap
from dljax.generative.distribution import Distribution, standard_normal
from dljax.nn.dense import Dense

type_aliases = ("Mapped",)

Mapped = tuple[Float[Array, " D"], Float[Array, ""]]


class Bijector(NamedTuple):
    """An invertible map between a noise point z and a data point x, both [D], with learned parameters.

    Attributes:
      init: `(key, x [B, D]) -> params`; a batch of data gives the size and, where the map wants it, the scale.
      forward: `(params, z) -> (x, log|det ∂x/∂z|)`, nats.
      inverse: `(params, x) -> (z, log|det ∂z/∂x|)`, nats.

    >>> double = Bijector(lambda key, x: (), lambda _, z: (2 * z, z.size * jnp.log(2.0)), lambda _, x: (x / 2, -x.size * jnp.log(2.0)))
    >>> x, log_det = double.forward((), jnp.ones(2))
    >>> x.tolist(), round(float(log_det), 4)
    ([2.0, 2.0], 1.3863)
    """

    init: Callable[[Key, Float[Array, "B D"]], Params]
    forward: Callable[[Params, Float[Array, " D"]], Mapped]
    inverse: Callable[[Params, Float[Array, " D"]], Mapped]


class FlowState(NamedTuple):
    """The parameters of the bijector and the state of their optimiser."""

    params: Params
    opt_state: optax.OptState


def flow(bijector: Bijector, optimizer: optax.GradientTransformation, *, size: int, base: Distribution | None = None) -> Learner:
    """Maximum likelihood of a base distribution, by default the standard normal, pushed through a bijector.

      log p(x) = log p_base(z) + log|det ∂z/∂x|,   z = f⁻¹(x)

    Args:
      bijector: f; `bijector.init` sees the first batch.
      optimizer: of the mean negative log-likelihood.
      size: D >= 1, the length of a data point.
      base: of the noise z; None for N(0, I). On a manifold its uniform distribution: `uniform_sphere(3)`, `uniform_torus(2)`.
    Returns:
      A learner on batches `{"x": [B, D]}` with metric `nll` [] (nats per example), in steps and in evaluation. Its functions are
      `log_prob(key, params, x [B, D]) -> [B]` (nats), `sample(key, params, num) -> [num, D]`,
      `forward(key, params, z [B, D]) -> x [B, D]` and `inverse(key, params, x [B, D]) -> z [B, D]`; only `sample` uses its key.
    Raises:
      ValueError: `size` < 1; a first batch that is not floating [B, size].
    Source: Rezende and Mohamed (2015), Variational Inference with Normalizing Flows, eq. 5; Dinh et al. (2017), RealNVP, eq. 2-3.

    >>> learner = flow(chain(act_norm(), repeat(spline_coupling(hidden=(8,)), 2)), optax.adam(1e-3), size=2)
    >>> batch = {"x": jax.random.normal(jax.random.key(0), (16, 2))}
    >>> state = learner.init(jax.random.key(1), batch)
    >>> state, metrics = learner.step(jax.random.key(2), state, batch)
    >>> learner.functions["sample"](jax.random.key(3), learner.params(state), 5).shape
    (5, 2)
    """
    noise = standard_normal(check_int("flow", "size", size, minimum=1)) if base is None else base

    def init(key: Key, batch: Batch) -> FlowState:
        x = batch["x"]
        if x.ndim != 2 or x.shape[1] != size or not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(
                f"flow: batch['x'] must be floating [B, {size}], got {x.dtype}{list(x.shape)}; flatten, scale or dequantise the examples"
            )
        params = bijector.init(key, x)
        return FlowState(params, optimizer.init(params))

    def step(key: Key, state: FlowState, batch: Batch) -> tuple[FlowState, Metrics]:
        del key  # the likelihood is exact: no noise
        nll, grads = jax.value_and_grad(lambda params: -log_probs(params, batch["x"]).mean())(state.params)
        updates, opt_state = optimizer.update(pmean(grads), state.opt_state, state.params)
        return FlowState(optax.apply_updates(state.params, updates), opt_state), {"nll": nll}

    def log_probs(params: Params, x: Float[Array, "B D"]) -> Float[Array, " B"]:
        z, log_det = jax.vmap(bijector.inverse, (None, 0))(params, x)
        return noise.log_prob(z) + log_det

    def log_prob(key: Key, params: Params, x: Float[Array, "B D"]) -> Float[Array, " B"]:
        return log_probs(params, x)

    def sample(key: Key, params: Params, num: int) -> Float[Array, "N D"]:
        return forward(key, params, noise.sample(key, num))

    def forward(key: Key, params: Params, z: Float[Array, "B D"]) -> Float[Array, "B D"]:
        return jax.vmap(bijector.forward, (None, 0))(params, z)[0]

    def inverse(key: Key, params: Params, x: Float[Array, "B D"]) -> Float[Array, "B D"]:
        return jax.vmap(bijector.inverse, (None, 0))(params, x)[0]

    def fold_init(key: Key, state: FlowState) -> Mean:
        return Mean(jnp.zeros(()), jnp.zeros(()))

    def fold_step(acc: Mean, state: FlowState, batch: Batch) -> Mean:
        nll = -log_probs(state.params, batch["x"])
        mask = batch.get("mask", jnp.ones_like(nll))
        return Mean(acc.total + (mask * nll).sum(), acc.weight + mask.sum())

    return Learner(
        init,
        step,
        evaluate=Fold(fold_init, fold_step, lambda acc: {"nll": acc}),
        functions={"log_prob": log_prob, "sample": sample, "forward": forward, "inverse": inverse},
    )


def chain(*bijectors: Bijector) -> Bijector:
    """The composition x = f_1(f_2(... f_n(z))): the first bijector stands next to the data, as in mathematics and in distrax.

    Raises:
      ValueError: no bijector.

    >>> scale = act_norm()
    >>> both = chain(scale, scale)
    >>> params = both.init(jax.random.key(0), jnp.array([[0.0, 1.0], [4.0, 3.0]]))
    >>> both.inverse(params, jnp.array([4.0, 3.0]))[0].tolist()
    [1.0, 1.0]
    """
    if not bijectors:
        raise ValueError("chain: needs at least one bijector, got none")

    def init(key: Key, x: Float[Array, "B D"]) -> tuple[Params, ...]:
        params = []
        for bijector, layer_key in zip(bijectors, jax.random.split(key, len(bijectors)), strict=True):
            params.append(bijector.init(layer_key, x))
            x = jax.vmap(bijector.inverse, (None, 0))(params[-1], x)[0]
        return tuple(params)

    def forward(params: Params, z: Float[Array, " D"]) -> Mapped:
        total = jnp.zeros((), z.dtype)
        for bijector, layer in reversed(list(zip(bijectors, params, strict=True))):
            z, log_det = bijector.forward(layer, z)
            total += log_det
        return z, total

    def inverse(params: Params, x: Float[Array, " D"]) -> Mapped:
        total = jnp.zeros((), x.dtype)
        for bijector, layer in zip(bijectors, params, strict=True):
            x, log_det = bijector.inverse(layer, x)
            total += log_det
        return x, total

    return Bijector(init, forward, inverse)


def repeat(bijector: Bijector, num_layers: int) -> Bijector:
    """The composition of `num_layers` bijectors of the same kind, each with parameters of its own.

    The layers are scanned over their stacked parameters: one layer is compiled, however many there are.

    Args:
      num_layers: L >= 1; leaf shapes of the parameters get a leading L.
    Raises:
      ValueError: `num_layers` < 1.

    >>> layers = repeat(spline_coupling(hidden=(8,)), 3)
    >>> params = layers.init(jax.random.key(0), jnp.zeros((1, 2)))
    >>> {leaf.shape[0] for leaf in jax.tree.leaves(params)}
    {3}
    """
    check_int("repeat", "num_layers", num_layers, minimum=1)

    def init(key: Key, x: Float[Array, "B D"]) -> Params:
        def one(x: Float[Array, "B D"], layer_key: Key) -> tuple[Float[Array, "B D"], Params]:
            layer = bijector.init(layer_key, x)
            return jax.vmap(bijector.inverse, (None, 0))(layer, x)[0], layer

        return lax.scan(one, x, jax.random.split(key, num_layers))[1]

    def forward(params: Params, z: Float[Array, " D"]) -> Mapped:
        z, log_dets = lax.scan(lambda z, layer: bijector.forward(layer, z), z, params, reverse=True)
        return z, log_dets.sum()

    def inverse(params: Params, x: Float[Array, " D"]) -> Mapped:
        x, log_dets = lax.scan(lambda x, layer: bijector.inverse(layer, x), x, params)
        return x, log_dets.sum()

    return Bijector(init, forward, inverse)


def act_norm() -> Bijector:
    """A shift and a scale of each feature, which begin as the mean and the deviation of the first batch.

      x = μ + exp(s) · z

    Source: Kingma and Dhariwal (2018), Glow, section 3.1.

    >>> layer = act_norm()
    >>> params = layer.init(jax.random.key(0), jnp.array([[1.0], [3.0]]))
    >>> z, log_det = layer.inverse(params, jnp.array([3.0]))
    >>> z.tolist(), float(log_det)
    ([1.0], -0.0)
    """

    def init(key: Key, x: Float[Array, "B D"]) -> Params:
        # A feature that does not vary in the first batch keeps its scale.
        scale = x.std(0)
        return {"shift": x.mean(0), "log_scale": jnp.log(jnp.where(scale > 0, scale, 1))}

    def forward(params: Params, z: Float[Array, " D"]) -> Mapped:
        return params["shift"] + jnp.exp(params["log_scale"]) * z, params["log_scale"].sum()

    def inverse(params: Params, x: Float[Array, " D"]) -> Mapped:
        return (x - params["shift"]) * jnp.exp(-params["log_scale"]), -params["log_scale"].sum()

    return Bijector(init, forward, inverse)


def spline_coupling(*, num_bins: int = 8, bound: float = 4.0, hidden: Sequence[int] = (64, 64)) -> Bijector:
    """A coupling layer whose maps are monotone rational-quadratic splines, followed by a reversal of the features.

      z = reverse(x_a, spline(x_b; θ(x_a)))

    The first half a of the features chooses the spline of each feature of the other half b. The splines map [-bound, bound] onto itself and
    are the identity outside. The last layer of θ begins at zero, and with it every spline is the identity.

    Args:
      num_bins: K >= 1 pieces of each spline.
      bound: > 0; data should be about standard normal here (`act_norm` first).
      hidden: widths of θ, a SiLU network.
    Raises:
      ValueError: an option out of its range; data of fewer than two features.
    Source: Durkan, Bekasov, Murray and Papamakarios (2019), Neural Spline Flows, section 3 and eq. 4-8. The splines are distrax's.

    >>> layer = spline_coupling(num_bins=4, hidden=(8,))
    >>> params = layer.init(jax.random.key(0), jnp.zeros((1, 3)))
    >>> z, log_det = layer.inverse(params, jnp.array([1.0, 2.0, 3.0]))  # the identity, reversed
    >>> z.round(4).tolist()
    [3.0, 2.0, 1.0]
    """
    # Imported where it is used: distrax brings TensorFlow Probability along, seconds of start-up.
    import distrax

    check_int("spline_coupling", "num_bins", num_bins, minimum=1)
    check_range("spline_coupling", "bound", bound, 0, open_low=True)
    for width in hidden:
        check_int("spline_coupling", "hidden", width, minimum=1)
    num_params = 3 * num_bins + 1

    def network(size: int) -> linen.Module:
        zeros = linen.initializers.zeros
        hidden_layers = [layer for width in hidden for layer in (Dense(width), linen.silu)]
        return linen.Sequential([*hidden_layers, Dense(size // 2 * num_params, kernel_init=zeros)])

    def spline(params: Params, size: int, given: Float[Array, " A"]) -> Any:
        raw = wrap(network(size).apply)(params, given).reshape(size // 2, num_params)
        return distrax.RationalQuadraticSpline(raw, range_min=-bound, range_max=bound, boundary_slopes="identity")

    def init(key: Key, x: Float[Array, "B D"]) -> Params:
        size = x.shape[1]
        if size < 2:
            raise ValueError(f"spline_coupling: needs at least 2 features, got {size}; one feature has nothing to be coupled with")
        return network(size).init(key, x[0, : size - size // 2])

    # Training maps data to noise: that way is the spline's closed form, the other solves a quadratic equation.
    def forward(params: Params, z: Float[Array, " D"]) -> Mapped:
        moved, given = jnp.split(z, [z.size // 2])
        moved, given = moved[::-1], given[::-1]
        moved, log_dets = spline(params, z.size, given).inverse_and_log_det(moved)
        return jnp.concatenate([given, moved]), log_dets.sum()

    def inverse(params: Params, x: Float[Array, " D"]) -> Mapped:
        given, moved = jnp.split(x, [x.size - x.size // 2])
        moved, log_dets = spline(params, x.size, given).forward_and_log_det(moved)
        return jnp.concatenate([given, moved])[::-1], log_dets.sum()

    return Bijector(init, forward, inverse)
