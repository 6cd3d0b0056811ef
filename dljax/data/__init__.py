"""Data: a catalogue of real data sets, found or fetched and verified, and sources of batches."""

from dljax.data.catalogue import CATALOGUE, FileStatus, Info, available, check, get, info, load, where
from dljax.data.entry import Entry, File
from dljax.data.host import GrainSource, grain_source, open_arrays
from dljax.data.memory_tasks import adding_problem
from dljax.data.parsers import decode_text, encode_text
from dljax.data.sources import check_labels, from_sampler, permuted_index, repeat, segments, shuffled, windows
from dljax.data.streams import stream_segments, streams
from dljax.data.sword import parallel_verses
from dljax.data.text import Vocabulary, bag_of_words, cooccurrences, split_words, tf_idf
from dljax.data.toy import GaussianMixture, eight_gaussians, gaussian_ring
from dljax.data.word_windows import word_windows

__all__ = [
    "CATALOGUE", "Entry", "File", "FileStatus", "GaussianMixture", "GrainSource", "Info", "Vocabulary", "adding_problem", "available",
    "bag_of_words", "check", "check_labels", "cooccurrences", "decode_text", "eight_gaussians", "encode_text", "from_sampler", "gaussian_ring",
    "get", "grain_source", "info", "load", "open_arrays", "parallel_verses", "permuted_index", "repeat", "segments", "shuffled", "split_words",
    "stream_segments", "streams", "tf_idf", "where", "windows", "word_windows",
]  # fmt: skip
