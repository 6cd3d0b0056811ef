"""Data: a catalogue of real data sets, found or fetched and verified, and sources of batches."""

from dljax.data.catalogue import CATALOGUE, FileStatus, Info, available, check, get, info, load, where
from dljax.data.entry import Entry, File
from dljax.data.host import GrainSource, grain_source, open_arrays
from dljax.data.links import LinkSplit, split_links
from dljax.data.masking import Masked, mask_tokens
from dljax.data.neighbours import Neighbourhood, NeighbourLists, neighbour_lists, neighbourhoods, sample_neighbourhood
from dljax.data.parsers import decode_text, encode_text
from dljax.data.random_walks import random_walks, sample_walks, second_order_probabilities
from dljax.data.sources import check_labels, from_sampler, permuted_index, repeat, segments, shuffled, windows
from dljax.data.tokenisers import Encoded, Tokeniser, load_tokeniser, train_tokeniser
from dljax.data.toy import GaussianMixture, eight_gaussians, gaussian_ring

__all__ = [
    "CATALOGUE", "Encoded", "Entry", "File", "FileStatus", "GaussianMixture", "GrainSource", "Info", "LinkSplit", "Masked", "NeighbourLists",
    "Neighbourhood", "Tokeniser", "available", "check", "check_labels", "decode_text", "eight_gaussians", "encode_text", "from_sampler",
    "gaussian_ring", "get", "grain_source", "info", "load", "load_tokeniser", "mask_tokens", "neighbour_lists", "neighbourhoods", "open_arrays",
    "permuted_index", "random_walks", "repeat", "sample_neighbourhood", "sample_walks", "second_order_probabilities", "segments", "shuffled",
    "split_links", "train_tokeniser", "where", "windows",
]  # fmt: skip
