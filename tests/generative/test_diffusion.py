"""Diffusion of normal data, where the best denoiser is known and samples, bounds and steps are in closed form."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen
from scipy.stats import norm

from dljax.core import evaluate
from dljax.generative.diffusion import Denoised, denoised, diffusion, diffusion_samples
from dljax.generative.noise_schedules import NoiseSchedule, cosine_schedule, linear_schedule, reverse_step
from dljax.models.mlp import MLP
from dljax.nn.conditional import Conditional

MEAN, DEVIATION = 0.7, 0.4


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


def best_denoiser(schedule, mean=MEAN, deviation=DEVIATION):
    """E[x_0 | x_t] of N(m, d²): precisions add up."""

    def see(x, t):
        signal, noise = schedule.signal[t], schedule.noise[t]
        x0 = mean + signal * deviation**2 / (signal**2 * deviation**2 + noise**2) * (x - signal * mean)
        return Denoised(x0, (x - signal * x0) / noise)

    return see


def moments(schedule, times, eta, mean=MEAN, deviation=DEVIATION):
    """Mean and variance of the samples by the closed-form recursion: every step is linear, x_s = c x_t + k + σ z."""
    found, variance = 0.0, 1.0
    a, s = np.asarray(schedule.signal), np.asarray(schedule.noise)
    for t, r in itertools.pairwise(times):
        gain = a[t] * deviation**2 / (a[t] ** 2 * deviation**2 + s[t] ** 2)  # x̂_0 = mean + gain (x - a_t mean)
        sigma = eta * s[r] / s[t] * np.sqrt(1 - (a[t] / a[r]) ** 2)
        along = np.sqrt(s[r] ** 2 - sigma**2) / s[t]
        c = a[r] * gain + along * (1 - a[t] * gain)
        found, variance = c * found + (a[r] - along * a[t]) * (1 - gain * a[t]) * mean, c**2 * variance + sigma**2
    return found, variance


@pytest.mark.parametrize("make", [linear_schedule, cosine_schedule])
def test_10_2_forward_marginals_are_compositions_of_the_steps(make):
    schedule = make(50)
    a, s = np.asarray(schedule.signal), np.asarray(schedule.noise)
    variances = 1 - (a[1:] / a[:-1]) ** 2  # β_t
    mean, variance = 1.0, 0.0
    for t, beta in enumerate(variances, 1):
        mean, variance = np.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        assert (mean, np.sqrt(variance)) == (pytest.approx(a[t], rel=1e-9), pytest.approx(s[t], rel=1e-9))
    assert (a[0], s[0]) == (1, 0)
    assert (variances <= 0.999 + 1e-12).all()
    if make is linear_schedule:
        np.testing.assert_allclose(variances, np.linspace(0.1, 20, 50) / 50, rtol=1e-9)
        np.testing.assert_allclose(1 - (linear_schedule().signal[1:] / linear_schedule().signal[:-1]) ** 2, np.linspace(1e-4, 0.02, 1000), rtol=1e-6)
    else:
        f = np.cos((np.arange(51) / 50 + 0.008) / 1.008 * np.pi / 2) ** 2
        np.testing.assert_allclose(a[:-1] ** 2, (f / f[0])[:-1], rtol=1e-9)  # the last β is cut at 0.999


def test_10_2_a_step_with_eta_one_is_the_posterior_of_the_forward_process():
    """Ho et al. (2020), eq. 6-7, and Bayes' rule for times that are not neighbours."""
    schedule = cosine_schedule(20)
    a, s = np.asarray(schedule.signal), np.asarray(schedule.noise)
    x0, x = np.random.default_rng(0).normal(size=(2, 5))
    for t, r in [(7, 6), (20, 19), (12, 3)]:
        mean, deviation = reverse_step(schedule, jnp.asarray(x0), jnp.asarray((x - a[t] * x0) / s[t]), jnp.int32(t), jnp.int32(r), 1.0)
        ratio, beta = a[t] / a[r], 1 - (a[t] / a[r]) ** 2  # √α and β
        np.testing.assert_allclose(mean, a[r] * beta / s[t] ** 2 * x0 + ratio * s[r] ** 2 / s[t] ** 2 * x, rtol=1e-8)
        assert float(deviation) ** 2 == pytest.approx(s[r] ** 2 / s[t] ** 2 * beta, rel=1e-8)
    for eta in (0.0, 0.5, 1.0):  # whatever η, x_s has the marginal of the forward process
        along, deviation = reverse_step(schedule, jnp.zeros(1), jnp.ones(1), jnp.int32(9), jnp.int32(4), eta)
        assert float(along[0]) ** 2 + float(deviation) ** 2 == pytest.approx(s[4] ** 2, rel=1e-9)


