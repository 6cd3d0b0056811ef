"""A sequence-to-sequence model at work: what it trains on, and what it writes."""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from dljax.core.checks import check_int
from dljax.core.contract import Key, Numeric
from dljax.models.decoding import Beams, Step, beam_search
from dljax.models.seq2seq import Seq2Seq


def teacher_forcing(
    source: Shaped[Any, "N S"],
    source_lengths: Shaped[Any, "N"],
    target: Shaped[Any, "N T"],
    target_lengths: Shaped[Any, "N"],
    *,
    start_token: int = 0,
    stop_token: int = 1,
) -> dict[str, Any]:
    """Pairs of sequences as what `supervised` trains a `Seq2Seq` on: the decoder reads each target behind the start, and predicts it up to the stop.

    Args:
      source, target: ids, padded on the right.
      source_lengths, target_lengths: how many of each row are real.
      start_token, stop_token: ids that no target has.
    Returns:
      `{"x": {"source", "lengths", "inputs": [N, T+1]}, "y": [N, T+1], "mask": float32 [N, T+1]}`, NumPy arrays; the mask is 0 behind the stop.
    Raises:
      ValueError: a target that has one of both tokens.

    >>> batch = teacher_forcing(np.ones((1, 2), int), np.array([2]), np.array([[5, 6, 0]]), np.array([2]))
    >>> batch["x"]["inputs"].tolist(), batch["y"].tolist(), batch["mask"].tolist()
    ([[0, 5, 6, 0]], [[5, 6, 1, 0]], [[1.0, 1.0, 1.0, 0.0]])
    """
    target, lengths = np.asarray(target), np.asarray(target_lengths)
    is_real = np.arange(target.shape[1])[None] < lengths[:, None]
    if (is_real & np.isin(target, (start_token, stop_token))).any():
        raise ValueError(f"teacher_forcing: targets must not have the tokens {start_token} and {stop_token}, which stand for start and stop")
    inputs = np.pad(np.where(is_real, target, start_token), ((0, 0), (1, 0)), constant_values=start_token)
    y = np.pad(np.where(is_real, target, start_token), ((0, 0), (0, 1)), constant_values=start_token)
    y[np.arange(len(y)), lengths] = stop_token
    mask = np.arange(y.shape[1])[None] <= lengths[:, None]
    x = {"source": np.asarray(source, np.int32), "lengths": np.asarray(source_lengths, np.int32), "inputs": inputs.astype(np.int32)}
    return {"x": x, "y": y.astype(np.int32), "mask": mask.astype(np.float32)}


def encoder(model: Seq2Seq) -> Callable[..., dict[str, Any]]:
    """A function `encode(params, source, lengths=None) -> cache`, what the functions of `dljax.models.decoding` start from.

    Args:
      model: whose variables, `{"params": ...}`, are the function's `params`.

    >>> callable(encoder(Seq2Seq(source_size=5, target_size=7)))
    True
    """

    def encode(params: Mapping[str, Any], source: Int[Array, "B S"], lengths: Int[Array, "B"] | None = None) -> dict[str, Any]:
        cache: Any = model.apply(params, source, lengths, method="encode")
        return cache

    return encode


def decoder_step(model: Seq2Seq) -> Step:
    """A function `step(params, cache, tokens) -> (logits, cache)`, what the functions of `dljax.models.decoding` call.

    >>> import jax
    >>> from dljax.models.decoding import greedy
    >>> model = Seq2Seq(source_size=5, target_size=7, width=8, embed_size=4)
    >>> source = jnp.ones((2, 3), jnp.int32)
    >>> params = jax.jit(model.init)(jax.random.key(0), {"source": source, "inputs": source})
    >>> greedy(decoder_step(model), params, encoder(model)(params, source), jnp.zeros((2, 1), jnp.int32), max_tokens=6).tokens.shape
    (2, 6)
    """

    def step(params: Mapping[str, Any], cache: Mapping[str, Any], tokens: Int[Array, "B"]) -> tuple[Float[Array, "B V"], dict[str, Any]]:
        result: Any = model.apply(params, cache, tokens, method="step")
        return result

    return step


def translator(model: Seq2Seq, *, max_tokens: int, num_beams: int = 1, start_token: int = 0, stop_token: int = 1) -> Callable[..., Beams]:
    """A function that writes what a `Seq2Seq` makes of its sources.

    Args:
      max_tokens: the most tokens that it writes, the stop included, >= 1.
      num_beams: K >= 1; 1 takes the likeliest token at each time.
      start_token, stop_token: as in training.
    Returns:
      `translate(key, params, source, lengths=None, *, length_penalty=1.0)`, which gives the `Beams` of `beam_search`, the best first. The key is not
      used: it is there because all functions of a learner have one.
    Raises:
      ValueError: an option out of range.

    >>> import jax
    >>> model = Seq2Seq(source_size=5, target_size=7, width=8, embed_size=4)
    >>> source = jnp.ones((2, 3), jnp.int32)
    >>> params = jax.jit(model.init)(jax.random.key(0), {"source": source, "inputs": source})
    >>> translator(model, max_tokens=6, num_beams=2)(jax.random.key(1), params, source).tokens.shape
    (2, 2, 6)
    """
    check_int("translator", "max_tokens", max_tokens, minimum=1)
    check_int("translator", "num_beams", num_beams, minimum=1)
    encode, step = encoder(model), decoder_step(model)

    def translate(
        key: Key, params: Mapping[str, Any], source: Int[Array, "B S"], lengths: Int[Array, "B"] | None = None, *, length_penalty: Numeric = 1.0
    ) -> Beams:
        start = jnp.full((len(source), 1), start_token, jnp.int32)
        options: dict[str, Any] = {"num_beams": num_beams, "early_stopping": num_beams == 1, "length_penalty": length_penalty}
        stops: dict[str, Any] = {"stop_tokens": (stop_token,), "pad_token": start_token}
        return beam_search(step, params, encode(params, source, lengths), start, max_tokens=max_tokens, **options, **stops)

    return translate
