"""Linear attention: the formula written densely, whatever the chunk; a recurrence with a state of one size; memory that grows with the length."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dljax.nn.attention import attention
from dljax.nn.linear_attention import causal_linear_attention, elu_features, linear_attention, linear_attention_weights
from dljax.nn.positions import Rotary

B, T, H, G, D, F = 2, 7, 4, 2, 3, 5
LENGTHS = np.array([7, 4])
MASK = jnp.arange(T)[None] < jnp.array(LENGTHS)[:, None]


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def some(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def inputs(length=T):
    return some(B, length, H, D), some(B, length, G, D, seed=1), some(B, length, G, F, seed=2)


def dense(query, key, value, mask, is_causal, features=lambda x: jax.nn.elu(x) + 1):
    """The square of weights, a head at a time."""
    heads = []
    for head in range(H):
        group = head * G // H
        weights = features(query[:, :, head]) @ jnp.swapaxes(features(key[:, :, group]), 1, 2) * mask[:, None]
        weights = jnp.tril(weights) if is_causal else weights
        heads.append(weights @ value[:, :, group] / weights.sum(-1, keepdims=True))
    return jnp.stack(heads, 2)


def values_and_gradients(function, *arguments):
    def total(*arguments):
        y = function(*arguments)
        return jnp.sin(y).sum(), y

    (_, y), grads = jax.value_and_grad(total, (0, 1, 2), has_aux=True)(*arguments)
    return y, grads


@pytest.mark.parametrize("is_causal", [False, True])
def test_8_4_linear_attention_and_its_gradients_equal_the_square_of_weights_for_every_chunk(float64, is_causal):
    chunks = (1, 2, 3, 64) if is_causal else (64,)

    @jax.jit
    def run(*arguments):
        options = {"mask": MASK, "is_causal": is_causal}
        found = [values_and_gradients(partial(linear_attention, chunk=chunk, **options), *arguments) for chunk in chunks]
        return found, values_and_gradients(partial(dense, **options), *arguments)

    found, expected = run(*inputs())
    for chunk, one in zip(chunks, found, strict=True):
        jax.tree.map(lambda a, b, chunk=chunk: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11, err_msg=f"chunk {chunk}"), one, expected)


def test_8_4_causal_linear_attention_and_its_gradients_equal_torchs_running_sums(float64):
    torch = pytest.importorskip("torch")
    q, k, v = (torch.tensor(np.asarray(x), requires_grad=True) for x in inputs())
    features_q, features_k = (torch.nn.functional.elu(x) + 1 for x in (q, k.repeat_interleave(H // G, 2)))
    moments = torch.einsum("bthe,bthf->bthef", features_k, v.repeat_interleave(H // G, 2)).cumsum(1)
    y = torch.einsum("bthe,bthef->bthf", features_q, moments) / torch.einsum("bthe,bthe->bth", features_q, features_k.cumsum(1))[..., None]
    y.sin().sum().backward()
    found, grads = jax.jit(partial(values_and_gradients, partial(linear_attention, is_causal=True, chunk=3)))(*inputs())
    np.testing.assert_allclose(found, y.detach(), rtol=1e-9)
    for grad, x in zip(grads, (q, k, v), strict=True):
        np.testing.assert_allclose(grad, x.grad, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("sizes", [(1,) * T, (3, 4)])
def test_8_4_a_recurrence_with_a_state_of_one_size_reads_what_is_read_at_once(float64, sizes):
    def read(*arguments):
        return causal_linear_attention(*arguments, chunk=2)

    expected, final = jax.jit(read)(*inputs(), MASK)
    step = jax.jit(lambda state, *arguments: causal_linear_attention(*arguments, state=state, chunk=2))
    state, outputs = jax.tree.map(jnp.zeros_like, final), []
    for start, stop in itertools.pairwise((0, *itertools.accumulate(sizes))):
        y, state = step(state, *(x[:, start:stop] for x in (*inputs(), MASK)))
        outputs.append(y)
        assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, final)
    np.testing.assert_allclose(jnp.concatenate(outputs, 1), expected, rtol=1e-11)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-11), state, final)


@pytest.mark.parametrize("is_causal", [False, True])
def test_8_4_features_with_another_inner_product_and_rotary_positions_above_the_fraction(float64, is_causal):
    """RoFormer's equation 19, with the squares as features, and positions that may begin anywhere."""
    query, key, value = inputs()
    rotary, places = Rotary(size=2), jnp.arange(T)

    def features(x):
        return jnp.concatenate([jnp.square(x), jnp.ones_like(x[..., :1])], -1)

    def matrix(place):
        turn = jnp.eye(D + 1)
        cos, sin = jnp.cos(place), jnp.sin(place)
        return turn.at[:2, :2].set(jnp.array([[cos, -sin], [sin, cos]]))

    turns = jax.vmap(matrix)(places.astype(float))
    above = jnp.einsum("bthe,tde,sdf,bshf->bhts", features(query), turns, turns, features(key.repeat(H // G, 2)))
    below = jnp.einsum("bthe,bshe->bhts", features(query), features(key.repeat(H // G, 2)))
    allowed = (jnp.tril(jnp.ones((T, T))) if is_causal else jnp.ones((T, T)))[None, None]
    weights = above * allowed / (below * allowed).sum(-1, keepdims=True)

    @jax.jit
    def run(first):
        positions = jnp.broadcast_to(first + places, (B, T))
        options = {"feature_map": features, "turn": lambda x: rotary(x, positions), "is_causal": is_causal}
        return linear_attention(query, key, value, chunk=4, **options), linear_attention_weights(query, key, **options)

    for first in (0, 40):
        # Rotary angles are computed in float32.
        y, found = run(first)
        np.testing.assert_allclose(found, weights, atol=1e-5)
        np.testing.assert_allclose(y, jnp.einsum("bhts,bshf->bthf", weights, value.repeat(H // G, 2)), atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(mask=st.lists(st.booleans(), min_size=T, max_size=T), junk=st.sampled_from([np.nan, np.inf, 1e30]), rows=st.permutations(range(3)))
def test_8_4_what_may_not_be_read_changes_nothing_and_rows_are_apart(mask, junk, rows):
    mask, rows = jnp.array([mask, [True] * T, [False] * T]), jnp.array(rows)
    query, key, value = (jnp.tile(x[:1], (3, 1, 1, 1)).astype(jnp.float32) for x in inputs())
    value = value * jnp.arange(1.0, 4.0)[:, None, None, None]
    spoilt = [jnp.where(mask[..., None, None], x, junk) for x in (key, value)]
    for is_causal in (False, True):
        y = READ[is_causal](query, key, value, mask)
        np.testing.assert_array_equal(READ[is_causal](query, *spoilt, mask), y)
        np.testing.assert_array_equal(READ[is_causal](query[rows], key[rows], value[rows], mask[rows]), y[rows])
        assert bool(jnp.isfinite(y).all())
        np.testing.assert_array_equal(y[2], 0)


READ = {is_causal: jax.jit(partial(linear_attention, is_causal=is_causal, chunk=3)) for is_causal in (False, True)}


def test_8_4_memory_grows_with_the_length_where_that_of_softmax_attention_grows_with_its_square():
    def temporary(function, length):
        x = jax.ShapeDtypeStruct((1, length, 1, 8), jnp.float32)
        program = jax.jit(jax.grad(lambda *x: jnp.sin(function(*x, is_causal=True)).sum(), (0, 1, 2))).lower(x, x, x).compile()
        return program.memory_analysis().temp_size_in_bytes

    linear, softmax = ([temporary(function, length) for length in (512, 1024)] for function in (linear_attention, attention))
    assert linear[1] < 2.2 * linear[0]
    assert softmax[1] > 3.6 * softmax[0]
    assert linear[1] < softmax[1] / 4


def test_features_are_elus_and_their_digits_and_slopes_do_not_fail_where_they_are_small(float64):
    x = jnp.array([-80.0, -30.0, -1.0, 0.0, 1e-9, 2.0, 1e4])
    np.testing.assert_allclose(elu_features(x), jax.nn.elu(x) + 1, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(elu_features(x.astype(jnp.float32)), elu_features(x), rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(jax.grad(elu_features))(x), jnp.where(x > 0, 1, jnp.exp(jnp.minimum(x, 0))), rtol=1e-12)


def test_extreme_inputs_have_finite_values_and_gradients_and_sums_keep_their_digits_in_bfloat16():
    empty = jnp.zeros((B, T), bool).at[1, 3].set(True)
    run = jax.jit(partial(values_and_gradients, partial(linear_attention, mask=empty, is_causal=True)))
    large = [np.float32(1e4) * np.asarray(x, np.float32) for x in inputs()]
    for arguments in (large, [np.full_like(x, -1e4) for x in large]):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run(*arguments)))
    y, state = jax.jit(causal_linear_attention)(*[jnp.ones((1, 1000, 1, 2), jnp.bfloat16)] * 3)
    assert (y.dtype, state.total.dtype) == (jnp.bfloat16, jnp.float32)
    # Counted in bfloat16, the sum would stop at 512.
    np.testing.assert_array_equal(state.total, 2000)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": jnp.ones((B, T, 3, D))}, r"the same heads, which must divide the query's, got \(2, 7, 3, 3\)"),
        ({"key": jnp.ones((B, T, G, D + 1))}, "query and key the same size"),
        ({"value": jnp.ones((B, T + 1, G, F))}, "query, key and value must have the same batch"),
        ({"mask": jnp.ones((B, 1, T), bool)}, r"mask must say which keys may be read, \(2, 7\), got \(2, 1, 7\)"),
        ({"query": jnp.ones((B, T + 1, H, D)), "is_causal": True}, "is_causal needs as many queries as keys, got 8 and 7"),
        ({"chunk": 0, "is_causal": True}, "chunk must be >= 1, got 0"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    query, key, value = inputs()
    with pytest.raises(ValueError, match=message):
        linear_attention(**{"query": query, "key": key, "value": value, **changes})