def test_10_2_predictions_of_noise_data_and_velocity_agree():
    schedule, t = cosine_schedule(10), jnp.int32(4)
    x0, noise = jax.random.normal(jax.random.key(0), (2, 3, 4))
    signal, spread = schedule.signal[t], schedule.noise[t]
    x = signal * x0 + spread * noise
    for prediction, outputs in {"noise": noise, "data": x0, "velocity": signal * noise - spread * x0}.items():
        found = denoised(schedule, outputs, x, t, prediction=prediction)
        np.testing.assert_allclose(found.x0, x0, rtol=1e-9)
        np.testing.assert_allclose(found.noise, noise, rtol=1e-8)
        cut = denoised(schedule, outputs, x, t, prediction=prediction, limit=0.5)
        assert float(jnp.abs(cut.x0).max()) == 0.5
        np.testing.assert_allclose(signal * cut.x0 + spread * cut.noise, x, rtol=1e-9)


def test_10_2_samples_of_the_exact_denoiser_have_the_moments_of_the_data_and_of_the_recursion():
    schedule = linear_schedule(200)
    start = jax.random.normal(jax.random.key(0), (20_000, 1))
    for num_steps, eta in [(200, 1.0), (20, 0.0), (50, 0.5)]:
        samples = jax.jit(
            lambda start, num_steps=num_steps, eta=eta: diffusion_samples(
                jax.random.key(1), start, best_denoiser(schedule), schedule, num_steps=num_steps, eta=eta
            )
        )(start)
        times = np.round(np.linspace(200, 0, num_steps + 1)).astype(int)
        mean, variance = moments(schedule, times, eta)
        error = np.sqrt(variance / 20_000)
        assert abs(float(samples.mean()) - mean) < 4 * error
        assert abs(float(samples.var()) - variance) < 4 * variance * np.sqrt(2 / 20_000)
        if eta == 0:  # no noise but that of the start: the map is linear, and known
            np.testing.assert_allclose(samples, mean + np.sqrt(variance) * start, atol=1e-9)
    # With more and more steps DDPM and DDIM both reach the data.
    for eta in (0.0, 1.0):
        gaps = [np.abs(np.subtract(moments(linear_schedule(num), range(num, -1, -1), eta), (MEAN, DEVIATION**2))).max() for num in (10, 100, 1000)]
        assert gaps[0] > gaps[1] > gaps[2]
        assert gaps[2] < 0.01


def even_schedule(num):
    """The logarithm of signal to noise falls evenly: all steps are small when there are many, unlike the first ones of the usual schedules."""
    ratio = jnp.exp(jnp.linspace(10.0, -8.0, num))
    return NoiseSchedule(*(jnp.concatenate([jnp.array([end]), jnp.sqrt(part)]) for end, part in ((1.0, ratio / (1 + ratio)), (0.0, 1 / (1 + ratio)))))


def expected_bound(schedule):
    """Over the data, for E|x_0 - x̂_0|² = 1/(1/d² + a²/s²)."""
    a, s = np.asarray(schedule.signal)[1:], np.asarray(schedule.noise)[1:]
    ratio = (a / s) ** 2
    weights = np.concatenate([ratio[:1], ratio[:-1] - ratio[1:]]) / 2
    bound = (weights / (1 / DEVIATION**2 + ratio)).sum() + 0.5 * np.log(2 * np.pi / ratio[0])
    return bound + 0.5 * (a[-1] ** 2 * (MEAN**2 + DEVIATION**2) + s[-1] ** 2 - 1 - 2 * np.log(s[-1]))


def test_10_2_variational_bound_of_the_exact_denoiser_nears_the_entropy_with_the_number_of_steps():
    num, schedule = 20, even_schedule(20)

    def exact(params, x, time):
        return best_denoiser(schedule)(x, jnp.round(time * num).astype(jnp.int32)[:, None]).noise

    learner = diffusion((lambda key, x, time: jnp.zeros(()), exact), optax.sgd(0.1), shape=(1,), schedule=schedule)
    x = MEAN + DEVIATION * jax.random.normal(jax.random.key(0), (4000, 1))
    bound = jax.jit(learner.functions["negative_elbo"])(jax.random.key(1), jnp.zeros(()), x)
    assert abs(float(bound.mean()) - expected_bound(schedule)) < 4 * float(bound.std()) / np.sqrt(4000)
    gaps = [expected_bound(even_schedule(num)) - norm(0, DEVIATION).entropy() for num in (20, 200, 2000)]
    np.testing.assert_array_less(10 * np.array(gaps[1:]), 1.5 * np.array(gaps[:-1]))  # as 1/T
    assert 0 < gaps[2] < 0.03


