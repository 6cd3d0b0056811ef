"""Attention: equal to linen's and torch's in float64, forwards and backwards, and causal."""

import inspect
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from jax import lax

from dljax.nn.attention import _has_flash_attention, attention, attention_weights, causal_mask
from dljax.nn.product import row_product
from dljax.nn.transformer import Attention, TransformerConfig


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def some_heads(seed=0, batch=2, length=5, read=7, heads=3, size=4):
    keys = jax.random.split(jax.random.key(seed), 3)
    shapes = [(batch, length, heads, size), (batch, read, heads, size), (batch, read, heads, size)]
    return [jax.random.normal(key, shape, jnp.float64) for key, shape in zip(keys, shapes, strict=True)]


def value_and_grads(function, *arguments):
    """The function's outputs, and the gradients of an arbitrary weighting of them."""
    outputs, pull = jax.vjp(function, *arguments)
    return outputs, pull(jnp.cos(jnp.arange(outputs.size, dtype=float)).astype(outputs.dtype).reshape(outputs.shape))


@pytest.mark.parametrize("is_masked", [False, True])
def test_attention_and_its_gradients_equal_linens_in_float64(is_masked):
    q, k, v = some_heads()
    mask = jax.random.bernoulli(jax.random.key(1), 0.6, (2, 1, 5, 7)).at[..., 0].set(True) if is_masked else None
    ours = value_and_grads(lambda *x: attention(*x, mask), q, k, v)
    theirs = value_and_grads(lambda *x: linen.dot_product_attention(*x, mask=mask), q, k, v)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12), ours, theirs)


def test_attention_equals_torch_in_float64():
    torch = pytest.importorskip("torch")
    q, k, v = some_heads(length=6, read=6)
    mask = causal_mask(6)
    as_torch = [torch.tensor(np.array(jnp.swapaxes(x, 1, 2)), requires_grad=True) for x in (q, k, v)]
    theirs = torch.nn.functional.scaled_dot_product_attention(*as_torch, is_causal=True).transpose(1, 2)
    ours, grads = value_and_grads(lambda *x: attention(*x, mask), q, k, v)
    theirs.backward(torch.cos(torch.arange(theirs.numel(), dtype=torch.float64)).reshape(theirs.shape))
    np.testing.assert_allclose(ours, theirs.detach(), rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(grads, as_torch, strict=True):
        np.testing.assert_allclose(ours, theirs.grad.transpose(1, 2), rtol=1e-12, atol=1e-12)


def half_heads(**options):
    """Half-precision heads, and the einsum's outputs and gradients of their values in float32, causal."""
    halves = [x.astype(jnp.bfloat16) for x in some_heads(**options)]
    floats = [x.astype(jnp.float32) for x in halves]
    return halves, value_and_grads(lambda *x: attention(*x, is_causal=True), *floats)


def assert_close_in_half_precision(ours, theirs):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a.astype(jnp.float32), b, rtol=0.05, atol=0.03), ours, theirs)


def test_heads_reach_the_flash_kernel_as_they_should(monkeypatch):
    fused, asked = jax.nn.dot_product_attention, []

    def stand_in(*heads, implementation, **options):
        asked.append((implementation, options["is_causal"], heads[0].shape))
        return fused(*heads, implementation="xla", **options)

    monkeypatch.setattr(sys.modules["dljax.nn.attention"], "_has_flash_attention", lambda: True)
    monkeypatch.setattr(jax.nn, "dot_product_attention", stand_in)
    halves, expected = half_heads(length=6, read=6, size=8)
    assert_close_in_half_precision(value_and_grads(lambda *x: attention(*x, is_causal=True), *halves), expected)
    assert asked == [("cudnn", True, (2, 6, 3, 8))]
    unfit = half_heads(length=6, read=6, size=4)[0]
    for heads in ((*halves, causal_mask(6)), unfit, some_heads(size=8)):
        attention(*heads)
    assert len(asked) == 1  # nothing that the kernel does not do
    layer, x = Attention(TransformerConfig(2, is_causal=True, attention_dropout_rate=0.5)), jnp.ones((3, 5, 16), jnp.bfloat16)
    variables = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), layer.init(jax.random.key(0), x))
    del asked[1:]
    layer.apply(variables, x, mutable=["intermediates"])
    layer.apply(variables, x, train=True, rngs={"dropout": jax.random.key(1)})
    assert len(asked) == 1  # asked for the weights, or dropping some, the layer computes them
    layer.apply(variables, x)
    assert asked[1:] == [("cudnn", True, (3, 5, 2, 8))]


@pytest.mark.gpu
@pytest.mark.parametrize("length", [64, 1000])
def test_flash_attention_equals_the_plain_products(length):
    if not _has_flash_attention():
        pytest.skip("no GPU with flash attention")
    halves, expected = half_heads(length=length, read=length, size=64)
    flash = jax.jit(lambda *x: value_and_grads(lambda *x: attention(*x, is_causal=True), *x))
    assert "cudnn" in flash.lower(*halves).compile().as_text()
    assert_close_in_half_precision(flash(*halves), expected)


