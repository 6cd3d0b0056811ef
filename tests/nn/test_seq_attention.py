"""Attention of a recurrent decoder: the papers' formulas, written by hand with torch; weights that sum to one and vanish on padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dljax.nn.seq_attention import SCORES, SequenceAttention, additive_scores, multiplicative_scores, read

B, T, S, D = 2, 3, 5, 4


def arrays(seed=0):
    query, memory = jax.random.normal(jax.random.key(seed), (B, T, D)), jax.random.normal(jax.random.key(seed + 1), (B, S, D))
    return query, memory, jnp.arange(S)[None] < jnp.array([[5], [3]])


def layer(score):
    query, memory, mask = arrays()
    model = SequenceAttention(score, D)
    variables = jax.jit(model.init)(jax.random.key(2), query, memory, mask)
    return variables, jax.jit(model.apply)


@pytest.mark.parametrize("score", SCORES)
def test_6_2_attention_is_what_the_papers_write(score):
    torch = pytest.importorskip("torch")
    (variables, apply), (query, memory, mask) = layer(score), map(np.asarray, arrays())
    params = jax.tree.map(lambda leaf: torch.tensor(np.asarray(leaf)), variables["params"]) if variables else {}
    context, weights = apply(variables, query, memory, mask)
    for row in range(B):
        for time in range(T):
            q, scores = torch.tensor(query[row, time]), []
            for place in range(int(mask[row].sum())):
                m = torch.tensor(memory[row, place])
                if score == "dot":
                    scores.append(q @ m)
                elif score == "general":
                    scores.append(q @ (params["memory"]["kernel"].T @ m))
                elif score == "concat":
                    joint = torch.cat([params["query"]["kernel"], params["memory"]["kernel"]])  # [2D, A]
                    scores.append(params["vector"] @ torch.tanh(joint.T @ torch.cat([q, m])))
                else:
                    scores.append(params["vector"] @ torch.tanh(params["query"]["kernel"].T @ q + params["memory"]["kernel"].T @ m))
            alpha = torch.softmax(torch.stack(scores), 0)
            np.testing.assert_allclose(weights[row, time, : len(alpha)], alpha, rtol=1e-4, atol=1e-6)
            mean = sum(a * torch.tensor(memory[row, place]) for place, a in enumerate(alpha))
            np.testing.assert_allclose(context[row, time], mean, rtol=1e-4, atol=1e-5)


LAYERS = {}


@settings(max_examples=8, deadline=None)
@given(score=st.sampled_from(SCORES), lengths=st.lists(st.integers(0, S), min_size=B, max_size=B), seed=st.integers(0, 2**31 - 1))
def test_6_2_weights_sum_to_one_and_vanish_on_padding_whatever_stands_there(score, lengths, seed):
    if score not in LAYERS:
        LAYERS[score] = layer(score)
    (variables, apply), (query, memory, _) = LAYERS[score], map(np.asarray, arrays())
    mask = np.arange(S) < np.array(lengths)[:, None]
    junk = np.random.default_rng(seed).normal(0, 1e4, memory.shape).astype(np.float32)
    context, weights = apply(variables, query, memory, mask)
    np.testing.assert_allclose(weights.sum(-1), np.broadcast_to(np.array(lengths)[:, None] > 0, (B, T)), rtol=1e-5)
    assert (np.where(mask[:, None], 0, weights) == 0).all()
    np.testing.assert_array_equal(apply(variables, query, np.where(mask[..., None], memory, junk), mask)[0], context)


def test_keys_that_were_made_before_give_the_same():
    (variables, apply), (query, memory, mask) = layer("additive"), arrays()
    keys = memory @ variables["params"]["memory"]["kernel"]
    for one, other in zip(apply(variables, query, memory, mask), apply(variables, query, memory, mask, keys=keys), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_extreme_scores_and_empty_masks_have_finite_gradients():
    scores = jnp.array([[[1e4, -1e4, 3e38]], [[-3e38, 0.0, 1.0]]])
    mask = jnp.array([[True, True, False], [False, False, False]])
    values = jnp.ones((2, 3, 2))
    (context, weights), gradient = jax.jit(lambda scores: (read(scores, values, mask), jax.grad(lambda s: read(s, values, mask)[0].sum())(scores)))(
        scores
    )
    assert weights.tolist() == [[[1, 0, 0]], [[0, 0, 0]]]
    assert context.tolist() == [[[1, 1]], [[0, 0]]]
    assert np.isfinite(gradient).all()


def test_what_does_not_fit_is_refused():
    query, memory, _ = arrays()
    with pytest.raises(ValueError, match=r"multiplicative_scores: query and keys must have the same batch and size, got \(2, 3, 4\)"):
        multiplicative_scores(query, memory[..., :3])
    with pytest.raises(ValueError, match="additive_scores: query and keys"):
        additive_scores(query, memory[:1], jnp.ones(4))
    with pytest.raises(ValueError, match="score must be one of 'additive', 'concat', 'dot', 'general', got 'sum'"):
        SequenceAttention("sum").init(jax.random.key(0), query, memory)
    with pytest.raises(ValueError, match="features must be >= 1"):
        SequenceAttention("general", 0).init(jax.random.key(0), query, memory)
