"""Data: a catalogue of real data sets, found or fetched and verified, and sources of batches."""

from dljax.data.catalogue import CATALOGUE, FileStatus, Info, available, check, get, info, load, where
from dljax.data.entry import Entry, File
from dljax.data.graph_batches import graph_batch, graph_batches
from dljax.data.host import GrainSource, grain_source, open_arrays
from dljax.data.molecules import ATOM_FEATURES, BOND_FEATURES, smiles_to_graph
from dljax.data.parsers import decode_text, encode_text
from dljax.data.sources import check_labels, from_sampler, permuted_index, repeat, segments, shuffled, windows
from dljax.data.toy import GaussianMixture, eight_gaussians, gaussian_ring

__all__ = [
    "ATOM_FEATURES", "BOND_FEATURES", "CATALOGUE", "Entry", "File", "FileStatus", "GaussianMixture", "GrainSource", "Info", "available", "check",
    "check_labels", "decode_text", "eight_gaussians", "encode_text", "from_sampler", "gaussian_ring", "get", "grain_source", "graph_batch",
    "graph_batches", "info", "load", "open_arrays", "permuted_index", "repeat", "segments", "shuffled", "smiles_to_graph", "where", "windows",
]  # fmt: skip
