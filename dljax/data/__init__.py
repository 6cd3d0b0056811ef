"""Data: a catalogue of real data sets, found or fetched and verified, and sources of batches."""

from dljax.data.catalogue import CATALOGUE, FileStatus, Info, available, check, get, info, load, where
from dljax.data.entry import Entry, File
from dljax.data.graph_batches import graph_batch, graph_batches
from dljax.data.host import GrainSource, grain_source, open_arrays
from dljax.data.latent_semantics import latent_vectors
from dljax.data.links import LinkSplit, split_links
from dljax.data.masking import Masked, mask_tokens
from dljax.data.memory_tasks import adding_problem
from dljax.data.molecules import ATOM_FEATURES, BOND_FEATURES, smiles_to_graph
from dljax.data.neighbours import Neighbourhood, NeighbourLists, neighbour_lists, neighbourhoods, sample_neighbourhood
from dljax.data.parsers import decode_text, encode_text
from dljax.data.planar_densities import PLANAR_DENSITIES, PlanarDensity, checkerboard, pinwheel, two_moons
from dljax.data.random_walks import random_walks, sample_walks, second_order_probabilities
from dljax.data.sources import check_labels, from_sampler, permuted_index, repeat, segments, shuffled, windows
from dljax.data.span_corruption import Spans, corrupt_spans, join_spans
from dljax.data.streams import stream_segments, streams
from dljax.data.sword import parallel_verses
from dljax.data.text import Vocabulary, bag_of_words, cooccurrences, split_words, tf_idf
from dljax.data.tokenisers import Encoded, Tokeniser, load_tokeniser, train_tokeniser
from dljax.data.toy import GaussianMixture, eight_gaussians, gaussian_ring
from dljax.data.word_windows import word_windows

__all__ = [
    "ATOM_FEATURES", "BOND_FEATURES", "CATALOGUE", "PLANAR_DENSITIES", "Encoded", "Entry", "File", "FileStatus", "GaussianMixture", "GrainSource",
    "Info", "LinkSplit", "Masked", "NeighbourLists", "Neighbourhood", "PlanarDensity", "Spans", "Tokeniser", "Vocabulary", "adding_problem",
    "available", "bag_of_words", "check", "check_labels", "checkerboard", "cooccurrences", "corrupt_spans", "decode_text", "eight_gaussians",
    "encode_text", "from_sampler", "gaussian_ring", "get", "grain_source", "graph_batch", "graph_batches", "info", "join_spans", "latent_vectors",
    "load", "load_tokeniser", "mask_tokens", "neighbour_lists", "neighbourhoods", "open_arrays", "parallel_verses", "permuted_index", "pinwheel",
    "random_walks", "repeat", "sample_neighbourhood", "sample_walks", "second_order_probabilities", "segments", "shuffled", "smiles_to_graph",
    "split_links", "split_words", "stream_segments", "streams", "tf_idf", "train_tokeniser", "two_moons", "where", "windows", "word_windows",
]  # fmt: skip
