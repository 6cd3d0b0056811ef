"""Texts from a causal Transformer: prompts read in one pass, then token by token with the keys and values kept, as one compiled program."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from dljax.core import precision
from dljax.core.checks import check_choice, check_int, check_range
from dljax.core.contract import Key
from dljax.models.decoding import Beams, Decoded, Step, beam_search, greedy, sample
from dljax.nn.transformer import Attention


def generate(
    model: Any,
    params: Mapping[str, Any],
    prompt: Shaped[Array, "..."],
    *,
    max_tokens: int,
    lengths: Int[Array, "B"] | None = None,
    method: str = "greedy",
    key: Key | None = None,
    stop_tokens: Sequence[int] = (),
    pad_token: int = 0,
    **options: Any,
) -> Decoded | Beams:
    """Continue texts with a causal model, such as a `GPT` or a `Llama`.

    The prompts are read in one pass into a cache of keys and values, and each further token costs the work of one position. The cache is as large as
    prompt and text from the start and is written in place: memory does not grow; linear attention keeps sums instead, whose size does not depend on
    the length. Where prompt and text are longer than the model's context, each token is drawn from the last C tokens, read anew; that costs a whole
    pass a token.

    Compile it whole, `jax.jit(partial(generate, model, max_tokens=100))`; prompts of one shape are one program.

    Args:
      model: a linen module called as `GPT` is, with its attributes `config`, `num_layers`, `width` and `context`.
      params: its variables, `{"params": ...}`.
      prompt: whole numbers [B, P], P >= 1, padded on the right.
      max_tokens: the most tokens of a text, >= 1.
      lengths: how many tokens of each prompt are real, in 1 ... P; None for all. A text does not depend on its prompt's padding.
      method: "greedy", "sample" or "beam_search": which function of `dljax.models.decoding` chooses.
      key: for "sample".
      stop_tokens: which tokens end a text.
      pad_token: what stands behind the end.
      options: of the method: `temperature`, `top_k`, `top_p`, `min_p`; `num_beams`, `length_penalty`, `early_stopping`.
    Returns:
      What the method returns: `Decoded` with tokens [B, max_tokens], or `Beams` with tokens [B, K, max_tokens].
    Raises:
      ValueError: no prompt, lengths outside 1 ... P, an option out of range, "sample" without a key. TypeError: a prompt that is not whole numbers,
        an option that the method does not have.

    >>> from dljax.models.gpt import GPT
    >>> gpt = GPT(vocab_size=10, context=8, num_layers=1, num_heads=1, width=8)
    >>> variables = jax.jit(gpt.init)(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    >>> prompt = jnp.array([[1, 2, 3], [4, 0, 0]])
    >>> generate(gpt, variables, prompt, max_tokens=5, lengths=jnp.array([3, 1]), method="sample", key=jax.random.key(1)).tokens.shape
    (2, 5)
    """
    check_method("generate", method, key, max_tokens)
    if prompt.ndim != 2 or prompt.shape[1] == 0:
        raise ValueError(f"generate: prompt must be tokens [B, P] with P >= 1, got shape {prompt.shape}")
    if not jnp.issubdtype(prompt.dtype, jnp.integer):
        raise TypeError(f"generate: prompt must be whole numbers, got {prompt.dtype}")
    if lengths is not None:
        check_range("generate", "lengths", lengths, 1, prompt.shape[1])

    def run(params: Mapping[str, Any], prompt: Array, lengths: Any) -> Decoded | Beams:
        start = read_prompts(model, params, prompt, lengths, max_tokens=max_tokens)
        return decoded(start, method, key, max_tokens=max_tokens, stop_tokens=stop_tokens, pad_token=pad_token, **options)

    # Parameters are cast once, at the door, and not for every token.
    result: Decoded | Beams = precision.wrap(run)(params, prompt, lengths)
    return result


class Start(NamedTuple):
    """What the functions of `dljax.models.decoding` go on from when the prompts have been read.

    Attributes:
      step: `(params, cache, tokens [B]) -> (logits [B, V], cache)`.
      params: the model's, as the step wants them.
      cache: what was read, all but the last token of each prompt.
      batch_axis: where its rows are.
      last: [B, 1], the last token of each prompt, which the decoders read themselves.
    """

    step: Step
    params: Any
    cache: Any
    batch_axis: Any
    last: Int[Array, "B 1"]


def read_prompts(
    model: Any, params: Mapping[str, Any], prompt: Int[Array, "B P"], lengths: Int[Array, "B"] | None = None, *, max_tokens: int
) -> Start:
    """Read prompts in one pass, with room for `max_tokens` more; arguments as for `generate`.

    >>> from dljax.models.gpt import GPT
    >>> gpt = GPT(vocab_size=10, context=8, num_layers=1, num_heads=1, width=8)
    >>> variables = jax.jit(gpt.init)(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    >>> start = read_prompts(gpt, variables, jnp.array([[1, 2, 3], [4, 0, 0]]), jnp.array([3, 1]), max_tokens=2)
    >>> start.last.tolist(), start.cache.start.tolist(), int(start.cache.length)
    ([[3], [4]], [0, 2], 2)
    """
    batch, longest = prompt.shape
    lengths = jnp.full(batch, longest, jnp.int32) if lengths is None else jnp.asarray(lengths, jnp.int32)
    # From padding on the right to padding on the left: all rows end at the same place.
    padding = longest - lengths
    places = (jnp.arange(longest)[None] - padding[:, None]) % longest
    tokens = jnp.take_along_axis(prompt.astype(jnp.int32), places, 1)
    first, last = tokens[:, :-1], tokens[:, -1:]
    room = longest + max_tokens - 1
    if room > model.context:
        seen = first[:, -model.context :]
        seen = jnp.pad(seen, ((0, 0), (model.context - seen.shape[1], 0)))
        # A row of the window is its last C tokens, padded on the left, and how many of them are real.
        return Start(_window_step(model), params, (seen, jnp.minimum(lengths - 1, model.context)), 0, last)
    cache = empty_cache(model, batch, room, start=padding, dtype=_dtype(params))
    if longest > 1:
        _, cache = model.apply(params, first, cache=cache)
    if model.is_unrolled is False:
        return Start(_cached_step(model), params, cache, cache.batch_axis, last)
    return layer_by_layer(_cached_step(model.clone(is_unrolled=True)), params, cache, last)


def layer_by_layer(step: Step, params: Mapping[str, Any], cache: Any, last: Int[Array, "B 1"]) -> Start:
    """What `read_prompts` returns, with the layers of `decoder/layers` and of the cache taken apart before the loop.

    Sliced in it, the weights would be copied for every token, and the cache with them.

    Args:
      step: of a model whose layers are unrolled.
      params, cache, last: as in `Start`.

    >>> from dljax.nn import KeyValueCache
    >>> cache = KeyValueCache.empty(num_layers=2, batch=1, size=4, num_groups=1, head_size=3)
    >>> params = {"params": {"decoder": {"layers": {"kernel": jnp.ones((2, 3))}}}}
    >>> len(layer_by_layer(lambda params, cache, tokens: None, params, cache, jnp.zeros((1, 1), jnp.int32)).cache.key)
    2
    """
    apart = partial(_apart, num_layers=len(cache.layers[0]))
    axes = jax.tree.map(lambda _: 0, _layers_of(cache))
    kept = cache._replace(**{name: jax.tree.map(apart, part) for name, part in _layers_of(cache).items()})
    params = _with_layers(params, apart(params["params"]["decoder"]["layers"]))
    return Start(_layered(step), params, kept, cache.batch_axis._replace(**axes), last)


def decoded(start: Start, method: str, key: Key | None, **options: Any) -> Decoded | Beams:
    """What one of the decoders makes of a start; arguments as for `generate`.

    >>> start = Start(lambda params, cache, tokens: (params[tokens], cache), jnp.eye(3)[::-1], (), 0, jnp.array([[0]]))
    >>> decoded(start, "greedy", None, max_tokens=4).tokens.tolist()
    [[2, 0, 2, 0]]
    """
    if method == "beam_search":
        return beam_search(start.step, start.params, start.cache, start.last, batch_axis=start.batch_axis, **options)
    if key is None:
        return greedy(start.step, start.params, start.cache, start.last, **options)
    return sample(key, start.step, start.params, start.cache, start.last, **options)


def check_method(who: str, method: str, key: Key | None, max_tokens: int) -> None:
    """Refuse what cannot be decoded with.

    Raises:
      ValueError: an unknown method, one that draws without a key or does not draw with one, less than one token.

    >>> check_method("generate", "sample", None, 3)
    Traceback (most recent call last):
    ValueError: generate: method='sample' draws at random: give a key
    """
    check_choice(who, "method", method, ("greedy", "sample", "beam_search"))
    check_int(who, "max_tokens", max_tokens, minimum=1)
    if (key is None) == (method == "sample"):
        raise ValueError(f"{who}: method={method!r} {'draws at random: give a key' if key is None else 'does not draw: leave the key out'}")


def empty_cache(model: Any, batch: int, size: int, *, start: Int[Array, "B"] | None = None, dtype: Any = jnp.float32) -> Any:
    """Room for the keys and values of `size` positions of a causal model, or what else its attention keeps; arguments as for `KeyValueCache.empty`.

    Raises:
      ValueError: the model has an attention that keeps nothing.

    >>> from dljax.models.gpt import GPT
    >>> empty_cache(GPT(vocab_size=10), batch=2, size=7).key.shape
    (4, 2, 7, 4, 32)
    """
    attention = (model.config.attention or Attention)(model.config)
    if not hasattr(attention, "empty_cache"):
        raise ValueError(f"empty_cache: {type(attention).__name__} has no method empty_cache, and its texts cannot be continued by generate")
    return attention.empty_cache(width=model.width, num_layers=model.num_layers, batch=batch, size=size, start=start, dtype=dtype)


def _cached_step(model: Any) -> Step:
    def step(params: Any, cache: Any, tokens: Int[Array, "B"]) -> tuple[Float[Array, "B V"], Any]:
        logits, cache = model.apply(params, tokens[:, None], cache=cache)
        return logits[:, 0], cache

    return step


def _layered(step: Step) -> Step:
    """A step whose parameters and cache are lists of layers; XLA sees through stacking and slicing."""

    def layered(params: Any, cache: Any, tokens: Int[Array, "B"]) -> tuple[Float[Array, "B V"], Any]:
        layers = params["params"]["decoder"]["layers"]
        is_list = partial(jax.tree.map, is_leaf=lambda leaf: isinstance(leaf, list))
        stacked = cache._replace(**{name: is_list(jnp.stack, part) for name, part in _layers_of(cache).items()})
        logits, after = step(_with_layers(params, jax.tree.map(lambda *parts: jnp.stack(parts), *layers)), stacked, tokens)
        return logits, after._replace(**{name: jax.tree.map(list, part) for name, part in _layers_of(after).items()})

    return layered


def _layers_of(cache: Any) -> dict[str, Any]:
    """What a cache has of each layer."""
    parts = {name: getattr(cache, name, None) for name in ("key", "value", "memory", "moments", "total")}
    return {name: part for name, part in parts.items() if part is not None}


def _apart(tree: Any, num_layers: int) -> list[Any]:
    return [jax.lax.optimization_barrier(jax.tree.map(lambda leaf, layer=layer: leaf[layer], tree)) for layer in range(num_layers)]


def _with_layers(params: Mapping[str, Any], layers: Any) -> dict[str, Any]:
    tree = params["params"]
    return {**params, "params": {**tree, "decoder": {**tree["decoder"], "layers": layers}}}


def _window_step(model: Any) -> Step:
    def step(params: Any, window: Any, tokens: Int[Array, "B"]) -> tuple[Float[Array, "B V"], Any]:
        seen, lengths = window
        seen = jnp.concatenate([seen[:, 1:], tokens[:, None]], 1)
        lengths = jnp.minimum(lengths + 1, model.context)
        positions = jnp.arange(model.context)[None] - (model.context - lengths)[:, None]
        logits = model.apply(params, seen, positions >= 0, positions=jnp.maximum(positions, 0))
        return logits[:, -1], (seen, lengths)

    return step


def _dtype(params: Any) -> Any:
    return jnp.result_type(*(leaf.dtype for leaf in jax.tree.leaves(params) if jnp.issubdtype(leaf.dtype, jnp.floating)))
