"""Data: a catalogue of real data sets, found or fetched and verified, and sources of batches."""

from dljax.data.catalogue import CATALOGUE, FileStatus, Info, available, check, get, info, load, where
from dljax.data.entry import Entry, File
from dljax.data.host import GrainSource, grain_source, open_arrays
from dljax.data.parsers import decode_text, encode_text
from dljax.data.sources import check_labels, from_sampler, permuted_index, repeat, segments, shuffled, windows
from dljax.data.streams import stream_segments, streams
from dljax.data.sword import parallel_verses
from dljax.data.toy import GaussianMixture, eight_gaussians, gaussian_ring

__all__ = [
    "CATALOGUE", "Entry", "File", "FileStatus", "GaussianMixture", "GrainSource", "Info", "available", "check", "check_labels", "decode_text",
    "eight_gaussians", "encode_text", "from_sampler", "gaussian_ring", "get", "grain_source", "info", "load", "open_arrays", "parallel_verses",
    "permuted_index", "repeat", "segments", "shuffled", "stream_segments", "streams", "where", "windows",
]  # fmt: skip