def test_self_attention_equals_linens_with_the_same_weights():
    x = jax.random.normal(jax.random.key(0), (2, 5, 12), jnp.float64)
    ours, theirs = Attention(TransformerConfig(3, is_causal=True)), linen.MultiHeadDotProductAttention(num_heads=3, param_dtype=jnp.float64)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64) + 0.1, ours.init(jax.random.key(1), x)["params"])

    def as_linens(params):
        projections = {
            name: {"kernel": params[name]["kernel"].reshape(12, 3, 4), "bias": params[name]["bias"].reshape(3, 4)}
            for name in ("query", "key", "value")
        }
        return {**projections, "out": {"kernel": params["out"]["kernel"].reshape(3, 4, 12), "bias": params["out"]["bias"]}}

    one = value_and_grads(lambda params, x: ours.apply({"params": params}, x)[0], params, x)
    other = value_and_grads(lambda params, x: theirs.apply({"params": as_linens(params)}, x, mask=causal_mask(5)), params, x)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12), one, other)


@pytest.mark.parametrize("is_causal", [False, True])
def test_self_attention_reads_the_future_only_where_it_may(is_causal):
    x = jax.random.normal(jax.random.key(0), (1, 6, 8), jnp.float64)
    layer = Attention(TransformerConfig(2, is_causal=is_causal))
    variables = layer.init(jax.random.key(1), x)
    influence = jnp.abs(jax.jacobian(lambda x: layer.apply(variables, x)[0][0])(x)).sum((1, 2, 4))
    reads = np.tril(np.ones((6, 6), bool)) if is_causal else np.ones((6, 6), bool)
    np.testing.assert_array_equal(influence > 0, reads)


def test_dropout_drops_weights_in_training_only():
    x = jax.random.normal(jax.random.key(0), (3, 6, 8), jnp.float64)
    layer = Attention(TransformerConfig(2, is_causal=True, attention_dropout_rate=0.5))
    variables = layer.init(jax.random.key(1), x)
    calm = layer.apply(variables, x)[0]
    many = jax.jit(jax.vmap(lambda key: layer.apply(variables, x, train=True, rngs={"dropout": key})[0]))(jax.random.split(jax.random.key(2), 2000))
    assert not np.allclose(many[0], many[1])
    np.testing.assert_allclose(many.mean(0), calm, atol=5 * float(many.std(0).max()) / 2000**0.5)


def test_weights_are_distributions_that_leave_out_what_is_masked():
    q, k, _ = some_heads()
    mask = jax.random.bernoulli(jax.random.key(1), 0.5, (5, 7)).at[:, 3].set(True)
    weights = attention_weights(q, k, mask)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-12)
    np.testing.assert_array_equal(np.broadcast_to(mask, weights.shape), weights > 0)


def test_weights_of_a_position_that_may_read_nothing_are_alike():
    q, k, _ = some_heads()
    np.testing.assert_allclose(attention_weights(q, k, jnp.zeros((5, 7), bool)), 1 / 7)


def test_weights_do_not_overflow():
    q, k, _ = some_heads()
    weights, grads = value_and_grads(lambda q, k: attention_weights(q, k), jnp.float32(1e4) * q.astype(jnp.float32), k.astype(jnp.float32))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((weights, grads)))


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
def test_row_product_and_its_gradients_equal_a_plain_product(batch):
    x = jax.random.normal(jax.random.key(0), (*batch, 5), jnp.float64)
    kernel = jax.random.normal(jax.random.key(1), (5, 3), jnp.float64)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12),
        value_and_grads(row_product, x, kernel),
        value_and_grads(lambda x, kernel: jnp.einsum("...d,df->...f", x, kernel), x, kernel),
    )


def test_row_product_may_be_differentiated_forwards_and_twice():
    x, kernel = jax.random.normal(jax.random.key(0), (2, 3, 5), jnp.float64), jnp.ones((5, 2))
    _, tangent = jax.jvp(lambda x: row_product(x, kernel), (x,), (x,))
    np.testing.assert_allclose(tangent, row_product(x, kernel), rtol=1e-12)
    assert jax.hessian(lambda kernel: (row_product(x, kernel) ** 2).sum())(kernel).shape == (5, 2, 5, 2)


def test_products_of_a_gradient_are_of_matrices():
    """What makes it fast: no product of the training step has two contracted or any batch axes."""

    def loss(kernel, x):
        return (row_product(x, kernel) ** 2).sum()

    jaxpr = str(jax.make_jaxpr(jax.grad(loss, (0, 1)))(jnp.ones((5, 3)), jnp.ones((2, 4, 5))))
    assert jaxpr.count("dot_general") == 3
    assert "dimension_numbers=(([0, 1]" not in jaxpr


def test_queries_and_keys_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="same batch and size, and the key.s heads must divide"):
        inspect.unwrap(attention_weights)(jnp.ones((5, 2, 4)), jnp.ones((5, 2, 3)))  # without the suite's checks of shapes, as users call it


@pytest.mark.parametrize("axes", [((0,), (1,)), ((1, 2), (0, 1)), ((2,), (0,)), ((1,), (0,))], ids=str)
def test_row_product_and_its_gradients_equal_those_of_dot_general(axes):
    x, kernel = (jax.random.normal(jax.random.key(seed), (3, 3, 3)) for seed in (0, 1))
    numbers = (axes, ((), ()))
    ours, pull = jax.vjp(lambda x, kernel: row_product(x, kernel, numbers, lax.Precision.HIGHEST), x, kernel)
    theirs, their_pull = jax.vjp(lambda x, kernel: lax.dot_general(x, kernel, numbers, lax.Precision.HIGHEST), x, kernel)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), (ours, *pull(theirs)), (theirs, *their_pull(theirs)))


def test_row_product_refuses_sizes_that_do_not_match():
    with pytest.raises(ValueError, match="as many rows as x has columns"):
        inspect.unwrap(row_product)(jnp.ones((2, 3)), jnp.ones((2, 3)))
