"""Averages over time against their sums written out, ensembles against their members alone; both through the engine."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dljax.core import Fold, Learner, Source, ema, ensemble, evaluate, mixture_logits, swa
from dljax.core.check_learner import check_learner
from dljax.engine import FitConfig, fit
from dljax.nn import dropout
from dljax.objectives import cross_entropy, squared_error
from dljax.supervised import supervised

RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=12).astype(np.float32)
SEQUENCE = Source(init=lambda key: jnp.int32(0), next=lambda data, cursor: (cursor + 1, data[cursor]), data=jnp.asarray(VALUES))
KEY = jax.random.key(0)


def follower():
    """Its parameters are what the source says; its fold reports them."""
    return Learner(
        init=lambda key, batch: {"params": {"w": jnp.float32(7.0), "n": jnp.int32(0)}, "other": jnp.zeros(2)},
        step=lambda key, state, batch: (state | {"params": {"w": batch, "n": state["params"]["n"] + 1}}, {"w": batch}),
        evaluate=Fold(lambda key, state: jnp.zeros(()), lambda acc, state, batch: state["params"]["w"], lambda acc: {"w": acc}),
    )


def clouds(num=40):
    y = RNG.integers(0, 3, num)
    return {"x": jnp.asarray(RNG.normal(size=(num, 4)) + y[:, None], jnp.float32), "y": jnp.asarray(y, jnp.int32)}


def classifier():
    def apply(params, x, key=None, train=False):
        return (dropout(key, x, 0.3) if train else x) @ params["w"]

    return supervised((lambda key, x: {"w": jax.random.normal(key, (x.shape[-1], 3))}, apply), cross_entropy, optax.sgd(0.1, momentum=0.9))


def trajectory(learner, steps):
    """params(state) after each step."""
    state, params = learner.init(KEY, VALUES[0]), []
    for step in range(steps):
        state, _ = learner.step(KEY, state, jnp.asarray(VALUES[step]))
        params.append(float(learner.params(state)["w"]))
    return state, np.array(params)


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.99999])
def test_4_2_ema_is_the_corrected_sum_of_the_past(decay):
    learner = ema(follower(), decay)
    assert float(learner.params(learner.init(KEY, ()))["w"]) == 7, "before the first step there is nothing but the start"
    state, averages = trajectory(learner, 12)
    for t, average in enumerate(averages, 1):
        weights = float(decay) ** np.arange(t - 1, -1, -1)
        np.testing.assert_allclose(average, (weights * VALUES[:t]).sum() / weights.sum(), rtol=2e-5, atol=2e-6)
    assert int(learner.params(state)["n"]) == 12, "what is no real number is the newest"
    np.testing.assert_allclose(evaluate(learner.evaluate)(KEY, state, ())["w"].value, averages[-1], rtol=1e-6)
    assert float(state.inner["params"]["w"]) == VALUES[11], "training goes on as without"


def test_4_2_ema_equals_that_of_optax_and_its_decay_may_be_traced():
    reference, state = optax.ema(0.9, debias=True), None
    for value in VALUES:
        state = reference.init(jnp.float32(0)) if state is None else state
        expected, state = reference.update(jnp.asarray(value), state)

    def last(decay):
        learner = ema(follower(), decay)
        return jax.lax.scan(lambda state, x: (learner.step(KEY, state, x)[0], None), learner.init(KEY, ()), jnp.asarray(VALUES))[0].average["w"]

    np.testing.assert_allclose(jax.jit(jax.vmap(last))(jnp.array([0.0, 0.9])), [VALUES[-1], expected], rtol=1e-5)


@pytest.mark.parametrize(("start", "every"), [(1, 1), (4, 1), (3, 4)])
def test_4_2_swa_is_the_arithmetic_mean_of_the_iterates(start, every):
    state, averages = trajectory(swa(follower(), start, every), 12)
    for t, average in enumerate(averages, 1):
        counted = VALUES[start - 1 : t : every]
        np.testing.assert_allclose(average, counted.mean() if len(counted) else VALUES[t - 1], rtol=1e-5, atol=1e-6)
    assert int(state.num) == len(VALUES[start - 1 :: every])


def test_4_2_member_of_an_ensemble_is_the_learner_alone_with_its_keys():
    learner, batch = classifier(), clouds()
    together = ensemble(learner, 3, combine={"predict": mixture_logits})
    init_key, step_key, call_key = jax.random.split(jax.random.key(5), 3)

    def whole(learner, init_key, step_key, call_key):
        state, metrics = learner.step(step_key, learner.init(init_key, batch), batch)
        logits = learner.functions["predict"](call_key, learner.params(state), batch["x"])
        return state, metrics, evaluate(learner.evaluate, 16)(KEY, state, batch)["loss"].value, logits

    state, metrics, evaluated, combined = jax.jit(partial(whole, together))(init_key, step_key, call_key)
    logits, losses, folded = [], [], []
    alone_with = jax.jit(partial(whole, learner))
    for m in range(3):
        alone, reported, loss, outputs = alone_with(*(jax.random.split(key, 3)[m] for key in (init_key, step_key, call_key)))
        for one, members in zip(jax.tree.leaves(alone), jax.tree.leaves(state), strict=True):
            np.testing.assert_allclose(one, members[m], rtol=1e-4, atol=1e-5)
        losses.append(reported["loss"].value)
        folded.append(loss)
        logits.append(outputs)
    np.testing.assert_allclose(metrics["loss"].value, np.mean(losses), rtol=1e-5)
    assert float(metrics["loss"].weight) == 40
    np.testing.assert_allclose(evaluated, np.mean(folded), rtol=1e-4)
    # Its prediction is the mean of their probabilities, and by Jensen's inequality no worse than they are on average.
    np.testing.assert_allclose(jax.nn.softmax(combined), np.mean(jax.nn.softmax(jnp.stack(logits)), 0), rtol=1e-4)
    assert cross_entropy(combined, batch["y"]).mean() <= np.mean(folded)


def test_4_2_negative_log_likelihood_of_a_mixture_is_no_more_than_its_members_mean():
    logits = jnp.asarray(RNG.normal(size=(5, 200, 7)) * 10.0 ** RNG.uniform(-2, 4, size=(1, 200, 1)), jnp.float32)
    labels = jnp.asarray(RNG.integers(0, 7, 200))
    repeated = jnp.broadcast_to(labels[None], (5, 200))
    mixture, members = jax.jit(lambda z: (cross_entropy(mixture_logits(z), labels), cross_entropy(z, repeated)))(logits)
    mixture, members = np.asarray(mixture), np.asarray(members)
    assert np.isfinite(mixture).all()
    assert (mixture <= members.mean(0) * (1 + 1e-6) + 1e-6).all()
    assert (mixture >= members.min(0) - 1e-5).all(), "and no less than the best one's"


def test_4_2_wrapped_learners_keep_the_contract_and_resume(tmp_path):
    """All of them, one around the other; `tests/test_contract.py` has an ensemble of networks."""
    learner = ema(ensemble(swa(follower(), 2, 2), 2), 0.5)
    check_learner(learner, SEQUENCE, steps=2)
    config = FitConfig(every=1, parallel=None)
    whole = fit(learner, SEQUENCE, 4, KEY, config=config, evaluation=())
    fit(learner, SEQUENCE, 3, KEY, config=config, out=tmp_path)
    resumed = fit(learner, SEQUENCE, 4, KEY, config=config, out=tmp_path, resume=True)
    jax.tree.map(np.testing.assert_array_equal, whole.state, resumed.state)
    # The mean of the iterates 2 and 4, newest before that: 1st, 2nd, 2nd, (2nd + 4th)/2, weighed by 1, 2, 4, 8.
    first, second, _, fourth = VALUES[:4]
    np.testing.assert_allclose(whole.evaluations["w"][-1], (first + 2 * second + 4 * second + 4 * (second + fourth)) / 15, rtol=1e-5)
    np.testing.assert_allclose(whole.params["w"], whole.evaluations["w"][-1], rtol=1e-6)


def test_4_2_accumulation_by_optax_is_one_step_on_the_whole_batch():
    batch = {"x": jnp.asarray(RNG.normal(size=(32, 3)), jnp.float32), "y": jnp.asarray(RNG.normal(size=32), jnp.float32)}
    line = (lambda key, x: {"w": jnp.ones(x.shape[-1])}, lambda params, x: x @ params["w"])
    whole, parts = supervised(line, squared_error, optax.sgd(0.1)), supervised(line, squared_error, optax.MultiSteps(optax.sgd(0.1), 4))
    expected, _ = whole.step(KEY, whole.init(KEY, batch), batch)
    state = parts.init(KEY, batch)
    for start in range(0, 32, 8):
        state, _ = parts.step(KEY, state, {name: leaf[start : start + 8] for name, leaf in batch.items()})
    np.testing.assert_allclose(state.params["w"], expected.params["w"], rtol=1e-5)


def computing(params):
    return Learner(lambda key, batch: {"params": jnp.ones(2)}, lambda key, state, batch: (state, {}), params=params)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ema(follower(), 1.0), ValueError, r"ema: decay must be in \[0, 1\), got 1.0"),
        (lambda: swa(follower(), 0), ValueError, "swa: start must be >= 1, got 0"),
        (lambda: swa(follower(), 1, 0), ValueError, "swa: every must be >= 1, got 0"),
        (lambda: ensemble(follower(), 0), ValueError, "ensemble: num must be >= 1, got 0"),
        (lambda: ensemble(classifier(), 2, combine={"prediction": jnp.mean}), ValueError, r"combine names 'prediction', but .* \['predict'\]"),
        (lambda: ema(computing(lambda state: 2 * state["params"])).init(KEY, ()), ValueError, r"ema: the learner's params\(state\) must select"),
        (lambda: swa(computing(lambda state: jnp.ones(2)), 1).init(KEY, ()), ValueError, r"swa: the learner's params\(state\) must select"),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_ensemble_refuses_to_average_what_are_no_numbers():
    learner = computing(lambda state: state["params"])._replace(functions={"act": lambda key, params: jnp.argmax(params)})
    with pytest.raises(TypeError, match=r"ensemble: the mean of 'act' means nothing for int32; say how members become one with combine={'act': ...}"):
        ensemble(learner, 2).functions["act"](KEY, jnp.ones((2, 2)))
    assert ensemble(learner, 2, combine={"act": lambda actions: actions}).functions["act"](KEY, jnp.ones((2, 2))).shape == (2,)
