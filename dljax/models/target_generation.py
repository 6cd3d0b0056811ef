"""What an encoder-decoder Transformer writes: the source is read once, then token by token with the keys and values of both kept."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from dljax.core import precision
from dljax.core.checks import check_int
from dljax.core.contract import Key
from dljax.models.decoding import Beams, Decoded, Step
from dljax.models.generation import Start, check_method, decoded, layer_by_layer
from dljax.nn.key_value_cache import KeyValueCache


def generate_target(
    model: Any,
    params: Mapping[str, Any],
    source: Shaped[Array, "B S"],
    *,
    max_tokens: int,
    start_token: int,
    mask: Bool[Array, "B S"] | None = None,
    method: str = "greedy",
    key: Key | None = None,
    stop_tokens: Sequence[int] = (),
    pad_token: int = 0,
    **options: Any,
) -> Decoded | Beams:
    """Write the targets of sources with a model such as `T5` or `EncoderDecoder`.

    The encoder runs once; the keys and values of what it read are computed once in each layer and remembered, and each token costs the work of one
    position. Compile it whole, `jax.jit(partial(generate_target, model, max_tokens=100, start_token=0))`.

    Args:
      model: a linen module with the methods `encode` and `decode` of `T5`, its `config`, `decoder_layers` and `is_unrolled`.
      params: its variables, `{"params": ...}`.
      source: whole numbers [B, S].
      max_tokens: the most tokens of a target, >= 1.
      start_token: what the decoder reads first, such as T5's `pad`.
      mask: True where a source token may be read; None for all that are not the model's `pad`. A target does not depend on its source's padding.
      method, key, stop_tokens, pad_token, options: as for `dljax.models.generate`.
    Returns:
      What the method returns: `Decoded` with tokens [B, max_tokens], or `Beams` with tokens [B, K, max_tokens].
    Raises:
      ValueError: an option out of range, sources that are not [B, S], "sample" without a key. TypeError: sources that are not whole numbers, an
        option that the method does not have.

    >>> from dljax.models.t5 import T5
    >>> t5 = T5(vocab_size=10, width=8, num_layers=1, num_heads=2, head_size=4)
    >>> source = jnp.array([[3, 4, 0], [5, 6, 7]])
    >>> variables = jax.jit(t5.init)(jax.random.key(0), {"source": source, "inputs": source})
    >>> generate_target(t5, variables, source, max_tokens=5, start_token=0, stop_tokens=[1]).tokens.shape
    (2, 5)
    """
    check_method("generate_target", method, key, max_tokens)
    check_int("generate_target", "start_token", start_token)
    num_beams = options.get("num_beams", 4) if method == "beam_search" else 1
    check_int("generate_target", "num_beams", num_beams, minimum=1)
    more = {**options, "num_beams": num_beams} if method == "beam_search" else options

    def run(params: Mapping[str, Any], source: Array, mask: Any) -> Decoded | Beams:
        start = read_source(model, params, source, mask, start_token=start_token, max_tokens=max_tokens, num_beams=num_beams)
        return decoded(start, method, key, max_tokens=max_tokens, stop_tokens=stop_tokens, pad_token=pad_token, **more)

    # Parameters are cast once, at the door, and not for every token.
    result: Decoded | Beams = precision.wrap(run)(params, source, mask)
    return result


def read_source(
    model: Any,
    params: Mapping[str, Any],
    source: Int[Array, "B S"],
    mask: Bool[Array, "B S"] | None = None,
    *,
    start_token: int,
    max_tokens: int,
    num_beams: int = 1,
) -> Start:
    """Read sources, with room for `max_tokens` of the targets and the memory laid out for `num_beams`; arguments as for `generate_target`.

    >>> from dljax.models.t5 import T5
    >>> t5 = T5(vocab_size=10, width=8, num_layers=1, num_heads=2, head_size=4)
    >>> source = jnp.array([[3, 4, 0], [5, 6, 7]])
    >>> variables = jax.jit(t5.init)(jax.random.key(0), {"source": source, "inputs": source})
    >>> start = read_source(t5, variables, source, start_token=0, max_tokens=5, num_beams=3)
    >>> start.last.tolist(), start.cache.memory_mask.astype(int).tolist()[:4]
    ([[0], [0]], [[1, 1, 0], [1, 1, 0], [1, 1, 0], [1, 1, 1]])
    """
    mask = source != model.pad if mask is None and model.pad is not None else mask
    # Beside its memory a model may keep something of the source, in variables of its own.
    memory, kept = model.apply(params, source, mask, method="encode", mutable=["read"])
    params = {**params, **kept}
    config, num_layers = model.config(True), model.decoder_layers
    size = config.size_of_head(model.width)
    cache = KeyValueCache.empty(
        num_layers=num_layers, batch=len(source), size=max_tokens, num_groups=config.groups, head_size=size, dtype=memory.dtype
    )
    last = jnp.full((len(source), 1), start_token, jnp.int32)
    # For the memory's keys and values alone: the decoders read the start themselves, and write it over this one.
    _, cache = model.apply(params, last, memory, mask, cache=cache, method="decode")
    # The beams of a source share its memory, and need not carry it along when they change places.
    repeated = jax.tree.map(lambda part: jnp.repeat(part, num_beams, 1), cache.memory)
    cache = cache._replace(length=jnp.zeros_like(cache.length), memory=repeated)
    cache = cache._replace(memory_mask=None if mask is None else jnp.repeat(mask, num_beams, 0))
    params = {**params, **jax.tree.map(lambda part: jnp.repeat(part, num_beams, 0), kept)}
    if model.is_unrolled is False:
        start = Start(_step(model), params, cache, cache.batch_axis, last)
    else:
        start = layer_by_layer(_step(model.clone(is_unrolled=True)), params, cache, last)
    return start._replace(batch_axis=start.batch_axis._replace(memory=None, memory_mask=None))


def _step(model: Any) -> Step:
    def step(params: Any, cache: KeyValueCache, tokens: Int[Array, "B"]) -> tuple[Float[Array, "B V"], KeyValueCache]:
        logits, cache = model.apply(params, tokens[:, None], cache=cache, method="decode")
        return logits[:, 0], cache

    return step
