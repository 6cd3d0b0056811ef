"""The pronunciations of g2p-en (Park & Kim, 2019): a GRU encoder-decoder whose weights come with the Python package of that name."""

import hashlib
import importlib.util
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dljax.data.pronunciations import encode_tokens
from dljax.models.seq2seq import Seq2Seq
from dljax.models.translation import translator
from dljax.nn.model import Variables

GRAPHEMES = ("<pad>", "<unk>", "</s>", *"abcdefghijklmnopqrstuvwxyz")
PHONEMES = (
    "<pad>", "<unk>", "<s>", "</s>", "AA0", "AA1", "AA2", "AE0", "AE1", "AE2", "AH0", "AH1", "AH2", "AO0", "AO1", "AO2", "AW0", "AW1", "AW2", "AY0",
    "AY1", "AY2", "B", "CH", "D", "DH", "EH0", "EH1", "EH2", "ER0", "ER1", "ER2", "EY0", "EY1", "EY2", "F", "G", "HH", "IH0", "IH1", "IH2", "IY0",
    "IY1", "IY2", "JH", "K", "L", "M", "N", "NG", "OW0", "OW1", "OW2", "OY0", "OY1", "OY2", "P", "R", "S", "SH", "T", "TH", "UH0", "UH1", "UH2", "UW",
    "UW0", "UW1", "UW2", "V", "W", "Y", "Z", "ZH",
)  # fmt: skip
MAX_PHONEMES = 20

_SHA256 = "b8af35e4596d8dd5836dfd3fe9b2ba4f97b9c311efe8879544cbcfcbd566d8c6"
_SIZE = 3342298


def g2p_en(path: str | os.PathLike[str] | None = None) -> tuple[Seq2Seq, Variables]:
    """The model of g2p-en 2.1.0, and its weights.

    Its GRU is ours: gates in the order r, z, n, the reset gate after the product. Its two biases of a gate, b and d, are added for r and z:

      n = tanh(W_n x + b_n + r (U_n h + d_n)),   r = σ(W_r x + U_r h + (b_r + d_r)),   z likewise,   h' = (1 - z) n + z h

    Args:
      path: of checkpoint20.npz; None for the one in the installed package, which is not imported (it would ask for data of nltk).
    Returns:
      The model, and its variables.
    Raises:
      FileNotFoundError: the package is not installed, or there is no such file. ValueError: another file; nothing of it is read.

    >>> g2p_en("/nowhere/checkpoint20.npz")
    Traceback (most recent call last):
    FileNotFoundError: g2p_en: there is no file /nowhere/checkpoint20.npz; `pip install 'g2p-en==2.1.0'` brings it
    """
    if path is None:
        spec = importlib.util.find_spec("g2p_en")
        path = Path(((spec and spec.submodule_search_locations) or ["g2p_en"])[0], "checkpoint20.npz")
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"g2p_en: there is no file {path}; `pip install 'g2p-en==2.1.0'` brings it")
    with path.open("rb") as file:
        content = file.read(_SIZE + 1)
    if len(content) != _SIZE or (found := hashlib.sha256(content).hexdigest()) != _SHA256:
        got = f"{len(content)} bytes" if len(content) != _SIZE else f"SHA-256 {found}"
        raise ValueError(f"g2p_en: {path} must be the checkpoint of g2p-en 2.1.0, {_SIZE} bytes with SHA-256 {_SHA256}, got {got}")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        weights = {name: np.asarray(arrays[name], np.float32) for name in arrays.files}

    def recurrence(side: str) -> dict[str, Any]:
        given, recurrent = weights[f"{side}_b_ih"], weights[f"{side}_b_hh"]
        size = len(recurrent) // 3
        return {
            "kernel": weights[f"{side}_w_ih"].T,
            "recurrent_kernel": weights[f"{side}_w_hh"].T,
            "bias": given + np.pad(recurrent[: 2 * size], (0, size)),
            "recurrent_bias": recurrent[2 * size :],
        }

    params = {
        "read_embed": {"embedding": weights["enc_emb"]},
        "write_embed": {"embedding": weights["dec_emb"]},
        "encoder_0_0": recurrence("enc"),
        "decoder_0": recurrence("dec"),
        "head": {"kernel": weights["fc_w"].T, "bias": weights["fc_b"]},
    }
    sizes = {"width": weights["fc_w"].shape[1], "embed_size": weights["enc_emb"].shape[1]}
    model = Seq2Seq(len(GRAPHEMES), len(PHONEMES), **sizes, cell="gru", attention=None, is_bidirectional=False)
    return model, {"params": jax.tree.map(jnp.asarray, params)}


def pronounce(model: Seq2Seq, variables: Mapping[str, Any], words: Sequence[str]) -> list[list[str]]:
    """What the model makes of words, the likeliest phoneme at each time, all words at once.

    Args:
      model, variables: of `g2p_en`.
      words: of small letters; other characters are read as unknown.
    Returns:
      For each word its phonemes, vowels with their stress, at most 20.
    Raises:
      ValueError: there is no word.

    What a network says that learned nothing:

    >>> model = Seq2Seq(len(GRAPHEMES), len(PHONEMES), width=8, embed_size=4, cell="gru", attention=None, is_bidirectional=False)
    >>> x = {"source": jnp.ones((1, 2), jnp.int32), "inputs": jnp.ones((1, 2), jnp.int32)}
    >>> set(pronounce(model, jax.jit(model.init)(jax.random.key(0), x), ["hello"])[0]) <= set(PHONEMES)
    True
    """
    if not words:
        raise ValueError("pronounce: words must be at least one word, got none")
    spelt = [[*(letter if letter in GRAPHEMES else "<unk>" for letter in word), "</s>"] for word in words]
    source, lengths = encode_tokens(spelt, GRAPHEMES)
    write = translator(model, max_tokens=MAX_PHONEMES, start_token=PHONEMES.index("<s>"), stop_token=PHONEMES.index("</s>"))
    found = jax.jit(write)(jax.random.key(0), variables, jnp.asarray(source), jnp.asarray(lengths))
    tokens, nums = np.asarray(found.tokens[:, 0]), np.asarray(found.lengths[:, 0])
    return [[PHONEMES[token] for token in row[:num] if PHONEMES[token] != "</s>"] for row, num in zip(tokens, nums, strict=True)]
