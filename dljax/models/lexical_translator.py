"""A Transformer that looks words up: what it would write by itself, mixed with a dictionary's words for what it attends to."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen
from jaxtyping import Array, Bool, Float, Int, Shaped

from dljax.core.checks import check_int
from dljax.models.encoder_decoder import EncoderDecoder, checked_pairs, source_mask
from dljax.models.word_alignment import WordTable
from dljax.nn.dense import Dense
from dljax.nn.key_value_cache import KeyValueCache


class Lexicon(NamedTuple):
    """The likeliest translations of each token.

    Attributes:
      tokens: int32 [V, K], target tokens.
      probabilities: float32 [V, K], t(target token | source token), whose sum over K is at most 1.
    """

    tokens: Int[np.ndarray, "V K"]
    probabilities: Float[np.ndarray, "V K"]


def lexicon(table: WordTable, vocab_size: int, num: int = 8) -> Lexicon:
    """The likeliest translations out of a table that learned from tokens, each a word of digits.

    Args:
      vocab_size: V; every word of the table is a number below it.
      num: K >= 1, at most V.
    Returns:
      A row of NumPy arrays for each token; zeros for one that the table does not know.
    Raises:
      ValueError: an option out of range, a word of the table that is no token.

    >>> from dljax.models.word_alignment import ibm_model_1
    >>> table = ibm_model_1([["3"], ["3", "1"]], [["2"], ["2", "0"]], iterations=20, has_null=False)
    >>> found = lexicon(table, vocab_size=4, num=1)
    >>> found.tokens[:, 0].tolist(), (found.probabilities[:, 0] > 0.9).tolist()
    ([0, 0, 0, 2], [False, True, False, True])
    """
    check_int("lexicon", "vocab_size", vocab_size, minimum=1)
    check_int("lexicon", "num", num, minimum=1, maximum=vocab_size)
    sides = [np.array([int(word) if word.isdecimal() else -1 for word in side.words]) for side in (table.source, table.target)]
    for words, side in zip(sides, (table.source, table.target), strict=True):
        wrong = (words < 0) | (words >= vocab_size)
        if wrong.any():
            raise ValueError(f"lexicon: the words of the table must be tokens, digits below {vocab_size}, got {side.words[int(wrong.argmax())]!r}")
    source, target = np.divmod(table.keys, len(table.target.words))
    is_word = source > 0  # 0 stands for no word
    dense = np.zeros((vocab_size, vocab_size), np.float32)
    dense[sides[0][source[is_word] - 1], sides[1][target[is_word]]] = table.probabilities[is_word]
    tokens = np.argsort(-dense, 1, kind="stable")[:, :num].astype(np.int32)
    return Lexicon(tokens, np.take_along_axis(dense, tokens, 1))


class LexicalTranslator(EncoderDecoder):
    """An `EncoderDecoder` whose probabilities are mixed with those of a lexicon.

      a_t = softmax_s((W_q h_t) · (W_k m_s) / √D),   g_t = sigmoid(w · h_t + b)
      p(y_t) = (1 - g_t) softmax(h_t Eᵀ)[y_t] + g_t Σ_s a_ts t(y_t | x_s)

    m are the encoder's outputs and h the decoder's, t(y | x) is a table of translations that is not trained. Words that are too rare for the
    network to learn come out of the table; the network says where to look, and when.

    The logits are log p. The table is the collection `lexicon` of the variables, zeros at first, which look up nothing:
    `{"params": ..., "lexicon": lexicon(table, V)._asdict()}`. The attention a [B, T, S] is sown as `pointer` into `intermediates`.

    Attributes:
      num_translations: K >= 1 of each token. The others are those of `EncoderDecoder`.

    Source: Arthur, Neubig and Nakamura (2016), Incorporating discrete translation lexicons into neural machine translation, section 3.1, with the
      gate of See, Liu and Manning (2017), Get to the point, eq. 9.

    >>> model = LexicalTranslator(vocab_size=10, width=8, num_layers=1, num_heads=2)
    >>> x = {"source": jnp.array([[3, 4, 0], [5, 6, 7]]), "inputs": jnp.zeros((2, 4), jnp.int32)}
    >>> logits, variables = jax.jit(model.init_with_output)(jax.random.key(0), x)
    >>> logits.shape, sorted(variables), variables["lexicon"]["tokens"].shape
    ((2, 4, 10), ['lexicon', 'params'], (10, 8))
    """

    num_translations: int = 8

    def setup(self) -> None:
        super().setup()
        check_int("LexicalTranslator", "num_translations", self.num_translations, minimum=1)
        shape = (self.vocab_size, self.num_translations)
        self.tokens = self.variable("lexicon", "tokens", jnp.zeros, shape, jnp.int32)
        self.probabilities = self.variable("lexicon", "probabilities", jnp.zeros, shape)
        self.pointer_query, self.pointer_key = Dense(self.width), Dense(self.width)
        # The network learns to write before it trusts the table.
        self.gate = Dense(1, bias_init=linen.initializers.constant(-1.0))

    def __call__(self, x: Mapping[str, Any], train: bool = False) -> Float[Array, "B T V"]:
        """log p of each next target token, given those before; arguments and errors as for `EncoderDecoder`."""
        source, inputs, mask = checked_pairs("LexicalTranslator", x, self.pad)
        memory = self.encode(source, mask, train)
        return self._mixed(self.states(inputs, memory, mask, train=train), self.pointer_key(memory), source, mask)

    def encode(self, source: Shaped[Array, "B S"], mask: Bool[Array, "B S"] | None = None, train: bool = False) -> Float[Array, "B S D"]:
        """What the decoder attends to; where the collection `read` is mutable, what `decode` needs of the source besides is put there."""
        memory = super().encode(source, mask, train)
        if self.is_mutable_collection("read") and not self.is_initializing():
            for name, value in {"source": source, "keys": self.pointer_key(memory)}.items():
                self.put_variable("read", name, value)
        return memory

    def decode(
        self,
        tokens: Shaped[Array, "B T"],
        memory: Float[Array, "B S D"] | None = None,
        memory_mask: Bool[Array, "B S"] | None = None,
        *,
        cache: KeyValueCache | None = None,
        train: bool = False,
    ) -> Any:
        """log p [B, T, V] of each next token; with a cache a pair, as for `EncoderDecoder`. The collection `read` is what `encode` put there.

        Raises:
          ValueError: no such collection.
        """
        if not self.has_variable("read", "source"):
            raise ValueError("LexicalTranslator: decode needs the collection `read`; call encode with mutable=['read'], and hand it on")
        source: Array = self.get_variable("read", "source")
        keys: Array = self.get_variable("read", "keys")
        h = self.states(tokens, memory, memory_mask, cache=cache, train=train)
        h, kept = (h, None) if cache is None else h
        mask = memory_mask if kept is None else kept.memory_mask
        log_probs = self._mixed(h, keys, source, source_mask("LexicalTranslator", source, mask, self.pad))
        return log_probs if cache is None else (log_probs, kept)

    def _mixed(self, h: Array, keys: Array, source: Array, mask: Array | None) -> Array:
        scores = jnp.einsum("btd,bsd->bts", self.pointer_query(h), keys) * self.width**-0.5
        weights = jax.nn.softmax(scores if mask is None else jnp.where(mask[:, None], scores, jnp.finfo(scores.dtype).min))
        self.sow("intermediates", "pointer", weights)
        share = weights[..., None] * self.probabilities.value.astype(h.dtype)[source][:, None]  # [B, T, S, K]
        places = self.tokens.value[source].reshape(len(source), -1)
        looked_up = jax.vmap(lambda share, places: jnp.zeros((share.shape[0], self.vocab_size), h.dtype).at[:, places].add(share))(
            share.reshape(*share.shape[:2], -1), places
        )
        gate = self.gate(h)
        own = jax.nn.log_softmax(self.logits(h)) + jax.nn.log_sigmoid(-gate)
        # A word that is not looked up has no way to the table, and no gradient from it.
        table = jnp.where(looked_up > 0, jnp.log(jnp.where(looked_up > 0, looked_up, 1.0)) + jax.nn.log_sigmoid(gate), -jnp.inf)
        return jnp.logaddexp(own, table)
