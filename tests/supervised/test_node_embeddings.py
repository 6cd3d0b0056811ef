"""Skip-gram on walks: the loss is the sum over pairs written out, its minimum the one that theory gives, and a club falls into its factions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dljax import core, data
from dljax.nn.graph import single_graph
from dljax.supervised.node_embeddings import node_embeddings, walk_loss


@pytest.mark.parametrize("window", [1, 3, 20])
def test_7_1_loss_is_skip_gram_with_negative_sampling_pair_by_pair(window):
    rng = np.random.default_rng(0)
    centre, context, noise = rng.normal(size=(2, 6, 3)), rng.normal(size=(2, 6, 3)), rng.normal(size=(4, 3))
    losses = []
    for u, c in zip(centre, context, strict=True):
        for i in range(6):
            for j in range(max(0, i - window), min(6, i + window + 1)):
                if i != j:
                    negatives = np.mean([-np.log(1 / (1 + np.exp(u[i] @ n))) for n in noise])
                    losses.append(-np.log(1 / (1 + np.exp(-u[i] @ c[j]))) + 2.5 * negatives)
    with jax.enable_x64(True):
        found = walk_loss(*map(jnp.asarray, (centre, context, noise)), window=window, num_negatives=2.5)
    np.testing.assert_allclose(found, np.mean(losses), rtol=1e-12)


def test_loss_is_finite_with_its_gradient_at_the_extremes():
    large = jnp.array([[[100.0], [-100.0], [100.0]]])
    value, gradient = jax.value_and_grad(lambda centre: walk_loss(centre, large, large[0], window=1))(large)
    # Logits of ±1e4: two of the three pairs of neighbours have -1e4 each way, the noise is +1e4 for 2/3 of the rest.
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
    assert value > 1e4


def test_7_1_at_the_minimum_an_inner_product_is_the_shifted_pointwise_mutual_information():
    """Levy & Goldberg (2014): u_i · c_j = log(#(i, j) |D| / (#(i) #(j))) - log k with noise as frequent as the nodes; here on walks of two nodes."""
    weights = np.array([[1.0, 3, 2], [3, 2, 1], [2, 1, 4]])
    walks = np.array([(i, j) for i in range(3) for j in range(3) for _ in range(int(weights[i, j]))])
    k, share = 2, weights.sum(1) / weights.sum()
    noise = np.repeat(np.arange(3), weights.sum(1).astype(int))

    @jax.jit
    def fit(key):
        def loss(params):
            return walk_loss(params[0][walks], params[1][walks], params[1][noise], window=1, num_negatives=float(k))

        optimizer = optax.lbfgs()
        params = 0.1 * jax.random.normal(key, (2, 3, 3), jnp.float64)
        value_and_grad = optax.value_and_grad_from_state(loss)

        def step(carry, _):
            params, state = carry
            value, gradient = value_and_grad(params, state=state)
            updates, state = optimizer.update(gradient, state, params, value=value, grad=gradient, value_fn=loss)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), None, length=80)[0][0]

    with jax.enable_x64(True):
        centre, context = map(np.asarray, fit(jax.random.key(0)))
    expected = np.log(weights / weights.sum() / np.outer(share, share)) - np.log(k)
    np.testing.assert_allclose(centre @ context.T, expected, atol=1e-5)


def test_7_1_embeddings_of_the_karate_club_divide_it_into_its_factions():
    club = data.load("karate")
    graph = single_graph(club["x"], club["senders"], club["receivers"])
    source = data.random_walks(graph, batch_size=34, length=20)
    noise = np.bincount(club["receivers"]) ** 0.75
    learner = node_embeddings(34, optax.adam(0.02), dimension=8, window=5, num_noise=32, noise=noise)

    @jax.jit
    def train(key):
        run_key, state, cursor = core.start(learner, source, key)
        state, _, history = core.unroll(learner, source, 200, 20)(run_key, 0, state, cursor)
        return learner.functions["embed"](key, learner.params(state), jnp.arange(34)), history["loss"]

    embeddings, losses = map(np.asarray, train(jax.random.key(0)))
    assert losses[-1] < 0.9 * losses[0]
    # No label is used: each member joins whichever leader's embedding is nearer in direction.
    directions = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    joined = (directions @ directions[33] > directions @ directions[0]).astype(int)
    assert (joined == club["y"]).sum() >= 31


def test_nodes_without_noise_are_never_negatives():
    """A context that no walk meets and no noise draws stays as it was."""
    learner = node_embeddings(4, optax.sgd(1.0), dimension=2, window=1, noise=[1.0, 1.0, 0.0, 0.0], num_noise=500)
    batch = {"walks": jnp.array([[0, 1, 0]])}
    state = learner.init(jax.random.key(0), batch)
    new, _ = jax.jit(learner.step)(jax.random.key(1), state, batch)
    moved = np.any(np.asarray(new.params["output"]) != 0, axis=1)
    assert moved.tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_nodes": 0}, "node_embeddings: num_nodes must be >= 1, got 0"),
        ({"dimension": 0}, "dimension must be >= 1"),
        ({"window": 0}, "window must be >= 1"),
        ({"num_noise": 0}, "num_noise must be >= 1"),
        ({"num_negatives": 0.0}, r"num_negatives must be in \(0, inf\)"),
        ({"noise": [1.0]}, r"noise must be 3 finite weights >= 0, one of them positive, got shape \(1,\)"),
        ({"noise": [0.0, 0.0, 0.0]}, "one of them positive"),
        ({"noise": [1.0, -1.0, 0.0]}, "one of them positive"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        node_embeddings(**{"num_nodes": 3, "optimizer": optax.sgd(0.1)} | options)


def test_batches_that_are_no_walks_are_refused():
    learner = node_embeddings(3, optax.sgd(0.1))
    state = jax.eval_shape(learner.init, jax.random.key(0), ())
    with pytest.raises(ValueError, match=r'a batch must be \{"walks": \[W, L\]\}'):
        jax.eval_shape(learner.step, jax.random.key(0), state, {"x": jnp.zeros(3)})
    with pytest.raises(ValueError, match="walks must have at least 2 places, got 1"):
        jax.eval_shape(learner.step, jax.random.key(0), state, {"walks": jnp.zeros((2, 1), jnp.int32)})
