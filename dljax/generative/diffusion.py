"""Denoising diffusion: a model that takes away noise, and a generator that begins with nothing else (Ho et al., 2020)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.scipy.stats import norm
from jaxtyping import Array, Float, Int

from dljax.core.axis import local_key, pmean
from dljax.core.checks import check_choice, check_int, check_range
from dljax.core.contract import Batch, Fold, Key, Learner, Mean, Metrics, Numeric, Params
from dljax.generative.densities import context_of
from dljax.generative.likelihoods import per_example
from dljax.generative.noise_schedules import NoiseSchedule, reverse_step
from dljax.nn.model import as_model, stateless_params

type_aliases = ("Pictures", "Denoise")

Pictures = Float[Array, "N ..."]
Denoise = Callable[[Pictures, Int[Array, ""]], "Denoised"]  # (x_t, t) -> what is made out in it


class DiffusionState(NamedTuple):
    """The model's parameters and the state of their optimiser."""

    params: Params
    opt_state: optax.OptState


class Denoised(NamedTuple):
    """What is made out in x_t: x_t = a_t x_0 + s_t ε.

    Attributes:
      x0, noise: the example and ε.
    """

    x0: Pictures
    noise: Pictures


def diffusion(
    model: Any,
    optimizer: optax.GradientTransformation,
    *,
    shape: Sequence[int],
    schedule: NoiseSchedule,
    prediction: str = "noise",
    limit: Numeric | None = None,
    context_dropout: Numeric = 0.0,
) -> Learner:
    """Train a model to tell what noise was mixed into the data, at every strength of noise, and sample by taking it away little by little.

      minimise  E_{t ~ U(1...T), ε ~ N(0, I)} |f(x_t, t/T) - y|²/D,   x_t = a_t x_0 + s_t ε
      y = ε ("noise"),   x_0 ("data"),   a_t ε - s_t x_0 ("velocity")

    Samples are best made with a running mean of the parameters: `dljax.core.ema(diffusion(...))`.

    Args:
      model: `(x_t [B, ...], time [B]) -> [B, ...]`, time t/T in (0, 1], such as `dljax.models.TimeUNet`; whatever `dljax.nn.as_model` takes, without
        running statistics. Where batches have a `context` [B, ...] besides, such as one-hot labels, it is the third argument.
      optimizer: of the mean squared error.
      shape: of an example.
      schedule: `linear_schedule(T)`, `cosine_schedule(T)`.
      prediction: what the model tells.
      limit: while sampling, x_0 is cut to [-limit, limit], which the data are known to keep to; None for no limit. May be traced.
      context_dropout: how often the context is replaced by zeros, so that the model learns to do without, in [0, 1]; may be traced.
    Returns:
      A learner on batches `{"x": [B, ...]}`; data have best a variance of about 1. Its metric is `loss`. Its functions are

      - `sample(key, params, num, *context, num_steps=T, eta=1.0, guidance=0.0) -> [num, ...]`: DDPM, or with η < 1 and fewer steps DDIM. With
        guidance w it is f(x_t, c) + w (f(x_t, c) - f(x_t, 0)) that is followed, c being the context [num, ...].
      - `negative_elbo(key, params, x, *context) -> [B]`: the variational bound of -log p(x), nats, all T terms of it, with the variances of the
        forward process's posterior, and s_1²/a_1² for the last step.
    Raises:
      ValueError: an option out of its range; when the first batch comes: examples or outputs of another shape, a model with running statistics.
    Source: Ho, Jain and Abbeel (2020), Denoising Diffusion Probabilistic Models, eq. 14; Salimans and Ho (2022), appendix D (velocity);
      Ho and Salimans (2021), Classifier-Free Diffusion Guidance, eq. 6; Kingma, Salimans, Poole and Ho (2021), eq. 11-13 (the bound by x_0).

    >>> from dljax.generative.noise_schedules import linear_schedule
    >>> net = (lambda key, x, time: jnp.zeros(2), lambda params, x, time: x + jnp.expand_dims(params, 0))
    >>> learner = diffusion(net, optax.adam(1e-3), shape=(2,), schedule=linear_schedule(10))
    >>> state = learner.init(jax.random.key(0), {"x": jnp.zeros((4, 2))})
    >>> state, metrics = jax.jit(learner.step)(jax.random.key(1), state, {"x": jnp.zeros((4, 2))})
    >>> learner.functions["sample"](jax.random.key(2), learner.params(state), 3, num_steps=5, eta=0.0).shape
    (3, 2)
    """
    shape = tuple(check_int("diffusion", "shape", size, minimum=1) for size in shape)
    check_choice("diffusion", "prediction", prediction, ("noise", "data", "velocity"))
    check_range("diffusion", "context_dropout", context_dropout, 0, 1)
    if limit is not None:
        check_range("diffusion", "limit", limit, 0, open_low=True)
    net, num_times = as_model(model), schedule.num_steps

    def run(params: Params, x: Pictures, t: Int[Array, " N"], context: tuple[Array, ...], key: Key | None = None) -> Pictures:
        return net.apply({"params": params}, x, t / num_times, *context, key=key, train=key is not None)[0]

    def init(key: Key, batch: Batch) -> DiffusionState:
        x, context = batch["x"], context_of(batch)
        if x.shape[1:] != shape:
            raise ValueError(f"diffusion: examples must have the shape {shape}, got {x.shape[1:]}")
        params = stateless_params("diffusion", "the model", net, key, x, jnp.ones(len(x)), *context, shape=x.shape)
        return DiffusionState(params, optimizer.init(params))

    def errors(key: Key, params: Params, batch: Batch, train: bool) -> Float[Array, " B"]:
        x0, context = batch["x"], context_of(batch)
        time_key, noise_key, drop_key, model_key = jax.random.split(key, 4)
        t = jax.random.randint(time_key, (len(x0),), 1, num_times + 1)
        noise = jax.random.normal(noise_key, x0.shape, x0.dtype)
        signal, spread = _beside(schedule.signal[t], x0), _beside(schedule.noise[t], x0)
        if train:
            is_kept = jax.random.bernoulli(drop_key, 1 - context_dropout, (len(x0),))
            context = tuple(_beside(is_kept, part) * part for part in context)
        target = {"noise": noise, "data": x0, "velocity": signal * noise - spread * x0}[prediction]
        outputs = run(params, signal * x0 + spread * noise, t, context, model_key if train else None)
        return jnp.square(outputs - target).reshape(len(x0), -1).mean(-1)

    def step(key: Key, state: DiffusionState, batch: Batch) -> tuple[DiffusionState, Metrics]:
        loss, grads = jax.value_and_grad(lambda params: errors(local_key(key), params, batch, train=True).mean())(state.params)
        updates, opt_state = optimizer.update(pmean(grads), state.opt_state, state.params)
        return DiffusionState(optax.apply_updates(state.params, updates), opt_state), {"loss": loss}

    def fold_init(key: Key, state: DiffusionState) -> tuple[Key, Mean]:
        return key, Mean(jnp.zeros(()), jnp.zeros(()))

    def fold_step(acc: tuple[Key, Mean], state: DiffusionState, batch: Batch) -> tuple[Key, Mean]:
        (key, noise_key), mean = jax.random.split(acc[0]), acc[1]
        values = errors(noise_key, state.params, batch, train=False)
        mask = batch.get("mask", jnp.ones_like(values))
        return key, Mean(mean.total + (mask * values).sum(), mean.weight + mask.sum())

    def denoise(params: Params, context: tuple[Array, ...], guidance: Numeric, x: Pictures, t: Int[Array, ""]) -> Denoised:
        times = jnp.broadcast_to(t, len(x))
        outputs = run(params, x, times, context)
        # Without guidance, the usual case, the second pass is saved.
        if context and not (isinstance(guidance, int | float) and guidance == 0):
            outputs += guidance * (outputs - run(params, x, times, tuple(map(jnp.zeros_like, context))))
        return denoised(schedule, outputs, x, t, prediction=prediction, limit=limit)

    def sample(
        key: Key, params: Params, num: int, *context: Array, num_steps: int | None = None, eta: Numeric = 1.0, guidance: Numeric = 0.0
    ) -> Pictures:
        start_key, noise_key = jax.random.split(key)
        start = jax.random.normal(start_key, (num, *shape))
        see = lambda x, t: denoise(params, context, guidance, x, t)  # noqa: E731
        return diffusion_samples(noise_key, start, see, schedule, num_steps=num_steps, eta=eta)

    def negative_elbo(key: Key, params: Params, x: Pictures, *context: Array) -> Float[Array, " B"]:
        ratio = jnp.square(schedule.signal[1:] / schedule.noise[1:])  # of signal to noise, at 1 ... T
        weights = jnp.concatenate([ratio[:1], ratio[:-1] - ratio[1:]]) / 2

        def term(inputs: tuple[Key, Int[Array, ""], Array]) -> Float[Array, " B"]:
            key, t, weight = inputs
            mixed = schedule.signal[t] * x + schedule.noise[t] * jax.random.normal(key, x.shape, x.dtype)
            return weight * per_example(jnp.square(x - denoise(params, context, 0.0, mixed, t).x0))

        terms = lax.map(term, (jax.random.split(key, num_times), jnp.arange(1, num_times + 1), weights)).sum(0)
        last_signal, last_noise = schedule.signal[-1], schedule.noise[-1]
        start = 0.5 * (jnp.square(last_signal * x) + last_noise**2 - 1) - jnp.log(last_noise)
        return terms + per_example(start - norm.logpdf(0.0, scale=schedule.noise[1] / schedule.signal[1]))

    return Learner(
        init,
        step,
        evaluate=Fold(fold_init, fold_step, lambda acc: {"loss": acc[1]}),
        functions={"sample": sample, "negative_elbo": negative_elbo},
    )


