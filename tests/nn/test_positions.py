"""Positions: their defining properties, and the values of transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dljax.nn.positions import RelativeBias, Rotary, alibi, alibi_slopes, relative_bucket, sinusoidal_positions


def test_8_2_turned_queries_and_keys_meet_by_their_distance_alone():
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 8))
    rotary = Rotary(base=100.0)

    def product(place, other):
        return (rotary(q, jnp.array([place])) * rotary(k, jnp.array([other]))).sum()

    for shift in (1, 7, 40):
        np.testing.assert_allclose(product(3 + shift, 1 + shift), product(3, 1), rtol=1e-4, atol=1e-5)
    assert abs(product(3, 1) - product(1, 3)) > 1e-3


@pytest.mark.parametrize(
    ("kind", "ours"),
    [
        ({"rope_type": "default"}, Rotary(10000.0)),
        ({"rope_type": "linear", "factor": 4.0}, Rotary(10000.0, factor=4.0)),
        (
            {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
            Rotary(10000.0, factor=8.0, low_factor=1.0, high_factor=4.0, length=64),
        ),
    ],
    ids=lambda value: value["rope_type"] if isinstance(value, dict) else "",
)
def test_8_2_rotary_angles_equal_those_of_transformers(kind, ours):
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    torch = pytest.importorskip("torch")
    config = llama.LlamaConfig(hidden_size=32, num_attention_heads=2, rope_parameters={"rope_theta": 10000.0, **kind}, max_position_embeddings=512)
    q = jax.random.normal(jax.random.key(0), (1, 5, 2, 16))
    positions = jnp.array([[0, 1, 17, 100, 300]])
    cos, sin = llama.LlamaRotaryEmbedding(config)(torch.zeros(1), torch.tensor(np.array(positions)))
    theirs, _ = llama.apply_rotary_pos_emb(torch.tensor(np.array(q)).transpose(1, 2), torch.zeros(1, 2, 5, 16), cos, sin)
    np.testing.assert_allclose(ours(q, positions), theirs.transpose(1, 2), atol=2e-5)


def test_8_4_alibi_has_the_papers_slopes_and_falls_with_the_distance():
    np.testing.assert_allclose(alibi_slopes(8), [2.0**-i for i in range(1, 9)])  # Press et al. (2022), section 3
    np.testing.assert_allclose(alibi_slopes(12)[:8], alibi_slopes(8))
    np.testing.assert_allclose(alibi_slopes(12)[8:], alibi_slopes(16)[::2][:4])
    bias = alibi(8, jnp.arange(5), jnp.arange(5))
    np.testing.assert_allclose(bias[1, 4], -0.25 * jnp.abs(4 - jnp.arange(5)))


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (8, 20), (10, 50)])
def test_8_3_buckets_equal_those_of_transformers(is_causal, num_buckets, max_distance):
    torch = pytest.importorskip("torch")
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5")
    distance = np.arange(-300, 300)
    theirs = t5.T5Attention._relative_position_bucket(torch.tensor(distance), not is_causal, num_buckets, max_distance)
    ours = relative_bucket(jnp.array(distance), num_buckets=num_buckets, max_distance=max_distance, is_causal=is_causal)
    # Where the logarithm hits a boundary exactly, float32 may fall on either side.
    assert (np.abs(np.asarray(ours) - theirs.numpy()) > 0).mean() < 0.01


def test_relative_bias_depends_on_the_distance_alone():
    layer = RelativeBias(num_heads=2, num_buckets=8, max_distance=20)
    bias, _ = layer.init_with_output(jax.random.key(0), jnp.arange(6), jnp.arange(6))
    np.testing.assert_array_equal(bias[:, 1:, 1:], bias[:, :-1, :-1])


def test_8_3_waves_have_the_papers_values():
    waves = sinusoidal_positions(jnp.arange(50), 6)
    for i in range(3):
        np.testing.assert_allclose(waves[:, i], np.sin(np.arange(50) / 10000 ** (2 * i / 6)), atol=1e-5)
        np.testing.assert_allclose(waves[:, 3 + i], np.cos(np.arange(50) / 10000 ** (2 * i / 6)), atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Rotary(size=3).angles(jnp.arange(2), 8), "must be even and at most its size 8, got 3"),
        (lambda: Rotary(size=10).angles(jnp.arange(2), 8), "must be even and at most its size 8, got 10"),
        (lambda: Rotary(base=0.5).angles(jnp.arange(2), 8), "base must be"),
        (lambda: Rotary(factor=0.0).angles(jnp.arange(2), 8), "factor must be"),
        (lambda: sinusoidal_positions(jnp.arange(2), 3), "width must be even, got 3"),
        (lambda: relative_bucket(jnp.arange(2), num_buckets=2), "num_buckets must be >= 4"),
        (lambda: relative_bucket(jnp.arange(2), max_distance=3), "max_distance must be >= 9"),
        (lambda: alibi_slopes(0), "num_heads must be >= 1"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