def test_10_2_a_learned_denoiser_samples_each_class_from_its_own_normal_and_guidance_overshoots():
    """The means are ±1 and 0.3 the deviation; the context is one-hot, and left out one time in five."""
    with jax.enable_x64(False):
        labels = jnp.arange(256) % 2
        schedule, optimizer = cosine_schedule(30), optax.adam(optax.cosine_decay_schedule(1e-2, 1500))
        learner = diffusion(Net(), optimizer, shape=(1,), schedule=schedule, prediction="velocity", context_dropout=0.2, limit=3.0)

        def batch(key):
            return {"x": (2.0 * labels - 1 + 0.3 * jax.random.normal(key, (256,)))[:, None], "context": jax.nn.one_hot(labels, 2)}

        @jax.jit
        def run(key):
            state = learner.init(key, batch(key))

            def step(state, key):
                step_key, batch_key = jax.random.split(key)
                return learner.step(step_key, state, batch(batch_key))

            state, metrics = jax.lax.scan(step, state, jax.random.split(key, 1500))
            context = jax.nn.one_hot(jnp.arange(2000) % 2, 2)
            sample = learner.functions["sample"]
            samples = [
                sample(key, state.params, 2000, context),
                sample(key, state.params, 2000, context, num_steps=15, eta=0.0),
                sample(key, state.params, 2000, context, guidance=2.0),
                sample(key, state.params, 2000, 0 * context),
            ]
            return state, metrics["loss"], samples

        state, losses, samples = run(jax.random.key(0))
        ddpm, ddim, guided, free = (np.asarray(each).reshape(-1, 2) for each in samples)
        for found, times, eta in ((ddpm, range(30, -1, -1), 1.0), (ddim, range(30, -1, -2), 0.0)):
            mean, variance = moments(schedule, times, eta, mean=1.0, deviation=0.3)  # of samples of the best denoiser
            np.testing.assert_allclose(found.mean(0), [-mean, mean], atol=0.05)
            np.testing.assert_allclose(found.std(0), np.sqrt(variance), atol=0.04)
        assert (np.abs(guided.mean(0)) > np.abs(ddpm.mean(0)) + 0.05).all()
        assert free.std() > 0.8  # both classes
        many = jax.tree.map(lambda part: jnp.tile(part, (20, 1)), batch(jax.random.key(3)))
        loss = jax.jit(evaluate(learner.evaluate, batch_size=1000))(jax.random.key(2), state, many)["loss"]
        a, s = np.asarray(schedule.signal)[1:], np.asarray(schedule.noise)[1:]
        assert float(loss.weight) == 5120
        assert float(loss.value) == pytest.approx((0.3**2 / (s**2 + (0.3 * a) ** 2)).mean(), rel=0.2)  # of the best denoiser


class Net(linen.Module):
    """A perceptron of the noisy number, waves of the time and the context."""

    @linen.compact
    def __call__(self, x, time, context):
        return Conditional(MLP(1, (64, 64)))(jnp.concatenate([x, *(wave(np.pi / 2 * time)[:, None] for wave in (jnp.sin, jnp.cos))], -1), context)


def test_bad_options_are_refused():
    net, schedule = (lambda key, x, time: {}, lambda params, x, time: x[:, :1]), linear_schedule(5)

    def build(**options):
        return diffusion(net, optax.sgd(0.1), **{"shape": (2,), "schedule": schedule} | options)

    with pytest.raises(ValueError, match="diffusion: shape must be >= 1, got 0"):
        build(shape=(0,))
    with pytest.raises(ValueError, match="diffusion: prediction must be one of 'noise', 'data', 'velocity', got 'score'"):
        build(prediction="score")
    with pytest.raises(ValueError, match=r"diffusion: limit must be in \(0, inf\)"):
        build(limit=0)
    with pytest.raises(ValueError, match=r"diffusion: context_dropout must be in \[0, 1\], got 2"):
        build(context_dropout=2)
    with pytest.raises(ValueError, match=r"diffusion: examples must have the shape \(2,\), got \(3,\)"):
        jax.eval_shape(build().init, jax.random.key(0), {"x": jnp.zeros((4, 3))})
    with pytest.raises(ValueError, match=r"diffusion: the model must map \(4, 2\) to \(4, 2\), got \(4, 1\)"):
        jax.eval_shape(build().init, jax.random.key(0), {"x": jnp.zeros((4, 2))})
    see = best_denoiser(schedule)
    with pytest.raises(ValueError, match="diffusion: num_steps must be between 1 and 5, got 6"):
        diffusion_samples(jax.random.key(0), jnp.zeros((1, 1)), see, schedule, num_steps=6)
    with pytest.raises(ValueError, match=r"diffusion: eta must be in \[0, 1\], got 2"):
        diffusion_samples(jax.random.key(0), jnp.zeros((1, 1)), see, schedule, eta=2)
    with pytest.raises(ValueError, match="linear_schedule: num_steps must be >= 1, got 0"):
        linear_schedule(0)
    with pytest.raises(ValueError, match=r"linear_schedule: high must be in \(0, inf\), got 0"):
        linear_schedule(high=0)
    with pytest.raises(ValueError, match=r"cosine_schedule: offset must be in \[0, inf\), got -1"):
        cosine_schedule(offset=-1)
    with pytest.raises(ValueError, match="denoised: prediction must be one of"):
        denoised(schedule, jnp.zeros((1, 1)), jnp.zeros((1, 1)), jnp.int32(1), prediction="score")