def denoised(
    schedule: NoiseSchedule, outputs: Pictures, x: Pictures, t: Int[Array, ""], *, prediction: str = "noise", limit: Numeric | None = None
) -> Denoised:
    """The example and the noise in x_t, from what a model told of one of them or of v = a_t ε - s_t x_0.

      x_t = a_t x_0 + s_t ε,   so   x_0 = a_t x_t - s_t v,   ε = s_t x_t + a_t v

    Args:
      t: in 1 ... T.
      prediction: "noise", "data" or "velocity".
      limit: x_0 is cut to [-limit, limit], and ε is then what is left of x_t; None for no limit.

    >>> from dljax.generative.noise_schedules import linear_schedule
    >>> found = denoised(linear_schedule(10), jnp.ones((1, 2)), jnp.zeros((1, 2)), jnp.int32(10), prediction="data", limit=0.5)
    >>> found.x0.tolist()
    [[0.5, 0.5]]
    """
    check_choice("denoised", "prediction", prediction, ("noise", "data", "velocity"))
    signal, noise = schedule.signal[t], schedule.noise[t]
    if prediction == "noise":
        found = Denoised((x - noise * outputs) / signal, outputs)
    elif prediction == "data":
        found = Denoised(outputs, (x - signal * outputs) / noise)
    else:
        found = Denoised(signal * x - noise * outputs, noise * x + signal * outputs)
    if limit is None:
        return found
    x0 = jnp.clip(found.x0, -limit, limit)
    return Denoised(x0, (x - signal * x0) / noise)


