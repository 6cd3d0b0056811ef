"""Precision policies: parameters and outputs stay float32, the work in between is done in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax.core import precision

KEY = jax.random.key(0)
PARAMS = {"w": jax.random.normal(KEY, (8, 4)), "b": jnp.zeros(4), "n": jnp.int32(3)}
X = jax.random.normal(jax.random.fold_in(KEY, 1), (5, 8))


def model(params, x, scale=1.0):
    model.dtypes.append((params["w"].dtype, x.dtype, params["n"].dtype))
    return {"y": scale * (x @ params["w"] + params["b"][None, :]), "n": params["n"]}


model.dtypes = []
forward = precision.wrap(model)


def test_computation_is_in_bfloat16_and_the_outputs_are_float32():
    with precision.use("bfloat16"):
        outputs = forward(PARAMS, X)
    assert model.dtypes[-1] == (jnp.bfloat16, jnp.bfloat16, jnp.int32)
    assert outputs["y"].dtype == jnp.float32
    assert outputs["n"].dtype == jnp.int32
    exact = model(PARAMS, X)["y"]
    assert float(jnp.abs(outputs["y"] - exact).max()) > 0
    np.testing.assert_allclose(outputs["y"], exact, atol=0.1)


def test_gradient_is_float32_and_close_to_the_exact_one():
    def loss(params, apply):
        return (apply({**params, "n": PARAMS["n"]}, X)["y"] ** 2).mean()

    params = {"w": PARAMS["w"], "b": PARAMS["b"]}
    exact = jax.grad(loss)(params, model)
    with precision.use("bfloat16"):
        rounded = jax.grad(loss)(params, forward)
    assert {leaf.dtype for leaf in jax.tree.leaves(rounded)} == {jnp.dtype("float32")}
    for name in params:
        np.testing.assert_allclose(rounded[name], exact[name], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("policy", [None, "float32"])
def test_without_a_half_precision_policy_dtypes_are_left_alone(policy):
    with precision.use(policy):
        assert forward(PARAMS, X)["y"].dtype == jnp.float32
    assert model.dtypes[-1][:2] == (jnp.float32, jnp.float32)
    with jax.enable_x64(True), precision.use(policy):
        assert forward({**PARAMS, "w": jnp.float64(PARAMS["w"])}, X)["y"].dtype == jnp.float64


def test_own_policy_says_what_is_computed_and_what_comes_out():
    with precision.use(precision.Policy(jnp.float32, jnp.float16, jnp.float16)):
        outputs = forward(PARAMS, X)
    assert model.dtypes[-1][0] == jnp.float16
    assert outputs["y"].dtype == jnp.float16


def test_policy_ends_with_its_block_also_after_an_error():
    with pytest.raises(RuntimeError), precision.use("bfloat16"):
        raise RuntimeError
    forward(PARAMS, X)
    assert model.dtypes[-1][0] == jnp.float32


def test_function_jitted_inside_a_step_is_traced_again_under_another_policy():
    jitted = jax.jit(lambda params, x: forward(params, x)["y"])
    exact = jitted(PARAMS, X)
    with precision.use("bfloat16"):
        rounded = jitted(PARAMS, X)
    assert float(jnp.abs(exact - rounded).max()) > 1e-4
    np.testing.assert_array_equal(jitted(PARAMS, X), exact)


def test_keyword_arguments_and_plain_numbers_pass():
    with precision.use("bfloat16"):
        np.testing.assert_allclose(forward(PARAMS, X, scale=2.0)["y"], 2 * model(PARAMS, X)["y"], atol=0.2)


def test_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="precision: policy must be one of 'float32', 'bfloat16', got 'fp8'"), precision.use("fp8"):
        pass
