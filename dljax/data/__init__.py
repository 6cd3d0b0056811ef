"""Data: a catalogue of real data sets, found or fetched and verified, and sources of batches."""

from dljax.data.catalogue import CATALOGUE, FileStatus, Info, available, check, get, info, load, where
from dljax.data.entry import Entry, File
from dljax.data.host import GrainSource, grain_source, open_arrays
from dljax.data.masking import Masked, mask_tokens
from dljax.data.parsers import decode_text, encode_text
from dljax.data.sources import check_labels, from_sampler, permuted_index, repeat, segments, shuffled, windows
from dljax.data.span_corruption import Spans, corrupt_spans, join_spans
from dljax.data.tokenisers import Encoded, Tokeniser, load_tokeniser, train_tokeniser
from dljax.data.toy import GaussianMixture, eight_gaussians, gaussian_ring

__all__ = [
    "CATALOGUE", "Encoded", "Entry", "File", "FileStatus", "GaussianMixture", "GrainSource", "Info", "Masked", "Spans", "Tokeniser", "available",
    "check", "check_labels", "corrupt_spans", "decode_text", "eight_gaussians", "encode_text", "from_sampler", "gaussian_ring", "get",
    "grain_source", "info", "join_spans", "load", "load_tokeniser", "mask_tokens", "open_arrays", "permuted_index", "repeat", "segments", "shuffled",
    "train_tokeniser", "where", "windows",
]  # fmt: skip
