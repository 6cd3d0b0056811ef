"""K-FAC: natural gradients by Kronecker-factored curvature (Martens and Grosse, 2015; Grosse and Martens, 2016)."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int

from dljax.core.axis import psum
from dljax.core.checks import check_int, check_range
from dljax.core.contract import Key, Numeric, Params
from dljax.core.rule import Problem, Seen, UpdateRule, refuse_penalty
from dljax.core.tree import named_leaves
from dljax.optim.fisher import Likelihood, likelihood_of, weighted
from dljax.optim.kronecker import Layer, damped_inverses, input_factor, kronecker_layers, output_factor, watched

SMALLEST_DAMPING, LARGEST_DAMPING = 1e-8, 1e8


@dataclass(frozen=True)
class KFACConfig:
    """Options of `kfac`.

    Attributes:
      damping: the first λ > 0; it stays where a learning rate is given.
      averaging: of the factors over the steps, in [0, 1): after k steps the old ones count min(1 - 1/k, averaging).
      refresh: steps between inverses, >= 1; the first three steps always make them.
      adapt: steps between changes of λ by the reduction ratio, >= 1; only without a learning rate.
      momentum: in [0, 1); only with a learning rate, without one the best is found in each step.
      max_divergence: how far predictions may move in a step, α² dᵀF d <= max_divergence by the factors, > 0; only with a learning rate.
      is_exact: whether the output factors are expectations over all targets, a pass back for each output, instead of one drawn target.
    """

    damping: Numeric = 0.01
    averaging: Numeric = 0.95
    refresh: int = 5
    adapt: int = 5
    momentum: Numeric = 0.9
    max_divergence: Numeric = 1e-2
    is_exact: bool = False

    def __post_init__(self) -> None:
        check_range("KFACConfig", "damping", self.damping, 0, open_low=True)
        check_range("KFACConfig", "averaging", self.averaging, 0, 1, open_high=True)
        check_int("KFACConfig", "refresh", self.refresh, minimum=1)
        check_int("KFACConfig", "adapt", self.adapt, minimum=1)
        check_range("KFACConfig", "momentum", self.momentum, 0, 1, open_high=True)
        check_range("KFACConfig", "max_divergence", self.max_divergence, 0, open_low=True)


class KFACState(NamedTuple):
    """What a step needs of those before.

    Attributes:
      step, damping: [], int32 and λ.
      factors, inverses: layer -> (of its inputs [K, K], of its outputs [O, O]).
      direction: layer -> the last change [K, O].
      others: the optax state of all other parameters.
    """

    step: Int[Array, ""]
    damping: Float[Array, ""]
    factors: Mapping[str, tuple[Array, Array]]
    inverses: Mapping[str, tuple[Array, Array]]
    direction: Mapping[str, Array]
    others: Any


def kfac(
    learning_rate: optax.ScalarOrSchedule | None = None,
    config: KFACConfig | None = None,
    *,
    likelihood: str | Likelihood | None = None,
    others: optax.GradientTransformation | None = None,
) -> UpdateRule:
    """Natural gradients with a Fisher information that is a Kronecker product in each layer: as a rule for `supervised`.

      F_l ≈ A ⊗ G,   A = E[Σ_t a aᵀ],   G = E[1/T Σ_t g gᵀ],   Δ_l = -(A + π√λ I)⁻¹ ∇L_l (G + √λ/π I)⁻¹

    a are the inputs of a layer (and a 1 for its bias) and g the derivatives by its outputs at each of T places (pixels of a convolution, T = 1 of a
    vector) under targets drawn from the model. Without a learning rate nothing needs tuning: step size and momentum minimise the quadratic model with
    the exact F on the batch, and λ follows how well that model predicts the loss:

      δ = α Δ + μ δ',   (α, μ) = argmin ∇Lᵀδ + ½ δᵀ(F + λ I) δ

    which suits large batches. With one, δ = -rate ν d + momentum δ' as in SGD, where d = -Δ and ν <= 1 keeps rate² ν² dᵀ∇L within `max_divergence`.

    Args:
      learning_rate: None, or a number > 0, or a schedule.
      config: `KFACConfig()` by default.
      likelihood: of the targets, by name or a `Likelihood` with scores; None for that behind the loss.
      others: trains the parameters that are no kernel or bias of a layer in `kronecker_layers` (layer norm, embeddings). By default
        `optax.adam(1e-3)`, with a warning that names them.
    Returns:
      An `UpdateRule` that reports `damping` [].
    Raises:
      ValueError: an option out of its range; a loss whose distribution is not known; a model without any layer that has factors; `is_exact` with
        outputs that are not [B, K].
    Source: Martens and Grosse (2015), Optimizing Neural Networks with Kronecker-factored Approximate Curvature, sections 6.3-6.6; Grosse and Martens
      (2016), A Kronecker-factored approximate Fisher matrix for convolution layers; Ba, Grosse and Martens (2017) for the bound.

    >>> from flax import linen
    >>> from dljax.objectives import cross_entropy
    >>> from dljax.supervised import supervised
    >>> learner = supervised(linen.Dense(2), cross_entropy, kfac())
    >>> batch = {"x": jnp.eye(3), "y": jnp.array([0, 1, 1])}
    >>> state, metrics = learner.step(jax.random.key(1), learner.init(jax.random.key(0), batch), batch)
    >>> sorted(metrics)
    ['damping', 'loss']
    """
    config = config or KFACConfig()
    if learning_rate is not None and not callable(learning_rate):
        check_range("kfac", "learning_rate", learning_rate, 0, open_low=True)
    if likelihood is not None:
        likelihood = likelihood_of("kfac", likelihood)

    def init(params: Params, problem: Problem) -> KFACState:
        refuse_penalty("kfac", params, problem)
        _drawable(likelihood_of("kfac", likelihood, problem.function))
        layers, leaves = _layers(params, problem), dict(named_leaves(params))
        rest = _rest(layers, leaves)
        if rest and others is None:
            warnings.warn(f"kfac: no Kronecker factors for {', '.join(rest)}: trained by optax.adam(1e-3); say others=...", stacklevel=2)
        matrices = {name: layer.matrix(leaves, name) for name, layer in layers.items()}
        factors = {name: (jnp.zeros((m.shape[0],) * 2, m.dtype), jnp.zeros((m.shape[1],) * 2, m.dtype)) for name, m in matrices.items()}
        dtype = jnp.result_type(*matrices.values())
        inverses, direction = jax.tree.map(jnp.zeros_like, (factors, matrices))
        return KFACState(jnp.int32(0), jnp.asarray(config.damping, dtype), factors, inverses, direction, _others(others).init(rest))

    def update(key: Key, params: Params, state: KFACState, problem: Problem) -> tuple[Params, KFACState, Seen, Mapping[str, Any]]:
        chosen = likelihood_of("kfac", likelihood, problem.function)
        layers, leaves = _layers(params, problem), dict(named_leaves(params))
        shifts = {name: jnp.zeros(layer.outputs.shape, layer.outputs.dtype) for name, layer in layers.items()}

        def forward(params: Params, shifts: Mapping[str, Array]) -> tuple[Any, tuple]:
            (outputs, model_state), inputs = watched(layers, problem.forward)(params, shifts)
            return outputs, (model_state, inputs)

        outputs, push, (model_state, inputs) = jax.linearize(forward, params, shifts, has_aux=True)
        pull = jax.linear_transpose(push, params, shifts)
        slope, loss = jax.grad(problem.loss, has_aux=True)(outputs)
        gradient = dict(named_leaves(psum(pull(slope)[0])))
        descent = {name: layer.matrix(gradient, name) for name, layer in layers.items()}
        weights = problem.weights(outputs)

        new = _factors(layers, inputs, weights, _output_gradients(key, chosen, outputs, weights, pull, config.is_exact))
        old_share = jnp.minimum(1 - 1 / (state.step + 1.0), config.averaging)
        factors: dict[str, tuple[Array, Array]] = jax.tree.map(
            lambda old, new: (old_share * old + (1 - old_share) * new).astype(old.dtype), dict(state.factors), psum(new)
        )
        inverses = lax.cond(
            (state.step < 3) | (state.step % config.refresh == 0),
            lambda: {name: damped_inverses(A, G, state.damping) for name, (A, G) in factors.items()},
            lambda: dict(state.inverses),
        )
        step = {name: -inverses[name][0] @ descent[name] @ inverses[name][1] for name in layers}

        def moved(change: Mapping[str, Array]) -> Params:
            return _with(params, leaves | _leaves(layers, change, leaves, add=True))

        damping = state.damping
        if learning_rate is None:

            def push_change(change: Mapping[str, Array]) -> Any:
                still = jax.tree.map(jnp.zeros_like, leaves)
                return push(_with(params, still | _leaves(layers, change, leaves)), shifts)

            def curvature(v: Any) -> Any:
                return weighted(weights, chosen.product, outputs, v)

            alpha, mu, promised = _best_step(descent, step, state.direction, push_change, curvature, damping)
            change = jax.tree.map(lambda d, last: (alpha * d + mu * last).astype(d.dtype), step, dict(state.direction))

            def adapted() -> Array:
                after = psum(problem.loss(problem.forward(moved(change))[0])[0])
                ratio = (after - psum(problem.loss(outputs)[0])) / jnp.where(promised < 0, promised, -1)
                return _adapted(damping, ratio, config.adapt)

            damping = lax.cond((state.step + 1) % config.adapt == 0, adapted, lambda: damping)
        else:
            rate = learning_rate(state.step) if callable(learning_rate) else learning_rate
            along = -optax.tree.vdot(step, descent)
            scale = rate * jnp.minimum(1, jnp.sqrt(config.max_divergence / jnp.maximum(rate**2 * along, jnp.finfo(along.dtype).tiny)))
            change = jax.tree.map(lambda d, last: (scale * d + config.momentum * last).astype(d.dtype), step, dict(state.direction))

        rest = _rest(layers, leaves)
        updates, others_state = _others(others).update(_rest(layers, gradient), state.others, rest)
        params = _with(params, dict(named_leaves(moved(change))) | optax.apply_updates(rest, updates))
        state = KFACState(state.step + 1, damping, factors, inverses, change, others_state)
        return params, state, Seen(outputs, model_state, loss), {"damping": damping}

    return UpdateRule(init, update)


def _layers(params: Params, problem: Problem) -> dict[str, Layer]:
    weights = jax.eval_shape(lambda params: problem.weights(problem.forward(params)[0]), params)
    layers = kronecker_layers(problem.forward, params, weights.shape[0])
    if not layers:
        raise ValueError(
            "kfac: found no Dense or Conv layer of linen in the model (outside linen.scan, remat and jit, and called once); "
            "take natural_gradient or hessian_free, which ask nothing of the model"
        )
    return layers


def _factors(
    layers: Mapping[str, Layer], inputs: Mapping[str, Array], weights: Array, gradients: Mapping[str, Array]
) -> dict[str, tuple[Array, Array]]:
    examples = weights.shape[0]
    each = weights.reshape(examples, -1).sum(1)
    float_inputs = {name: x.astype(jnp.promote_types(x.dtype, jnp.float32)) for name, x in inputs.items()}
    float_gradients = {name: g.astype(jnp.promote_types(g.dtype, jnp.float32)) for name, g in gradients.items()}
    return {
        name: (
            input_factor(layer.rows(float_inputs[name], examples), each),
            jax.vmap(lambda g: output_factor(g, examples))(float_gradients[name]).sum(0),
        )
        for name, layer in layers.items()
    }


def _output_gradients(key: Key, likelihood: Likelihood, outputs: Array, weights: Array, pull: Any, is_exact: bool) -> dict[str, Array]:
    """Derivatives by the layers' outputs [S, B, ...] whose squares, summed over S, are expected to be the weighted Fisher information."""
    score, columns = _drawable(likelihood)
    if not is_exact:
        scores = score(key, outputs)[None]
    elif outputs.ndim == 2:
        scores = columns(outputs)
    else:
        raise ValueError(f"kfac: is_exact needs outputs [B, K], got {outputs.shape}; draw a target instead (is_exact=False)")
    roots = jnp.sqrt(weights)
    return jax.vmap(lambda s: pull(weighted(roots, lambda z, v: v, outputs, s))[1])(scores)


