"""Hidden tokens as targets: the corruption of texts from which models of both directions learn."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from dljax.core.checks import check_int, check_range
from dljax.core.contract import Key, Numeric


class Masked(NamedTuple):
    """Corrupted texts, what they said, and where it is asked for.

    Attributes:
      tokens: [B, T], what the model reads.
      targets: [B, T], the tokens before the corruption.
      is_target: bool [B, T], where the model has to say what stood there.
    """

    tokens: Int[Array, "B T"]
    targets: Int[Array, "B T"]
    is_target: Bool[Array, "B T"]


def mask_tokens(
    key: Key,
    tokens: Int[Array, "B T"],
    is_open: Bool[Array, "B T"],
    *,
    mask_token: int,
    vocab_size: int,
    num_special: int = 0,
    rate: Numeric = 0.15,
    mask_share: Numeric = 0.8,
    random_share: Numeric = 0.1,
    words: Int[Array, "B T"] | None = None,
) -> Masked:
    """BERT's masked language modelling: some tokens become targets, most of which are hidden.

    Of a text with n open tokens, max(1, round(rate·n)) become targets, every set of that size equally likely. A target is shown as the mask token
    with probability `mask_share`, as a random token with `random_share`, and as itself otherwise, so that the model cannot trust what it sees.

    Args:
      tokens: in [0, V).
      is_open: True where a token may become a target: neither padding nor special, `Encoded.words >= 0`.
      mask_token: the id of `[MASK]`.
      vocab_size: V; random tokens are drawn from `num_special` ... V - 1, all alike.
      num_special: how many ids at the beginning are special.
      rate, mask_share, random_share: in [0, 1], the shares together at most 1; may be traced.
      words: which word of its text a token belongs to, in [0, T) where it is open, such as `Encoded.words`: words become targets as wholes, in random
        order, until there are at least as many target tokens as above. None: tokens on their own.
    Returns:
      What to read, what to say, and where; a text without open tokens has no targets.
    Raises:
      ValueError: a share or rate outside [0, 1], shares above 1 together, a mask token outside the vocabulary, no ordinary token.
    Source: Devlin et al. (2019), BERT, section 3.1 and appendix A.1, and the whole-word masking of its released code.

    >>> tokens = jnp.arange(10, 30)[None]
    >>> masked = mask_tokens(jax.random.key(0), tokens, tokens > 10, mask_token=4, vocab_size=30, num_special=5)
    >>> int(masked.is_target.sum()), bool((masked.tokens == tokens)[~masked.is_target].all())
    (3, True)
    """
    for name, share in (("rate", rate), ("mask_share", mask_share), ("random_share", random_share)):
        check_range("mask_tokens", name, share, 0, 1)
    if not any(isinstance(share, jax.core.Tracer) for share in (mask_share, random_share)):
        check_range("mask_tokens", "mask_share + random_share", mask_share + random_share, 0, 1 + 1e-6)
    check_int("mask_tokens", "vocab_size", vocab_size, minimum=1)
    check_int("mask_tokens", "mask_token", mask_token, minimum=0, maximum=vocab_size - 1)
    check_int("mask_tokens", "num_special", num_special, minimum=0, maximum=vocab_size - 1)
    choice_key, kind_key, random_key = jax.random.split(key, 3)
    is_target = _chosen(choice_key, is_open, rate, words)
    kind = jax.random.uniform(kind_key, tokens.shape)
    drawn = jax.random.randint(random_key, tokens.shape, num_special, vocab_size, tokens.dtype)
    shown = jnp.where(kind < mask_share, jnp.asarray(mask_token, tokens.dtype), jnp.where(kind < mask_share + random_share, drawn, tokens))
    return Masked(jnp.where(is_target, shown, tokens), tokens, is_target)


def _chosen(key: Key, is_open: Bool[Array, "B T"], rate: Numeric, words: Int[Array, "B T"] | None) -> Bool[Array, "B T"]:
    num_texts, length = is_open.shape
    num_open = is_open.sum(1, keepdims=True)
    wanted = rate * num_open.astype(jnp.float32)
    budget = jnp.where(wanted > 0, jnp.maximum(1.0, jnp.round(wanted)), 0.0)
    order = jnp.argsort(jax.random.bits(key, (num_texts, length)), 1)
    if words is not None:
        order = jnp.take_along_axis(order, jnp.clip(words, 0, length - 1), 1)
    order = jnp.where(is_open, order, length)
    # The open tokens that stand before a token's word in the random order of the words: those of its own word do not count.
    before = jax.vmap(lambda row: jnp.searchsorted(jnp.sort(row), row))(order)
    return is_open & (before < budget)
