"""Weights of other libraries: which of their tensors is which of ours."""

from typing import NamedTuple


class Weight(NamedTuple):
    """One tensor of another library and its place in our tree.

    Attributes:
      name: the tensor's name in the file; "{}" where it is one of stacked layers.
      path: where it stands in our tree; the collection comes first for others than params: "batch_stats/norm/mean".
      layout: "same"; "transposed" ([out, in] -> [in, out]); "convolution" ([O, I/g, H, W] -> [H, W, I/g, O]).

    >>> Weight("fc.weight", "head/kernel", "transposed").path
    'head/kernel'
    """

    name: str
    path: str
    layout: str = "same"
