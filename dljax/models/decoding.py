"""Decoding: sequences drawn from any model that says what may come next, as one compiled loop: greedy, sampled, or by beam search.

A model is a pure function `step(params, cache, tokens) -> (logits, cache)`: it reads one token of every row and says how likely each next one is.

- tokens: int32 [B], logits: [B, V].
- cache: whatever the model carries from token to token, a pytree of arrays with one entry a row: a recurrent state, keys and values, an encoder's
  outputs. Its rows are on axis 0, or where `batch_axis` says: an int, or a tree of them that is a prefix of the cache's, such as
  `{"layers": 1, "place": None}`; None for what all rows share.

Rows begin with prompts, which may differ in length: prompts [B, P] are padded on the right and `lengths` [B] says how much of each is real. The loop
forces the real tokens in and ignores what the model thinks of them; each row then goes on by itself, so that a row's result depends neither on the
padding nor on the other rows. A cache that has read the prompts already is given the last token of each alone, as a prompt [B, 1].

A row ends with a stop token or after `max_tokens` tokens, and the loop ends with the last row. Whoever wants to forbid tokens wraps the step.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Shaped

from dljax.core.checks import check_choice, check_int, check_range
from dljax.core.contract import Key, Numeric, Params

type_aliases = ("Step",)

Step = Callable[[Any, Any, Array], tuple[Array, Any]]  # (params, cache, tokens [B]) -> (logits [B, V], cache)


class Decoded(NamedTuple):
    """One sequence a row.

    Attributes:
      tokens: int32 [B, N], what follows the prompt, the stop token included, then padding.
      lengths: int32 [B], how many of them are real, the stop token included; at least 1.
    """

    tokens: Int[Array, "B N"]
    lengths: Int[Array, "B"]


class Beams(NamedTuple):
    """The K best sequences of each row, the best first.

    Attributes:
      tokens: int32 [B, K, N], as in `Decoded`.
      lengths: int32 [B, K].
      scores: [B, K], log-probability / length^α in nats; -inf where fewer than K sequences were found, which have length 0.
    """

    tokens: Int[Array, "B K N"]
    lengths: Int[Array, "B K"]
    scores: Float[Array, "B K"]


def greedy(
    step: Step,
    params: Params,
    cache: Any,
    prompt: Shaped[Array, "..."],
    *,
    max_tokens: int,
    lengths: Int[Array, "B"] | None = None,
    stop_tokens: Sequence[int] = (),
    pad_token: int = 0,
) -> Decoded:
    """Take the likeliest token, again and again; of equally likely ones the first.

      x_t = argmax_v logits_v(x_{<t})

    Args:
      step, cache: the model and what it starts from, as this module describes them.
      prompt: whole numbers [B, P], P >= 1: the sequences so far, or a token that stands for their beginning.
      max_tokens: N >= 1, the most tokens of a row.
      lengths: how many tokens of each prompt are real, in 1 ... P; None for all.
      stop_tokens: which tokens end a row; one in a prompt does not. Static under jit.
      pad_token: what stands behind the end.
    Returns:
      Tokens and lengths.
    Raises:
      ValueError: no prompt, lengths outside 1 ... P, `max_tokens` < 1, a negative stop token. TypeError: a prompt that is not whole numbers.

    A model in which v + 1 follows v, on a ring of five; 3 stops:

    >>> def step(params, cache, tokens):
    ...     return jax.nn.one_hot((tokens + 1) % 5, 5), cache
    >>> greedy(step, None, (), jnp.array([[0], [4], [2]]), max_tokens=4, stop_tokens=[3], pad_token=-1).tokens.tolist()
    [[1, 2, 3, -1], [0, 1, 2, 3], [3, -1, -1, -1]]
    """
    return _generate("greedy", step, params, cache, prompt, lambda logits, place: jnp.argmax(logits, -1), max_tokens, lengths, stop_tokens, pad_token)


def sample(
    key: Key,
    step: Step,
    params: Params,
    cache: Any,
    prompt: Shaped[Array, "..."],
    *,
    max_tokens: int,
    temperature: Numeric = 1.0,
    top_k: int | None = None,
    top_p: Numeric | None = None,
    min_p: Numeric | None = None,
    lengths: Int[Array, "B"] | None = None,
    stop_tokens: Sequence[int] = (),
    pad_token: int = 0,
) -> Decoded:
    """Draw each token from what the model believes, sharpened and cut as asked.

      x_t ~ softmax(cut(logits / τ)),   drawn as argmax_v (cut(logits/τ)_v + g_v) with g standard Gumbel

    The cuts come in the order of the arguments, as in the library transformers. The i-th token of row b depends on the key, b and i alone, so that
    more rows change nothing.

    Args:
      temperature: τ >= 0, 0 for the likeliest token; may be traced.
      top_k, top_p, min_p: the cuts of `keep_top_k`, `keep_top_p` and `keep_min_p`; None for none. The latter two may be traced.
      step, cache, prompt, max_tokens, lengths, stop_tokens, pad_token: as for `greedy`.
    Returns:
      Tokens and lengths.
    Raises:
      ValueError: an option out of range, and as for `greedy`. TypeError: as for `greedy`.

    >>> def step(params, cache, tokens):
    ...     return jnp.tile(params[None], (len(tokens), 1)), cache
    >>> heads_or_tails = jnp.log(jnp.array([0.5, 0.5, 1e-3]))
    >>> sample(jax.random.key(0), step, heads_or_tails, (), jnp.zeros((1, 1), jnp.int32), max_tokens=8, min_p=0.1).tokens.tolist()
    [[1, 1, 1, 1, 0, 1, 0, 1]]
    """
    check_range("sample", "temperature", temperature, 0)
    is_warm = jnp.asarray(temperature) > 0

    def choose(logits: Array, place: Array) -> Array:
        # Relative to the best, or a small temperature would make several of them infinite.
        best = logits.max(-1, keepdims=True)
        kept = (logits - jnp.where(jnp.isfinite(best), best, 0)) / jnp.where(is_warm, temperature, 1)
        kept = kept if top_k is None else keep_top_k(kept, top_k)
        kept = kept if top_p is None else keep_top_p(kept, top_p)
        kept = kept if min_p is None else keep_min_p(kept, min_p)
        rows = jnp.arange(len(logits))
        noise = jax.vmap(lambda row, place: jax.random.gumbel(jax.random.fold_in(jax.random.fold_in(key, row), place), logits.shape[1:]))(rows, place)
        return jnp.argmax(kept + jnp.where(is_warm, noise, 0), -1)

    return _generate("sample", step, params, cache, prompt, choose, max_tokens, lengths, stop_tokens, pad_token)


def beam_search(
    step: Step,
    params: Params,
    cache: Any,
    prompt: Shaped[Array, "..."],
    *,
    max_tokens: int,
    num_beams: int = 4,
    length_penalty: Numeric = 1.0,
    early_stopping: bool | str = False,
    batch_axis: Any = 0,
    lengths: Int[Array, "B"] | None = None,
    stop_tokens: Sequence[int] = (),
    pad_token: int = 0,
) -> Beams:
    """Keep the K likeliest beginnings of every row, and of those that ended the K best by a score.

      score(x) = log p(x_1 ... x_n) / n^α

    At every step the likeliest continuations of the K beginnings are ranked by their probability. Those among the first K that end, with a stop
    token or at `max_tokens`, join the finished ones; the best K that do not end are the next beginnings. This is the search of the library
    transformers, whose tokens it gives; with K = 1 and `early_stopping` it is greedy decoding.

    Args:
      num_beams: K >= 1.
      length_penalty: α, any real number; 0 ranks by probability, more favours longer sequences. May be traced.
      early_stopping: when a row with K finished sequences ends.
        - False: when its best beginning, scored as if it ended now, is worse than all of them.
        - True: at once.
        - "never": when no beginning can become better than the worst of them: for α > 0 the best is scored at length `max_tokens`.
      batch_axis: where the rows of the cache's arrays are, so that the K beginnings of a row can change places.
      step, cache, prompt, max_tokens, lengths, stop_tokens, pad_token: as for `greedy`. The step is called with B·K rows, the K of a row together.
    Returns:
      Tokens, lengths and scores of the K finished sequences.
    Raises:
      ValueError: an option out of range, a cache whose rows are not the prompt's, and as for `greedy`. TypeError: as for `greedy`.
    Source: Graves (2012), Sequence transduction with recurrent neural networks, section 3; the penalty of transformers' `generate`.

    The likeliest first token leads into a wood of many ways; the best sequence begins with another:

    >>> def step(table, cache, tokens):
    ...     return table[tokens], cache
    >>> table = jnp.log(jnp.array([[0.6, 0.4, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]))
    >>> beams = beam_search(step, table, (), jnp.array([[0]]), max_tokens=3, num_beams=2, stop_tokens=[2], length_penalty=0.0)
    >>> beams.tokens[0].tolist(), beams.lengths.tolist()
    ([[1, 2, 0], [0, 1, 2]], [[2, 3]])
    >>> [round(float(score), 2) for score in jnp.exp(beams.scores[0])]
    [0.4, 0.24]
    """
    check_int("beam_search", "num_beams", num_beams, minimum=1)
    check_range("beam_search", "length_penalty", length_penalty, open_low=True, open_high=True)
    check_choice("beam_search", "early_stopping", early_stopping, (False, True, "never"))
    prompt, lengths, stops = _checked("beam_search", prompt, max_tokens, lengths, stop_tokens)
    (batch, _), beams = prompt.shape, num_beams
    axes = jax.tree.broadcast(batch_axis, cache, is_leaf=lambda axis: axis is None)
    cache = _map_rows(lambda leaf, axis: jnp.repeat(leaf, beams, axis), _with_rows(batch, cache, axes), axes)
    own, places = jnp.arange(beams)[None], jnp.arange(max_tokens)[None, None]

    def body(state: _Search) -> _Search:
        logits, cache = step(params, state.cache, state.token.reshape(-1))
        log_probs = jax.nn.log_softmax(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
        num_tokens = log_probs.shape[-1]
        total = (log_probs.reshape(batch, beams, num_tokens) + state.log_probs[..., None]).reshape(batch, -1)
        # As many as may end, and K more.
        candidates, place = lax.top_k(total, min(beams * max(2, 1 + len(stop_tokens)), beams * num_tokens))
        parent, token = place // num_tokens, (place % num_tokens).astype(jnp.int32)
        index = state.time + 1 - lengths  # of the token in what is generated; negative in the prompt
        is_active = state.is_open & (index >= 0)
        texts = jnp.where(places == index[:, None, None], token[..., None], _take(state.running, parent))
        is_end = _is_in(token, stops) | (index == max_tokens - 1)[:, None]
        num = jnp.maximum(index, 0) + 1

        def score(log_probs: Array, num: Array) -> Array:
            return log_probs / (num.astype(log_probs.dtype) ** jnp.asarray(length_penalty, log_probs.dtype))[:, None]

        # The finished ones: the best K of the old and the new.
        is_new = is_end & (jnp.arange(candidates.shape[1]) < beams)[None] & (candidates > -jnp.inf)
        old = state.finished
        scores, kept = lax.top_k(jnp.concatenate([old.scores, jnp.where(is_new, score(candidates, num), -jnp.inf)], 1), beams)
        new_lengths = jnp.where(is_new, num[:, None], 0)
        tokens, new_lengths = (_take(jnp.concatenate(pair, 1), kept) for pair in ((old.tokens, texts), (old.lengths, new_lengths)))
        finished = _where(is_active, Beams(tokens, new_lengths, scores), old)

        # The beginnings: the best K of those that have not ended.
        running_log_probs, chosen = lax.top_k(jnp.where(is_end, -jnp.inf, candidates), beams)
        parent = jnp.where(is_active[:, None], _take(parent, chosen), own)
        running, log_probs = _where(is_active, (_take(texts, chosen), running_log_probs), (state.running, state.log_probs))
        forced = jnp.take(prompt, jnp.minimum(state.time + 1, prompt.shape[1] - 1), axis=1)
        token = jnp.where(is_active[:, None], _take(token, chosen), jnp.where((index < 0)[:, None], forced[:, None], state.token))
        rows = (jnp.arange(batch)[:, None] * beams + parent).reshape(-1)
        cache = _map_rows(lambda leaf, axis: jnp.take(leaf, rows, axis, mode="clip"), cache, axes)

        is_full = finished.scores[:, -1] > -jnp.inf
        best_num = jnp.where((early_stopping == "never") & (jnp.asarray(length_penalty) > 0), max_tokens, num)
        can_improve = score(log_probs, best_num)[:, 0] > finished.scores[:, -1]
        is_over = (early_stopping is True) & is_full | ~can_improve
        return _Search(state.time + 1, cache, token, running, log_probs, finished, state.is_open & ~(is_active & is_over))

    shapes = jax.eval_shape(step, params, cache, jnp.zeros(batch * beams, jnp.int32))[0]
    dtype = jnp.promote_types(shapes.dtype, jnp.float32)
    nothing = Beams(
        jnp.full((batch, beams, max_tokens), pad_token, jnp.int32), jnp.zeros((batch, beams), jnp.int32), jnp.full((batch, beams), -jnp.inf, dtype)
    )
    # All begin alike: the first alone counts, or all would go the same way.
    log_probs = jnp.full((batch, beams), -jnp.inf, dtype).at[:, 0].set(0)
    token = jnp.tile(prompt[:, :1], (1, beams))
    state = _Search(jnp.int32(0), cache, token, nothing.tokens, log_probs, nothing, jnp.ones(batch, bool))
    found = lax.while_loop(lambda state: state.is_open.any(), body, state).finished
    return found._replace(tokens=jnp.where(places < found.lengths[..., None], found.tokens, pad_token))


def keep_top_k(logits: Float[Array, "*B V"], k: int) -> Float[Array, "*B V"]:
    """The k largest logits and all that equal the least of them; the others become -inf.

    Args:
      k: >= 1; more than there are keeps all.
    Raises:
      ValueError: `k` < 1.
    Source: Fan, Lewis & Dauphin (2018), Hierarchical neural story generation.

    >>> keep_top_k(jnp.array([1.0, 3.0, 2.0]), 2).tolist()
    [-inf, 3.0, 2.0]
    """
    check_int("keep_top_k", "k", k, minimum=1)
    least = lax.top_k(logits, min(k, logits.shape[-1]))[0][..., -1:]
    return jnp.where(logits < least, -jnp.inf, logits)


def keep_top_p(logits: Float[Array, "*B V"], p: Numeric) -> Float[Array, "*B V"]:
    """The nucleus: the fewest tokens, likeliest first, that together have the probability p, and all that equal the least; the others become -inf.

    Args:
      p: in [0, 1]; the likeliest token is always kept. May be traced.
    Raises:
      ValueError: `p` is outside.
    Source: Holtzman et al. (2020), The curious case of neural text degeneration, eq. 2-3.

    >>> keep_top_p(jnp.array([3.0, 2.0, 1.0]), 0.7).tolist()  # probabilities 0.67, 0.24, 0.09
    [3.0, 2.0, -inf]
    """
    check_range("keep_top_p", "p", p, 0, 1)
    rising = jnp.sort(logits, -1)
    # Those go that, with all the less likely ones, do not have more than what is left.
    is_kept = (jnp.cumsum(jax.nn.softmax(rising, -1), -1) > 1 - p).at[..., -1].set(True)
    least = jnp.min(rising, -1, keepdims=True, where=is_kept, initial=jnp.inf)
    return jnp.where(logits < least, -jnp.inf, logits)


def keep_min_p(logits: Float[Array, "*B V"], p: Numeric) -> Float[Array, "*B V"]:
    """The tokens at least p times as likely as the likeliest; the others become -inf.

    Args:
      p: in [0, 1]; 0 keeps all. May be traced.
    Raises:
      ValueError: `p` is outside.
    Source: Nguyen et al. (2025), Turning up the heat: min-p sampling for creative and coherent LLM outputs.

    >>> keep_min_p(jnp.array([3.0, 2.0, 1.0]), 0.2).tolist()  # probabilities 0.67, 0.24, 0.09
    [3.0, 2.0, -inf]
    """
    check_range("keep_min_p", "p", p, 0, 1)
    probabilities = jax.nn.softmax(logits, -1)
    return jnp.where(probabilities < p * probabilities.max(-1, keepdims=True), -jnp.inf, logits)


class _Search(NamedTuple):
    time: Int[Array, ""]
    cache: Any  # of B·K rows
    token: Int[Array, "B K"]  # what the step reads next
    running: Int[Array, "B K N"]  # the beginnings
    log_probs: Float[Array, "B K"]  # theirs, falling
    finished: Beams
    is_open: Bool[Array, "B"]


def _generate(
    who: str, step: Step, params: Params, cache: Any, prompt: Any, choose: Callable, max_tokens: int, lengths: Any, stop_tokens: Any, pad_token: int
) -> Decoded:
    prompt, lengths, stops = _checked(who, prompt, max_tokens, lengths, stop_tokens)
    rows = jnp.arange(len(prompt))

    def body(state: tuple) -> tuple:
        time, cache, token, tokens, nums, is_open = state
        logits, cache = step(params, cache, token)
        index = time + 1 - lengths  # of the token in what is generated; negative in the prompt
        chosen = choose(logits, jnp.maximum(index, 0)).astype(jnp.int32)
        is_active = is_open & (index >= 0)
        tokens = tokens.at[rows, jnp.where(is_active, index, max_tokens)].set(chosen, mode="drop")
        forced = jnp.take(prompt, jnp.minimum(time + 1, prompt.shape[1] - 1), axis=1)
        is_end = is_active & (_is_in(chosen, stops) | (index == max_tokens - 1))
        return time + 1, cache, jnp.where(index < 0, forced, chosen), tokens, nums + is_active, is_open & ~is_end

    start = jnp.full((len(prompt), max_tokens), pad_token, jnp.int32), jnp.zeros(len(prompt), jnp.int32), jnp.ones(len(prompt), bool)
    state = lax.while_loop(lambda state: state[-1].any(), body, (jnp.int32(0), cache, prompt[:, 0], *start))
    return Decoded(state[3], state[4])


def _checked(who: str, prompt: Any, max_tokens: int, lengths: Any, stop_tokens: Sequence[int]) -> tuple[Array, Array, Array]:
    check_int(who, "max_tokens", max_tokens, minimum=1)
    for token in stop_tokens:
        check_int(who, "stop_tokens", token)
    if prompt.ndim != 2 or prompt.shape[1] == 0:
        raise ValueError(f"{who}: prompt must be tokens [B, P] with P >= 1, got shape {prompt.shape}; begin with a token that stands for the start")
    if not jnp.issubdtype(prompt.dtype, jnp.integer):
        raise TypeError(f"{who}: prompt must be whole numbers, got {prompt.dtype}")
    batch, longest = prompt.shape
    if lengths is None:
        lengths = jnp.full(batch, longest, jnp.int32)
    check_range(who, "lengths", lengths, 1, longest)
    if lengths.shape != (batch,):
        raise ValueError(f"{who}: lengths must be one number for each of the {batch} prompts, got shape {lengths.shape}")
    return jnp.asarray(prompt, jnp.int32), jnp.asarray(lengths, jnp.int32), jnp.array(stop_tokens, jnp.int32).reshape(-1)


def _is_in(tokens: Int[Array, "*B"], stops: Int[Array, "S"]) -> Bool[Array, "*B"]:
    return (tokens[..., None] == stops.reshape((1,) * tokens.ndim + (-1,))).any(-1)


def _map_rows(function: Callable, cache: Any, axes: Any) -> Any:
    # What all rows share is left alone.
    return jax.tree.map(lambda axis, leaf: leaf if axis is None else function(leaf, axis), axes, cache, is_leaf=lambda axis: axis is None)


def _with_rows(batch: int, cache: Any, axes: Any) -> Any:
    def check(leaf: Array, axis: int) -> Array:
        if not -jnp.ndim(leaf) <= axis < jnp.ndim(leaf) or jnp.shape(leaf)[axis] != batch:
            raise ValueError(
                f"beam_search: the cache's arrays must have the {batch} rows of the prompt on axis {axis}, got one of shape {jnp.shape(leaf)}; "
                "say in batch_axis where the rows are, None for what they share"
            )
        return leaf

    return _map_rows(check, cache, axes)


def _take(x: Array, index: Int[Array, "B K"]) -> Array:
    return jnp.take_along_axis(x, index.reshape(*index.shape, *(1,) * (x.ndim - 2)), 1, mode="clip")


def _where(is_first: Bool[Array, "B"], first: Any, second: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(is_first.reshape(-1, *(1,) * (a.ndim - 1)), a, b), first, second)
