"""Attention of Transformer-XL: the shift is the formula's index, and segments that remember read what one long text reads."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax.nn.positions import Rotary
from dljax.nn.relative_attention import RelativeAttention, SegmentMemory, relative_shift
from dljax.nn.transformer import Transformer, TransformerConfig

B, T, D, L = 2, 9, 8, 2


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def some(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def stack_and_variables(**options):
    stack = Transformer(TransformerConfig(2, is_causal=True, attention=RelativeAttention, **options), L, is_unrolled=False)
    shapes = jax.eval_shape(stack.init, jax.random.key(0), some(B, T, D))
    leaves, structure = jax.tree.flatten(shapes)
    return stack, jax.tree.unflatten(structure, [0.5 * some(*leaf.shape, seed=i) for i, leaf in enumerate(leaves)])


@pytest.mark.parametrize(("length", "read"), [(1, 1), (4, 4), (3, 8), (1, 6)])
def test_8_4_the_relative_shift_is_the_formulas_index(length, read):
    x = some(2, length, read)
    y = np.asarray(relative_shift(x))
    for t, s in itertools.product(range(length), range(read)):
        distance = t + read - length - s
        if distance >= 0:  # column j of x is distance read - 1 - j
            np.testing.assert_array_equal(y[:, t, s], x[:, t, read - 1 - distance])


@pytest.mark.parametrize(("norm_first", "window", "sizes"), [(False, None, (3, 3, 3)), (True, 4, (1,) * T)])
def test_8_4_segments_that_remember_all_that_a_text_may_read_have_its_values(norm_first, window, sizes):
    stack, variables = stack_and_variables(norm_first=norm_first, window=window, num_groups=1)
    x, memory = some(B, T, D), SegmentMemory.empty(num_layers=L, batch=B, size=T if window is None else window - 1, width=D, dtype=jnp.float64)
    whole = jax.jit(stack.apply)(variables, x)
    step, outputs = jax.jit(lambda x, memory: stack.apply(variables, x, cache=memory)), []
    for start, stop in itertools.pairwise((0, *itertools.accumulate(sizes))):
        y, memory = step(x[:, start:stop], memory)
        outputs.append(y)
    np.testing.assert_allclose(jnp.concatenate(outputs, 1), whole, atol=1e-12)


def test_8_4_no_gradient_flows_into_the_memory_or_out_of_it():
    stack, variables = stack_and_variables()
    memory = SegmentMemory(some(B, L, 3, D), jnp.array([3, 2]))

    @partial(jax.jit, static_argnums=2)
    def slope(x, states, is_output):
        def total(x, states):
            y, after = stack.apply(variables, x, cache=memory._replace(states=states))
            return jnp.sin(y if is_output else after.states).sum()

        return jax.grad(total, (0, 1))(x, states)

    x = some(B, T, D)
    (into_x, into_states), (back, kept) = slope(x, memory.states, True), slope(x, memory.states, False)
    np.testing.assert_array_equal(into_states, 0)
    np.testing.assert_array_equal(back, 0)
    assert jnp.abs(into_x).min() > 0
    assert jnp.abs(kept).max() == 0


def test_weights_are_sown_and_leave_out_what_is_not_remembered():
    stack, variables = stack_and_variables()
    memory = SegmentMemory(some(B, L, 3, D), jnp.array([3, 1]))
    _, sown = jax.jit(lambda x: stack.apply(variables, x, cache=memory, mutable=["intermediates"]))(some(B, 4, D))
    (weights,) = sown["intermediates"]["layers"]["attention"]["attention"]
    np.testing.assert_allclose(weights.sum(-1), 1)
    np.testing.assert_array_equal(weights > 0, jnp.broadcast_to(memory.mask(4), weights.shape))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"is_causal": False}, "needs is_causal=True and rotary=None, got is_causal=False"), ({"rotary": Rotary()}, r"and rotary=Rotary\(base")],
)
def test_settings_that_relative_attention_does_not_have_are_refused(options, message):
    config = TransformerConfig(**{"num_heads": 2, "is_causal": True, "attention": RelativeAttention, **options})
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: RelativeAttention(config).init(jax.random.key(0), some(B, T, D)))


def test_a_memory_of_no_size_is_refused():
    with pytest.raises(ValueError, match="SegmentMemory: size must be >= 0, got -1"):
        SegmentMemory.empty(num_layers=L, batch=B, size=-1, width=D)
