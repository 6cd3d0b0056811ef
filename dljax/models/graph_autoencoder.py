"""A graph auto-encoder: it places the nodes so that the inner product of two says whether they are linked (Kipf & Welling, 2016)."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import jraph
from flax import linen
from jaxtyping import Array, Float, Int

from dljax.core.checks import check_int, check_range
from dljax.models.gcn import GCN


class GraphAutoencoder(linen.Module):
    """A GCN encodes every node; the decoder has no parameters.

      Z = Â ReLU(Â X W₀) W₁,   p(i ~ j) = σ(z_i · z_j)

    Attributes:
      width: numbers a node in the hidden layer.
      embedding_size: numbers of z.
      dropout_rate: the fraction dropped before each layer in training, in [0, 1]; the paper drops none.
      is_sorted: whether the graph's receivers ascend, as `dljax.nn.single_graph` leaves them; a wrong promise gives wrong sums.

    Source: Kipf & Welling (2016), Variational graph auto-encoders, arXiv:1611.07308, section 2, the non-probabilistic GAE.

    >>> import jax
    >>> from dljax.nn import single_graph
    >>> graph = single_graph(jnp.eye(4), [0, 1, 1, 2], [1, 0, 2, 1])
    >>> model = GraphAutoencoder(width=8, embedding_size=2)
    >>> x = {"graph": graph, "pairs": jnp.array([[0, 1], [0, 3]])}
    >>> logits, variables = jax.jit(model.init_with_output)(jax.random.key(0), x)
    >>> logits.shape, model.apply(variables, graph, method="encode").shape
    ((2,), (4, 2))
    """

    width: int = 32
    embedding_size: int = 16
    dropout_rate: float = 0.0
    is_sorted: bool = False

    def setup(self) -> None:
        check_int("GraphAutoencoder", "width", self.width, minimum=1)
        check_int("GraphAutoencoder", "embedding_size", self.embedding_size, minimum=1)
        check_range("GraphAutoencoder", "dropout_rate", self.dropout_rate, 0, 1)
        self.encoder = GCN(self.embedding_size, self.width, dropout_rate=self.dropout_rate, is_sorted=self.is_sorted)

    def __call__(self, x: Mapping[str, Any], train: bool = False) -> Float[Array, "P"]:
        """Logits of the links asked for.

        Args:
          x: `graph`, what is known, without the links to be found; and `pairs`, whole numbers [P, 2], pairs of its nodes.
          train: whether to drop units, with the random stream `dropout`.
        Raises:
          ValueError: options out of range, `x` without one of the two, a graph that `GCN` refuses.
        """
        if "graph" not in x or "pairs" not in x:
            raise ValueError(f'GraphAutoencoder: x must have "graph" and "pairs", got the keys {sorted(x)}')
        return self.decode(self.encode(x["graph"], train), x["pairs"])

    def encode(self, graph: jraph.GraphsTuple, train: bool = False) -> Float[Array, "N D"]:
        """z of every node."""
        return self.encoder(graph, train)

    @staticmethod
    def decode(embeddings: Float[Array, "N D"], pairs: Int[Array, "P 2"]) -> Float[Array, "P"]:
        """z_i · z_j of every pair, the logit of their link."""
        return jnp.einsum("pd,pd->p", embeddings[pairs[:, 0]], embeddings[pairs[:, 1]])
