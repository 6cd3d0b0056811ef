"""Attention of a recurrent decoder (Bahdanau et al., 2015; Luong et al., 2015): which of the encoder's states each word looks at."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from jaxtyping import Array, Bool, Float

from dljax.core.checks import check_choice, check_int
from dljax.nn.dense import Dense

SCORES = ("additive", "concat", "dot", "general")


def multiplicative_scores(query: Float[Array, "B T A"], keys: Float[Array, "B S A"]) -> Float[Array, "B T S"]:
    """Luong's scores: how well each query meets each key.

      dot: q_t · m_s  with k_s = m_s,   general: q_t · W m_s  with k_s = W m_s

    Raises:
      ValueError: queries and keys of different sizes.
    Source: Luong, Pham & Manning (2015), Effective approaches to attention-based neural machine translation, eq. 8.

    >>> multiplicative_scores(jnp.array([[[1.0, 2.0]]]), jnp.array([[[3.0, 0.0], [0.0, 4.0]]])).tolist()
    [[[3.0, 8.0]]]
    """
    _check_sizes("multiplicative_scores", query, keys)
    return jnp.einsum("bta,bsa->bts", query, keys)


def additive_scores(query: Float[Array, "B T A"], keys: Float[Array, "B S A"], vector: Float[Array, "A"]) -> Float[Array, "B T S"]:
    """Bahdanau's scores: a perceptron with one hidden layer, asked about each pair.

      v · tanh(W q_t + U m_s)   with both products given: `query` is W q, `keys` U m

    Luong's "concat", v · tanh(W' [q_t; m_s]), is the same with W' = [W U].

    Raises:
      ValueError: queries and keys of different sizes.
    Source: Bahdanau, Cho & Bengio (2015), Neural machine translation by jointly learning to align and translate, appendix A.1.2.

    >>> print(additive_scores(jnp.zeros((1, 1, 2)), jnp.array([[[1.0, 0.0]]]), jnp.array([2.0, 1.0])))  # 2 tanh 1
    [[[1.5231884]]]
    """
    _check_sizes("additive_scores", query, keys)
    return jnp.einsum("btsa,a->bts", jnp.tanh(query[:, :, None] + keys[:, None]), vector)


def read(
    scores: Float[Array, "B T S"], values: Float[Array, "B S M"], mask: Bool[Array, "B S"] | None = None
) -> tuple[Float[Array, "B T M"], Float[Array, "B T S"]]:
    """The mean of the values under the softmax of the scores.

      a_ts = softmax_s(scores_t),   c_t = Σ_s a_ts v_s

    Args:
      mask: True where there is something to read. The rest has weight zero, whatever it holds that is finite; where there is nothing, all weights and
        the mean are zero.
    Returns:
      The means c, and the weights a, in the scores' dtype; the softmax is computed in float32 at least.

    >>> context, weights = read(jnp.zeros((1, 1, 3)), jnp.array([[[1.0], [3.0], [9.0]]]), jnp.array([[True, True, False]]))
    >>> context.tolist(), weights.tolist()
    ([[[2.0]]], [[[0.5, 0.5, 0.0]]])
    """
    wide = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    if mask is None:
        weights = jax.nn.softmax(wide)
    else:
        # Finite: a row of -inf alone has no softmax, and no gradient.
        weights = jnp.where(mask[:, None], jax.nn.softmax(jnp.where(mask[:, None], wide, jnp.finfo(wide.dtype).min)), 0)
    weights = weights.astype(scores.dtype)
    return jnp.einsum("bts,bsm->btm", weights, values), weights


class SequenceAttention(linen.Module):
    """Attention with its parameters: the keys are made once, the queries come one after another.

    Attributes:
      score: "additive" (Bahdanau; Luong's "concat" is another name for it), "dot" or "general".
      features: A, the hidden layer's size of the additive scores; of the general ones, the size of the queries. The dot has no parameters.

    >>> layer, memory = SequenceAttention("additive", 4), jnp.ones((2, 5, 3))
    >>> (context, weights), variables = layer.init_with_output(jax.random.key(0), jnp.ones((2, 1, 6)), memory)
    >>> context.shape, weights.shape, jax.tree.map(jnp.shape, variables["params"])["query"]
    ((2, 1, 3), (2, 1, 5), {'kernel': (6, 4)})
    """

    score: str = "general"
    features: int = 128

    def setup(self) -> None:
        check_choice("SequenceAttention", "score", self.score, SCORES)
        check_int("SequenceAttention", "features", self.features, minimum=1)
        if self.score != "dot":
            self.memory = Dense(self.features, use_bias=False)
        if self.score in ("additive", "concat"):
            self.query = Dense(self.features, use_bias=False)
            self.vector = self.param("vector", linen.initializers.normal(self.features**-0.5), (self.features,))

    def keys(self, memory: Float[Array, "B S M"]) -> Float[Array, "B S A"]:
        """What the queries are compared with; it does not depend on them."""
        return memory if self.score == "dot" else self.memory(memory)

    def __call__(
        self,
        query: Float[Array, "B T Q"],
        memory: Float[Array, "B S M"],
        mask: Bool[Array, "B S"] | None = None,
        *,
        keys: Float[Array, "B S A"] | None = None,
    ) -> tuple[Float[Array, "B T M"], Float[Array, "B T S"]]:
        """What each query reads from the memory, and its weights, as `read`.

        Args:
          keys: `keys(memory)`, where it is known already.
        Raises:
          ValueError: options out of range; for "dot" and "general", queries whose size is not the keys'.
        """
        keys = self.keys(memory) if keys is None else keys
        if self.score in ("additive", "concat"):
            scores = additive_scores(self.query(query), keys, self.vector.astype(keys.dtype))
        else:
            scores = multiplicative_scores(query, keys)
        return read(scores, memory, mask)


def _check_sizes(who: str, query: Any, keys: Any) -> None:
    if query.shape[-1] != keys.shape[-1] or query.shape[0] != keys.shape[0]:
        raise ValueError(f"{who}: query and keys must have the same batch and size, got {query.shape} and {keys.shape}")