def _drawable(likelihood: Likelihood) -> tuple[Any, Any]:
    if likelihood.score is None or likelihood.columns is None:
        raise ValueError("kfac: needs a likelihood with scores and columns, such as 'categorical'; natural_gradient needs only its product")
    return likelihood.score, likelihood.columns


def _best_step(
    gradient: Mapping[str, Array], step: Mapping[str, Array], last: Mapping[str, Array], push: Any, curvature: Any, damping: Array
) -> tuple[Array, Array, Array]:
    """α and μ that minimise the quadratic model along two directions, and what it promises there."""
    dot, images = optax.tree.vdot, [push(step), push(last)]
    pairs = [(0, 0), (0, 1), (1, 1)]
    bends = psum([dot(images[i], curvature(images[j])) for i, j in pairs])
    changes = [dict(step), dict(last)]
    a, b, c = (bend + damping * dot(changes[i], changes[j]) for bend, (i, j) in zip(bends, pairs, strict=True))
    slope, last_slope = dot(dict(gradient), changes[0]), dot(dict(gradient), changes[1])
    determinant = a * c - b * b
    # Nearly parallel directions, or no last one: the first alone.
    is_plane = determinant > 1e-4 * a * c
    safe = jnp.where(is_plane, determinant, 1)
    alone = -slope / jnp.where(a > 0, a, 1)
    alpha = jnp.where(is_plane, (b * last_slope - c * slope) / safe, alone)
    mu = jnp.where(is_plane, (b * slope - a * last_slope) / safe, 0)
    return alpha, mu, 0.5 * (alpha * slope + mu * last_slope)


