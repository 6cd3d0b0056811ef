"""Features of nodes, dense or mostly zero, and the matrix products with which graph layers read them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen
from jaxtyping import Array, Float, Int

from dljax.core.checks import check_int
from dljax.nn.product import row_product

GLOROT = linen.initializers.glorot_uniform()


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SparseRows:
    """A matrix with mostly empty rows, such as the bags of words of N documents: each row as a list of its entries.

    A product with it costs K numbers a row where a dense one costs D, and so does dropout on its values. Its arrays have the leading axis of
    the nodes, so that jraph batches and pads them like any others.

    Attributes:
      index: the columns of a row's entries, each in [0, D).
      value: the entries; 0 pads a row that has fewer than K.
      size: D, how many columns there are.

    >>> rows = sparse_rows([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    >>> rows.index.tolist(), rows.value.tolist(), rows.shape
    ([[1], [0]], [[2.0], [0.0]], (2, 3))
    """

    index: Int[Array, "N K"]
    value: Float[Array, "N K"]
    size: int = field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, int]:
        """[N, D]."""
        return self.index.shape[0], self.size

    def dense(self) -> Float[Array, "N D"]:
        """The matrix itself, for layers that must see every number.

        >>> sparse_rows([[0.0, 2.0], [1.0, 0.0]]).dense().tolist()
        [[0.0, 2.0], [1.0, 0.0]]
        """
        rows = jnp.arange(len(self.index))[:, None]
        return jnp.zeros(self.shape, self.value.dtype).at[rows, self.index].add(self.value, mode="drop")


def sparse_rows(matrix: Any, num_entries: int | None = None) -> SparseRows:
    """The entries of a dense matrix that are not zero, row by row.

    Args:
      matrix: [N, D], on the host.
      num_entries: K, room for the entries of a row, >= 1; None takes what the fullest row needs.
    Raises:
      ValueError: no matrix, or a row with more than `num_entries` entries.

    >>> sparse_rows([[1.0, 2.0]], num_entries=1)
    Traceback (most recent call last):
    ValueError: sparse_rows: num_entries must be at least 2, the entries of the fullest row, got 1
    """
    matrix = np.asarray(matrix)
    if matrix.ndim != 2:
        raise ValueError(f"sparse_rows: matrix must be [N, D], got shape {matrix.shape}")
    fullest = int(np.count_nonzero(matrix, axis=1).max(initial=0))
    room = max(fullest, 1) if num_entries is None else check_int("sparse_rows", "num_entries", num_entries, minimum=1)
    if room < fullest:
        raise ValueError(f"sparse_rows: num_entries must be at least {fullest}, the entries of the fullest row, got {room}")
    rows, columns = np.nonzero(matrix)
    places = np.arange(len(rows)) - np.searchsorted(rows, rows)
    index = np.zeros((len(matrix), room), np.int32)
    value = np.zeros((len(matrix), room), matrix.dtype)
    index[rows, places], value[rows, places] = columns, matrix[rows, columns]
    return SparseRows(jnp.asarray(index), jnp.asarray(value), matrix.shape[1])


def node_product(nodes: Any, kernel: Float[Array, "D F"]) -> Float[Array, "N F"]:
    """The product of every node's features with a matrix, however they are stored: the first thing that a graph layer does.

    Args:
      nodes: an array [N, D] or `SparseRows`.

    >>> nodes = jnp.array([[0.0, 2.0], [1.0, 0.0]])
    >>> [node_product(kind(nodes), jnp.eye(2)).tolist() for kind in (jnp.asarray, sparse_rows)]
    [[[0.0, 2.0], [1.0, 0.0]], [[0.0, 2.0], [1.0, 0.0]]]
    """
    if isinstance(nodes, SparseRows):
        return jnp.einsum("nk,nkf->nf", nodes.value.astype(kernel.dtype), kernel[nodes.index])
    return row_product(nodes.astype(kernel.dtype), kernel)


def dense_nodes(who: str, nodes: Any) -> Float[Array, "N D"]:
    """The nodes' features as a matrix, however they are stored; errors as `num_features`.

    >>> dense_nodes("layer", sparse_rows([[0.0, 2.0]])).tolist()
    [[0.0, 2.0]]
    """
    num_features(who, nodes)
    return nodes.dense() if isinstance(nodes, SparseRows) else nodes


def num_features(who: str, nodes: Any) -> int:
    """How many numbers a node has.

    Raises:
      ValueError: nodes that are neither an array [N, D] nor `SparseRows`, or none at all.

    >>> num_features("layer", jnp.zeros((5, 3)))
    3
    """
    if not isinstance(nodes, SparseRows) and jnp.ndim(nodes) != 2:
        raise ValueError(f"{who}: nodes must be an array [N, D] or SparseRows, got {shapes_of(nodes)}")
    if nodes.shape[0] == 0:
        raise ValueError(f"{who}: the graph must have at least one node, got none")
    return nodes.shape[1]


class NodeDense(linen.Module):
    """A dense layer on nodes that may be `SparseRows`: the parameters of `Dense`, with Glorot's kernel.

    Attributes:
      features: F.
      use_bias: whether it adds a bias.

    >>> jax.eval_shape(NodeDense(2).init_with_output, jax.random.key(0), jnp.ones((3, 4)))[0].shape
    (3, 2)
    """

    features: int
    use_bias: bool = True
    kernel_init: Callable[..., Any] = GLOROT

    @linen.compact
    def __call__(self, nodes: Any) -> Float[Array, "N F"]:
        kernel = self.param("kernel", self.kernel_init, (num_features(type(self).__name__, nodes), self.features))
        values = node_product(nodes, kernel)
        return values + self.param("bias", linen.initializers.zeros, (self.features,))[None].astype(values.dtype) if self.use_bias else values


class NodeDropout(linen.Module):
    """Dropout of nodes' features. Of `SparseRows` only the entries that are not zero are drawn for, which is the same and costs less.

    Attributes:
      rate: the fraction that is dropped in training, in [0, 1].

    >>> nodes = sparse_rows([[0.0, 2.0]])
    >>> NodeDropout(0.5).apply({}, nodes) is nodes
    True
    """

    rate: float

    @linen.compact
    def __call__(self, nodes: Any, train: bool = False) -> Any:
        if not train or self.rate == 0:
            return nodes
        dropout = linen.Dropout(self.rate, deterministic=False)
        return SparseRows(nodes.index, dropout(nodes.value), nodes.size) if isinstance(nodes, SparseRows) else dropout(nodes)


def shapes_of(tree: Any) -> str:
    """The shapes of a tree's arrays, for messages.

    >>> shapes_of([jnp.zeros(2), jnp.zeros((3, 1))]), shapes_of(None)
    ('(2,), (3, 1)', 'nothing')
    """
    return ", ".join(map(str, (jnp.shape(leaf) for leaf in jax.tree.leaves(tree)))) or "nothing"
