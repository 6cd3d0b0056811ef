"""`check_learner` says in words what is wrong with a learner, and nothing of one that is right."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dljax.core import EMPTY, Learner
from dljax.core.check_learner import ContractError, check_learner

SCALES: list = []


def init(key, batch):
    return {"params": jax.random.normal(key, (3,)), "count": jnp.zeros((), jnp.int32)}


def step(key, state, batch):
    noise = jax.random.normal(key, (3,))
    return {"params": 0.9 * state["params"] + 0.1 * noise, "count": state["count"] + 1}, {"norm": jnp.linalg.norm(state["params"])}


def leaking(key, state, batch):
    SCALES.append(state["params"].sum())
    return step(key, state, batch)


def in_place(key, state, batch):
    state["more"] = state["params"]
    return {name: state[name] for name in ("params", "count")}, {}


def reusing(key, state, batch):
    return {**state, "params": jax.random.normal(key, (3,)) + jax.random.uniform(key, (3,))}, {}


def widening(key, state, batch):
    return {**state, "params": jnp.concatenate([state["params"], state["params"]])}, {}


def under_vmap(key, state, batch):
    @jax.custom_batching.custom_vmap
    def plus_one(x):
        return x + 1

    @plus_one.def_vmap
    def _(size, batched, x):
        return x + 2, batched[0]

    return {**state, "params": state["params"] + plus_one(jax.random.normal(key, (3,)))}, {}


def jit_only(key, state, batch):
    compiled = isinstance(state["params"], jax.core.Tracer)
    return {**state, "params": state["params"] + float(compiled)}, {}


def test_sound_learner_passes():
    assert check_learner(Learner(init, step)) is None


def test_rounding_that_adam_makes_large_is_no_finding():
    optimizer = optax.adam(0.1)

    def begin(key, batch):
        params = jax.random.normal(key, (8,))
        return {"params": params, "opt_state": optimizer.init(params)}

    def descend(key, state, batch):
        # The gradient is nothing but the rounding error of two ways to write one number: Adam makes a whole step of it.
        grads = jax.grad(lambda x: (jnp.sin(x) ** 2 + jnp.cos(x) ** 2).sum())(state["params"])
        updates, opt_state = optimizer.update(grads, state["opt_state"])
        return {"params": optax.apply_updates(state["params"], updates), "opt_state": opt_state}, {}

    check_learner(Learner(begin, descend))


@pytest.mark.parametrize(
    ("learner", "finding"),
    [
        (Learner(init, leaking), "step leaks a traced value to the outside"),
        (Learner(init, in_place), "step changes its arguments in place; return a new state instead"),
        (Learner(init, reusing), r"step uses a random key twice \(KeyReuseError: .*\); split it first"),
        (Learner(lambda key, batch: {**init(key, batch), "more": jax.random.normal(key)}, step), "init uses a random key twice"),
        (Learner(init, widening), r"state leaf 'params' is float32\[3\] before a step and float32\[6\] after it"),
        (Learner(init, lambda key, state, batch: (state, {"loss": state["params"]})), "metric 'loss' must be a scalar or a Mean of scalars"),
        (Learner(init, lambda key, state, batch: (state, 1.0)), "metrics must be a flat dict, got "),
        (Learner(init, lambda key, state, batch: (state, {"loss": float(state["params"][0])})), "step cannot be traced"),
        (Learner(lambda key, batch: {"params": "none"}, step), "the state must hold arrays only: params is a str|init fails"),
        (Learner(init, step, params=lambda state: state["weights"]), r"params\(state\) fails: KeyError"),
        (Learner(init, step, functions={"predict": 3}), r"functions\['predict'\] is a int, not a function"),
        (Learner(init, under_vmap), "a scan and vmap differ by .* in '0/params', more than rounding explains"),
        (Learner(init, jit_only), "no jit and jit differ by .* in '0/params'"),
    ],
    ids=lambda value: "" if isinstance(value, Learner) else value[:24],
)
def test_finding_is_said_in_words(learner, finding):
    with pytest.raises(ContractError, match=finding) as raised:
        check_learner(learner, steps=2)
    assert raised.value.findings
    SCALES.clear()


def test_source_that_draws_from_its_cursor_is_no_reuse_of_keys():
    def draw(data, cursor):
        key, batch_key = jax.random.split(cursor)
        return key, {"x": jax.random.normal(batch_key, (2,))}

    source = EMPTY._replace(init=lambda key: key, next=draw)
    check_learner(Learner(lambda key, batch: {"params": jnp.zeros(2)}, lambda key, state, batch: ({"params": batch["x"]}, {})), source)


def test_key_may_be_used_again_by_the_caller():
    key = jax.random.key(3)
    check_learner(Learner(init, step), key=key)
    np.testing.assert_array_equal(jax.random.key_data(key), [0, 3])