def _adapted(damping: Array, ratio: Array, every: int) -> Array:
    """λ smaller where the model predicted well and larger where it did not, by what 19/20 a step comes to."""
    factor = jnp.asarray(0.95**every, damping.dtype)
    changed = jnp.where(ratio > 0.75, damping * factor, jnp.where(ratio >= 0.25, damping, damping / factor))
    return jnp.clip(changed, SMALLEST_DAMPING, LARGEST_DAMPING).astype(damping.dtype)


def _leaves(layers: Mapping[str, Layer], change: Mapping[str, Array], leaves: Mapping[str, Array], *, add: bool = False) -> dict[str, Array]:
    """The kernels and biases that matrices stand for, added to what they are now if `add`."""
    made: dict[str, Array] = {}
    for name, layer in layers.items():
        made |= layer.leaves(change[name], name)
    return {name: leaf + leaves[name] if add else leaf for name, leaf in made.items()}


def _with(params: Params, leaves: Mapping[str, Array]) -> Params:
    return jax.tree.unflatten(jax.tree.structure(params), [leaves[name] for name, _ in named_leaves(params)])


def _rest(layers: Mapping[str, Layer], leaves: Mapping[str, Array]) -> dict[str, Array]:
    own = {leaf for name, layer in layers.items() for leaf in layer.names(name)}
    return {name: leaf for name, leaf in leaves.items() if name not in own}


def _others(optimizer: optax.GradientTransformation | None) -> optax.GradientTransformation:
    return optax.adam(1e-3) if optimizer is None else optimizer
