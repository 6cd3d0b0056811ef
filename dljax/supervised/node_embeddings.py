"""DeepWalk and node2vec: nodes that meet on random walks get similar embeddings (skip-gram with negative sampling)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from dljax.core.axis import local_key, pmean
from dljax.core.checks import check_int, check_range
from dljax.core.contract import Batch, Key, Learner, Metrics, Numeric, Params


class NodeEmbeddingState(NamedTuple):
    """What training needs: `{"input": [N, D], "output": [N, D]}`, of nodes as centres and as contexts, and the state of the optimizer."""

    params: Params
    opt_state: optax.OptState


def walk_loss(
    centre: Float[Array, "W L D"], context: Float[Array, "W L D"], noise: Float[Array, "S D"], *, window: int, num_negatives: Numeric = 5.0
) -> Float[Array, ""]:
    """Skip-gram with negative sampling on whole walks, averaged over the pairs of a centre and a context.

      -log σ(u_i · c_j) - k E_n[ log σ(-u_i · c_n) ]      for all places i, j of a walk with 1 <= |i - j| <= window

    The expectation is the mean over S nodes of the noise distribution that all pairs share: it is the loss of k negatives drawn for each pair, at
    the price of two products of matrices instead of a gather for each pair.

    Args:
      centre, context: u and c of the nodes at the L places of W walks.
      noise: c of the nodes drawn from the noise distribution.
      window: >= 1, and below L, or no walk has a pair at its full reach; not checked, larger ones take all pairs of a walk.
      num_negatives: k > 0.
    Raises:
      ValueError: options out of range, walks of one place.
    Source: Mikolov et al. (2013), Distributed representations of words and phrases, eq. 4; on walks: Perozzi et al. (2014).

    >>> zeros = jnp.zeros((1, 3, 2))
    >>> round(float(walk_loss(zeros, zeros, zeros[0], window=1, num_negatives=2.0) / jnp.log(2)), 4)  # 1 positive, 2 negatives
    3.0
    """
    check_int("walk_loss", "window", window, minimum=1)
    check_range("walk_loss", "num_negatives", num_negatives, 0, open_low=True, open_high=True)
    length = centre.shape[1]
    if length < 2:
        raise ValueError(f"walk_loss: walks must have at least 2 places, got {length}")
    places = np.arange(length)
    distance = np.abs(places[:, None] - places)
    is_pair = (distance >= 1) & (distance <= window)
    positive = jax.nn.softplus(-jnp.einsum("wid,wjd->wij", centre, context))
    negative = jax.nn.softplus(jnp.einsum("wid,sd->wis", centre, noise)).mean(-1)
    near = jnp.asarray(is_pair, positive.dtype)[None]
    count = jnp.asarray(is_pair.sum(1), positive.dtype)[None]
    return ((positive * near).sum() + num_negatives * (negative * count).sum()) / (len(centre) * is_pair.sum())


def node_embeddings(
    num_nodes: int,
    optimizer: optax.GradientTransformation,
    *,
    dimension: int = 128,
    window: int = 10,
    num_negatives: Numeric = 5.0,
    num_noise: int = 256,
    noise: Any = None,
) -> Learner:
    """Embeddings of the nodes of a graph from random walks: DeepWalk where they are uniform, node2vec where they are of second order.

    Batches are `{"walks": [W, L]}`, such as `dljax.data.random_walks(graph, batch_size=W, length=L, p=p, q=q)` gives; the loss is `walk_loss`.
    DeepWalk's paper has a hierarchical softmax in the place of the negative samples, which node2vec brought. Embeddings begin as those of word2vec:
    centres uniform in ±1/(2D), contexts 0.

    Args:
      num_nodes: N >= 1.
      optimizer: any optax transformation.
      dimension: D >= 1, numbers a node.
      window: how far apart on a walk a centre and a context may be, >= 1.
      num_negatives: k > 0, what negatives weigh.
      num_noise: S >= 1, how many nodes are drawn from the noise distribution in each step.
      noise: weights >= 0 [N] of the noise distribution, not all 0; None takes all nodes alike. word2vec takes counts to the power 3/4, which on long
        walks over an undirected graph are degrees to the power 3/4.
    Returns:
      A learner whose metric is `loss` [] (nats a pair) and whose function `embed(key, params, nodes [*B]) -> [*B, D]` gives the centres.
    Raises:
      ValueError: options out of range; `noise` of another shape or without any weight; when traced: batches without walks.
    Source: Perozzi, Al-Rfou & Skiena (2014), DeepWalk, arXiv:1403.6652; Grover & Leskovec (2016), node2vec, arXiv:1607.00653.

    >>> learner = node_embeddings(3, optax.adam(0.01), dimension=4, window=2)
    >>> batch = {"walks": jnp.array([[0, 1, 2, 1]])}
    >>> state = learner.init(jax.random.key(0), batch)
    >>> state, metrics = learner.step(jax.random.key(1), state, batch)
    >>> learner.functions["embed"](jax.random.key(2), learner.params(state), jnp.arange(3)).shape
    (3, 4)
    """
    for name, value in {"num_nodes": num_nodes, "dimension": dimension, "window": window, "num_noise": num_noise}.items():
        check_int("node_embeddings", name, value, minimum=1)
    check_range("node_embeddings", "num_negatives", num_negatives, 0, open_low=True, open_high=True)
    levels = _levels(noise, num_nodes)

    def init(key: Key, batch: Batch) -> NodeEmbeddingState:
        params = {
            "input": jax.random.uniform(key, (num_nodes, dimension), minval=-0.5 / dimension, maxval=0.5 / dimension),
            "output": jnp.zeros((num_nodes, dimension)),
        }
        return NodeEmbeddingState(params, optimizer.init(params))

    def step(key: Key, state: NodeEmbeddingState, batch: Batch) -> tuple[NodeEmbeddingState, Metrics]:
        if not isinstance(batch, dict) or "walks" not in batch:
            raise ValueError('node_embeddings: a batch must be {"walks": [W, L]}, as dljax.data.random_walks gives it')
        drawn = jnp.searchsorted(levels, jax.random.uniform(local_key(key), (num_noise,), levels.dtype), side="right")
        drawn = jnp.minimum(drawn, num_nodes - 1)

        def loss_of(params: Params) -> Float[Array, ""]:
            centre, context = params["input"][batch["walks"]], params["output"][batch["walks"]]
            return walk_loss(centre, context, params["output"][drawn], window=window, num_negatives=num_negatives)

        loss, gradient = jax.value_and_grad(loss_of)(state.params)
        loss, gradient = pmean(loss), jax.tree.map(pmean, gradient)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        return NodeEmbeddingState(optax.apply_updates(state.params, updates), opt_state), {"loss": loss}

    def embed(key: Key, params: Params, nodes: Int[Array, "*B"]) -> Float[Array, "*B D"]:
        return params["input"][nodes]

    return Learner(init, step, functions={"embed": embed})


def _levels(noise: Any, num_nodes: int) -> Float[Array, "N"]:
    """Cumulative probabilities."""
    weights = np.ones(num_nodes) if noise is None else np.asarray(noise, np.float64)
    if weights.shape != (num_nodes,) or not np.all((weights >= 0) & np.isfinite(weights)) or weights.sum() == 0:
        raise ValueError(f"node_embeddings: noise must be {num_nodes} finite weights >= 0, one of them positive, got shape {weights.shape}")
    return jnp.asarray(np.cumsum(weights) / weights.sum(), float)