def diffusion_samples(
    key: Key, start: Pictures, denoise: Denoise, schedule: NoiseSchedule, *, num_steps: int | None = None, eta: Numeric = 1.0
) -> Pictures:
    """Samples made of noise, step by step from time T down to 0: DDPM (η = 1, all steps), DDIM (η = 0, or fewer steps), and what is between.

      x_s = a_s x̂_0 + √(s_s² - σ²) ε̂ + σ z,   σ = η · s_s/s_t · √(1 - a_t²/a_s²),   z ~ N(0, I)

    Args:
      start: x_T, noise [N, ...].
      denoise: `(x_t, t) -> Denoised`.
      num_steps: times that are visited, evenly spread, 1 ... T; None for T.
      eta: η in [0, 1]; may be traced.
    Raises:
      ValueError: an option out of its range.
    Source: Song, Meng and Ermon (2021), Denoising Diffusion Implicit Models, eq. 12 and 16; Ho et al. (2020), algorithm 2, for η = 1.

    >>> from dljax.generative.noise_schedules import linear_schedule
    >>> see = lambda x, t: Denoised(jnp.zeros_like(x), x)  # the data are all zero
    >>> diffusion_samples(jax.random.key(0), jnp.ones((1, 2)), see, linear_schedule(10)).tolist()
    [[0.0, 0.0]]
    """
    num = schedule.num_steps if num_steps is None else check_int("diffusion", "num_steps", num_steps, minimum=1, maximum=schedule.num_steps)
    check_range("diffusion", "eta", eta, 0, 1)
    times = jnp.round(jnp.linspace(schedule.num_steps, 0, num + 1)).astype(jnp.int32)

    def step(x: Pictures, inputs: tuple[Key, Int[Array, ""], Int[Array, ""]]) -> tuple[Pictures, None]:
        key, t, s = inputs
        mean, deviation = reverse_step(schedule, *denoise(x, t), t, s, eta)
        return mean + deviation * jax.random.normal(key, x.shape, x.dtype), None

    return lax.scan(step, start, (jax.random.split(key, num), times[:-1], times[1:]))[0]


def _beside(values: Array, like: Array) -> Array:
    return values.reshape(-1, *(1 for _ in like.shape[1:]))
