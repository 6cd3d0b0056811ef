"""The stack of Transformer layers: equal to torch's, and its cache, scan and rematerialisation change nothing."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from dljax.nn.linear_attention_layer import LinearAttention
from dljax.nn.normalisation import norm_layer
from dljax.nn.positions import Rotary
from dljax.nn.transformer import Attention, Transformer, TransformerConfig, TransformerLayer

SETTINGS = {
    "llama": TransformerConfig(4, num_groups=2, is_causal=True, is_gated=True, norm="rms", use_bias=False, rotary=Rotary(), activation=jax.nn.silu),
    "alibi, window": TransformerConfig(4, is_causal=True, has_alibi=True, window=3, hidden=10, norm_first=False),
    "one group, large heads": TransformerConfig(4, num_groups=1, head_size=6, is_causal=True, rotary=Rotary(size=4), scale=1.0),
    "linear": TransformerConfig(4, num_groups=2, head_size=4, is_causal=True, rotary=Rotary(), attention=partial(LinearAttention, chunk=3)),
}
WIDTH, LAYERS, BATCH, LENGTH = 8, 2, 3, 7


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def some(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape, jnp.float64)


def started(stack, *arguments, **options):
    """Variables in float64, none of them zero."""
    variables = jax.jit(lambda key: stack.init(key, *arguments, **options))(jax.random.key(1))
    leaves, structure = jax.tree.flatten(variables)
    return jax.tree.unflatten(structure, [leaf.astype(jnp.float64) + 0.1 * some(*leaf.shape, seed=i) for i, leaf in enumerate(leaves)])


def empty(config, size, start=None):
    attention = (config.attention or Attention)(config)
    return attention.empty_cache(width=WIDTH, num_layers=LAYERS, batch=BATCH, size=size, start=start, dtype=jnp.float64)


@pytest.mark.parametrize("name", SETTINGS)
def test_8_2_decoding_with_a_cache_equals_decoding_without_with_padding_on_the_left(name):
    stack, x = Transformer(SETTINGS[name], LAYERS), some(BATCH, LENGTH, WIDTH)
    variables, start = started(stack, x), jnp.array([0, 2, 1])

    @jax.jit
    def more(x, cache):
        return stack.apply(variables, x, cache=cache)

    def cached(x, start):
        first, cache = more(x[:, :4], empty(SETTINGS[name], 9, start))
        outputs = [first]
        for t in range(4, LENGTH):
            y, cache = more(x[:, t : t + 1], cache)
            outputs.append(y)
        return jnp.concatenate(outputs, 1)

    whole = jax.jit(stack.apply)(variables, x)
    np.testing.assert_allclose(cached(x, jnp.zeros(BATCH, int)), whole, atol=1e-12)
    shifted = cached(jnp.stack([jnp.roll(row, shift, 0) for row, shift in zip(x, start, strict=True)]), start)
    for row, shift in enumerate(start):
        np.testing.assert_allclose(shifted[row, shift:], whole[row, : LENGTH - shift], atol=1e-12)


@pytest.mark.parametrize("name", ["llama", "alibi, window"])
def test_a_rolled_scan_and_rematerialisation_change_neither_values_nor_gradients(name):
    stack, x = Transformer(SETTINGS[name], LAYERS), some(BATCH, LENGTH, WIDTH)
    variables, weights = started(stack, x), some(BATCH, LENGTH, WIDTH, seed=5)

    def value_and_grad(stack):
        return jax.jit(jax.value_and_grad(lambda variables: (stack.apply(variables, x) * weights).sum()))(variables)

    expected = value_and_grad(stack)
    others = [stack.clone(is_unrolled=False), stack.clone(remat="full"), stack.clone(is_unrolled=False, remat="dots_saveable")]
    for other in others[: 3 if name == "llama" else 1]:
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10), value_and_grad(other), expected)


def test_a_cache_remembers_the_memory():
    config = TransformerConfig(2, is_causal=True, has_memory=True, num_groups=1)
    stack, x, memory = Transformer(config, LAYERS), some(BATCH, LENGTH, WIDTH), some(BATCH, 5, 6, seed=3)
    mask = jnp.arange(5)[None] < jnp.array([5, 2, 3])[:, None]
    variables = started(stack, x, memory=memory, memory_mask=mask)
    apply = jax.jit(stack.apply)
    whole = apply(variables, x, memory=memory, memory_mask=mask)
    y, cache = apply(variables, x[:, :3], memory=memory, memory_mask=mask, cache=empty(config, 8))
    z, later = apply(variables, x[:, 3:], cache=cache)
    np.testing.assert_allclose(jnp.concatenate([y, z], 1), whole, atol=1e-12)
    assert jax.tree.structure(cache) == jax.tree.structure(later)
    changed = apply(variables, x, memory=jnp.where(mask[..., None], memory, 1e3), memory_mask=mask)
    np.testing.assert_allclose(changed, whole, atol=1e-12)


def test_8_4_layers_with_a_window_reach_as_far_as_their_number_times_what_lies_before_a_position_in_it():
    window, layers, length = 3, 2, 8
    stack, x = Transformer(TransformerConfig(2, is_causal=True, window=window), layers, is_unrolled=False), some(1, length, 4)
    variables = started(stack, x)
    slopes = jax.jit(jax.jacrev(lambda x: stack.apply(variables, x[None])[0]))(x[0])
    distance = np.arange(length)[:, None] - np.arange(length)
    np.testing.assert_array_equal(np.abs(slopes).max((1, 3)) > 0, (distance >= 0) & (distance <= layers * (window - 1)))


def test_8_4_a_state_of_linear_attention_is_as_large_whatever_has_been_read():
    one, other = (sum(leaf.nbytes for leaf in jax.tree.leaves(empty(SETTINGS["linear"], size))) for size in (10, 1_000_000))
    assert one == other
    softmax = [sum(leaf.nbytes for leaf in jax.tree.leaves(empty(SETTINGS["llama"], size))) for size in (10, 1000)]
    assert softmax[1] > 90 * softmax[0]


def test_shared_layers_are_one_layer_applied_again_and_again():
    config = TransformerConfig(2, norm_first=False)
    stack, x = Transformer(config, 3, is_shared=True), some(BATCH, LENGTH, WIDTH)
    variables = started(stack, x)
    once = Transformer(config, 1, is_shared=True)
    np.testing.assert_allclose(stack.apply(variables, x), once.apply(variables, once.apply(variables, once.apply(variables, x))), atol=1e-12)


@pytest.mark.parametrize(("norm_first", "activation"), [(True, "relu"), (False, "gelu")])
def test_8_3_layers_and_their_gradients_equal_torchs(norm_first, activation):
    torch = pytest.importorskip("torch")
    heads, hidden = 2, 12
    function = {"relu": jax.nn.relu, "gelu": partial(jax.nn.gelu, approximate=False)}[activation]
    config = TransformerConfig(heads, hidden=hidden, activation=function, norm_first=norm_first, has_memory=True, is_causal=True)
    ours, x, memory = TransformerLayer(config), some(BATCH, LENGTH, WIDTH), some(BATCH, 5, WIDTH, seed=3)
    variables = started(ours, x, memory=memory)
    layer = torch.nn.TransformerDecoderLayer(WIDTH, heads, hidden, 0.0, activation, batch_first=True, norm_first=norm_first, dtype=torch.float64)
    params = variables["params"]
    names = {"self_attn": "attention", "multihead_attn": "memory"}
    state = {}
    for theirs, part in names.items():
        parts = [params[part][name] for name in ("query", "key", "value")]
        state[f"{theirs}.in_proj_weight"] = jnp.concatenate([p["kernel"].T for p in parts])
        state[f"{theirs}.in_proj_bias"] = jnp.concatenate([p["bias"] for p in parts])
        state[f"{theirs}.out_proj.weight"], state[f"{theirs}.out_proj.bias"] = params[part]["out"]["kernel"].T, params[part]["out"]["bias"]
    for theirs, name in {"linear1": "up", "linear2": "down"}.items():
        state[f"{theirs}.weight"], state[f"{theirs}.bias"] = (params["feed_forward"][name][part].T for part in ("kernel", "bias"))
    for theirs, name in {"norm1": "attention_norm", "norm2": "memory_norm", "norm3": "feed_forward_norm"}.items():
        state[f"{theirs}.weight"], state[f"{theirs}.bias"] = (params[name][part] for part in ("scale", "bias"))
    layer.load_state_dict({name: torch.tensor(np.array(value)) for name, value in state.items()})
    inputs = [torch.tensor(np.array(value), requires_grad=True) for value in (x, memory)]
    mask = torch.nn.Transformer.generate_square_subsequent_mask(LENGTH, dtype=torch.float64)
    theirs = layer(*inputs, tgt_mask=mask)
    theirs.sin().sum().backward()

    def forward(x, memory):
        y = ours.apply(variables, x, memory=memory)[0]
        return jnp.sin(y).sum(), y

    (_, y), grads = jax.jit(jax.value_and_grad(forward, (0, 1), has_aux=True))(x, memory)
    np.testing.assert_allclose(y, theirs.detach(), rtol=1e-9, atol=1e-10)
    for grad, given in zip(grads, inputs, strict=True):
        np.testing.assert_allclose(grad, given.grad, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("attention", [None, LinearAttention])
def test_padding_changes_nothing_of_what_is_real(attention):
    stack, x = Transformer(TransformerConfig(2, rotary=Rotary(), attention=attention), LAYERS), some(BATCH, LENGTH, WIDTH)
    variables, lengths = started(stack, x), [7, 3, 5]
    mask = jnp.arange(LENGTH)[None] < jnp.array(lengths)[:, None]
    apply = jax.jit(stack.apply)
    y = apply(variables, jnp.where(mask[..., None], x, 1e3), mask[:, None, None])
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(y[row, :length], apply(variables, x[row : row + 1, :length])[0], atol=1e-12)


def test_weights_are_sown_and_dropped_where_asked_for():
    config = TransformerConfig(2, is_causal=True, attention_dropout_rate=0.5)
    stack, x = Transformer(config, LAYERS), some(BATCH, LENGTH, WIDTH)
    variables = started(stack, x)
    y, sown = stack.apply(variables, x, mutable=["intermediates"])
    (weights,) = sown["intermediates"]["layers"]["attention"]["attention"]
    assert weights.shape == (LAYERS, BATCH, 2, LENGTH, LENGTH)
    np.testing.assert_allclose(weights.sum(-1), 1)
    np.testing.assert_array_equal(jnp.triu(weights, 1), 0)
    np.testing.assert_allclose(y, stack.apply(variables, x), atol=1e-12)
    dropped = stack.apply(variables, x, train=True, rngs={"dropout": jax.random.key(0)})
    assert jnp.abs(dropped - y).max() > 1e-3


def test_weights_of_linear_attention_are_sown_where_asked_for_and_read_what_it_reads():
    config = TransformerConfig(2, is_causal=True, attention=LinearAttention)
    layer, x = LinearAttention(config), some(BATCH, LENGTH, WIDTH)
    variables = started(layer, x)
    (y, _), sown = layer.apply(variables, x, mutable=["intermediates"])
    (weights,) = sown["intermediates"]["attention"]
    np.testing.assert_array_equal(jnp.triu(weights, 1), 0)
    value, out = (variables["params"][name] for name in ("value", "out"))
    values = (x @ value["kernel"] + value["bias"][None, None]).reshape(BATCH, LENGTH, 2, -1)
    read = jnp.einsum("bhts,bshf->bthf", weights, values).reshape(BATCH, LENGTH, WIDTH)
    np.testing.assert_allclose(read @ out["kernel"] + out["bias"][None, None], y, atol=1e-12)


def test_another_feed_forward_part_takes_its_place():
    class Twice(linen.Module):
        config: TransformerConfig

        @linen.compact
        def __call__(self, x, train):
            self.sow("losses", "balance", jnp.float64(1.0))
            return 2 * x

    stack = Transformer(TransformerConfig(2, feed_forward=Twice), LAYERS)
    variables, x = started(stack, some(BATCH, LENGTH, WIDTH)), some(BATCH, LENGTH, WIDTH)
    assert "feed_forward" not in variables["params"]["layers"]
    _, sown = stack.apply({"params": variables["params"]}, x, mutable=["losses"])
    assert sown["losses"]["layers"]["feed_forward"]["balance"][0].tolist() == [1.0] * LAYERS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 0}, "num_heads must be >= 1, got 0"),
        ({"num_groups": 3}, "num_groups must divide num_heads=4, got 3"),
        ({"window": 2}, "window needs is_causal=True"),
        ({"dropout_rate": 1.5}, r"dropout_rate must be in \[0, 1\], got 1.5"),
        ({"norm": "batch"}, "norm must be one of 'layer', 'rms'"),
        ({"hidden": -1}, "hidden must be >= 1"),
        ({"epsilon": -1.0}, "epsilon must be in"),
        ({"has_alibi": True, "attention": LinearAttention}, "has_alibi is a bias of softmax attention's scores"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TransformerConfig(**{"num_heads": 4, **options})


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        ({"num_heads": 3}, {}, "num_heads must divide the width 8, got 3"),
        ({}, {"memory": jnp.ones((BATCH, 2, 4))}, "has_memory=False, but a memory was given"),
        ({"has_memory": True}, {}, "has_memory=True, but a memory was not given"),
        ({}, {"cache": "empty"}, "a cache goes with a causal stack"),
        ({"is_causal": True}, {"cache": "small"}, "the cache has room for 2 positions, got 7"),
        ({"is_causal": True, "window": 2, "attention": LinearAttention}, {}, "no softmax on which window could act, got 2"),
        ({"scale": 0.5, "attention": LinearAttention}, {}, "no softmax on which scale could act, got 0.5"),
        ({"attention_dropout_rate": 0.1, "attention": LinearAttention}, {}, r"no softmax on which attention_dropout_rate .* got 0.1; leave it out"),
        ({"attention": LinearAttention}, {"bias": jnp.ones((1, 1, 7, 7))}, "no softmax on which bias could act, got an array"),
        ({"attention": LinearAttention}, {"mask": jnp.ones((7, 7), bool)}, r"the same for all heads and queries, \[B, 1, 1, 7\], got \(7, 7\)"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(config, options, message):
    config = TransformerConfig(**{"num_heads": 4, **config})
    if "cache" in options:
        options = {"cache": empty(config, 2 if options["cache"] == "small" else 9)}
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: Transformer(config, 1).init(jax.random.key(0), some(BATCH, LENGTH, WIDTH), **options))


def test_a_policy_that_is_none_is_refused():
    with pytest.raises(ValueError, match="remat must be one of 'full'"):
        jax.eval_shape(lambda: Transformer(TransformerConfig(4), 1, remat="some").init(jax.random.key(0), some(1, 2, WIDTH)))
    assert dataclasses.is_dataclass(TransformerConfig)


def test_layer_norm_and_its_derivatives_equal_linens_and_a_large_mean_costs_no_digits():
    ours, theirs = norm_layer("layer", 1e-5), linen.LayerNorm(epsilon=1e-5, use_fast_variance=False, param_dtype=jnp.float64)
    x, variables = some(2, 5), {"params": {"scale": some(5, seed=1), "bias": some(5, seed=2)}}

    def derivatives(layer):
        def value(variables, x):
            return jnp.sin(layer.apply(variables, x)).sum()

        return jax.jit(lambda x: (layer.apply(variables, x), jax.grad(value, (0, 1))(variables, x), jax.hessian(value, 1)(variables, x)))(x)

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10), derivatives(ours), derivatives(theirs))
    far = ours.apply(variables, (x + 1e3).astype(jnp.float32))
    np.testing.assert_allclose(far, ours.apply(variables, x), atol=1e-2)
