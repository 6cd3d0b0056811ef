"""GCN: a graph convolutional network that labels nodes from a few known labels (Kipf & Welling, 2017)."""

from typing import Any

import jax
import jraph
from flax import linen
from jaxtyping import Array, Float

from dljax.core.checks import check_int, check_range
from dljax.nn.graph import GraphConvolution
from dljax.nn.node_features import NodeDropout


class GCN(linen.Module):
    """Graph convolutions with ReLU between them and dropout before each.

      Z = Â ReLU(Â X W₀) W₁,   Â = D^-½ (A + I) D^-½

    Attributes:
      num_classes: C, numbers a node at the end.
      width: numbers a node in the hidden layers.
      num_layers: how many convolutions, >= 1.
      dropout_rate: the fraction of numbers that is dropped before each layer in training, in [0, 1]. Of `SparseRows` only the entries that are
        not zero are drawn for, which is the same and costs less.
      use_bias: whether layers have biases; the paper's have none.
      is_sorted: whether the graph's receivers ascend, as `dljax.nn.single_graph` leaves them; a wrong promise gives wrong sums.

    Source: Kipf & Welling (2017), Semi-supervised classification with graph convolutional networks, eq. 9.

    >>> from dljax.nn import single_graph
    >>> import jax.numpy as jnp
    >>> graph = single_graph(jnp.eye(4), [0, 1, 1, 2], [1, 0, 2, 1])
    >>> logits, variables = GCN(num_classes=3).init_with_output(jax.random.key(0), graph)
    >>> logits.shape, sorted(variables["params"])
    ((4, 3), ['layers_0', 'layers_1'])
    """

    num_classes: int
    width: int = 16
    num_layers: int = 2
    dropout_rate: float = 0.5
    use_bias: bool = False
    is_sorted: bool = False

    def setup(self) -> None:
        check_int("GCN", "num_classes", self.num_classes, minimum=1)
        check_int("GCN", "width", self.width, minimum=1)
        check_int("GCN", "num_layers", self.num_layers, minimum=1)
        check_range("GCN", "dropout_rate", self.dropout_rate, 0, 1)
        sizes = [self.width] * (self.num_layers - 1) + [self.num_classes]
        self.layers = [GraphConvolution(size, self.use_bias, self.is_sorted) for size in sizes]
        self.dropout = NodeDropout(self.dropout_rate)

    def __call__(self, graph: jraph.GraphsTuple, train: bool = False) -> Float[Array, "N C"]:
        """Logits of every node's class.

        Args:
          graph: nodes are an array [N, D] or `SparseRows`; edges None or weights [E].
          train: whether to drop units, with the random stream `dropout`.
        Raises:
          ValueError: options out of range; nodes or edges of another kind; a graph without nodes.
        """
        hidden = graph._replace(nodes=self.embed(graph, train))
        return self.layers[-1](hidden).nodes

    def embed(self, graph: jraph.GraphsTuple, train: bool = False) -> Any:
        """What the last layer reads, [N, width]: the hidden features of every node."""
        nodes = self.dropout(graph.nodes, train)
        for layer in self.layers[:-1]:
            nodes = self.dropout(jax.nn.relu(layer(graph._replace(nodes=nodes)).nodes), train)
        return nodes
