"""Sequence to sequence: an encoder reads, a decoder writes and looks back at what was read (Sutskever et al., 2014; Bahdanau et al., 2015)."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from jax import lax
from jaxtyping import Array, Float, Int

from dljax.core.checks import check_choice, check_int, check_range
from dljax.core.contract import Numeric
from dljax.nn.dense import Dense
from dljax.nn.recurrent import gru, lstm
from dljax.nn.seq_attention import SequenceAttention


class Seq2Seq(linen.Module):
    """A recurrent encoder and decoder with attention, over sequences of different lengths.

      m_1 ... m_S = encoder(x_1 ... x_S),   s_0 = tanh(W [→m_S; ←m_1])
      c_t = Σ_s a(s, m_s) m_s,   s_t = decoder(s_{t-1}, y_{t-1}),   logits_t = V tanh(U [c_t; s_t])

    By Luong, the state s_t that has read y_{t-1} asks the attention: the recursion then does not depend on it, and with teacher forcing all that is
    not recursion is one product over all times. By Bahdanau ("additive"), the state before, s_{t-1}, asks, and the recursion reads c_t beside
    y_{t-1}. Without attention (Sutskever, Cho), the decoder begins with what the encoder ends with, and logits_t = V s_t.

    Attributes:
      source_size, target_size: how many tokens there are to read and to write.
      width: D, the decoder's states. A bidirectional encoder has D/2 in each direction.
      embed_size: the size of the embeddings of both kinds of tokens.
      num_layers: of the encoder and of the decoder.
      cell: "lstm" or "gru".
      attention: "general", "dot" or "concat" (Luong), "additive" (Bahdanau) or None.
      is_bidirectional: whether the encoder reads from both ends. One that reads forwards hands its states to the decoder as they are.
      dropout_rate: the fraction of embeddings and of the last hidden layer that is dropped in training.

    Source: Sutskever, Vinyals & Le (2014), Sequence to sequence learning with neural networks; Bahdanau, Cho & Bengio (2015), appendix A, without its
    maxout layer; Luong, Pham & Manning (2015), section 3, without input feeding.

    >>> model = Seq2Seq(source_size=5, target_size=7, width=8, embed_size=4)
    >>> x = {"source": jnp.ones((2, 3), jnp.int32), "lengths": jnp.array([3, 1]), "inputs": jnp.ones((2, 4), jnp.int32)}
    >>> logits, variables = jax.jit(model.init_with_output)(jax.random.key(0), x)
    >>> logits.shape, model.apply(variables, x, method="align")[1][1, 0].tolist()  # the second source has one token to look at
    ((2, 4, 7), [1.0, 0.0, 0.0])
    """

    source_size: int
    target_size: int
    width: int = 128
    embed_size: int = 64
    num_layers: int = 1
    cell: str = "lstm"
    attention: str | None = "general"
    is_bidirectional: bool = True
    dropout_rate: float = 0.0

    def setup(self) -> None:
        for name in ("source_size", "target_size", "width", "embed_size", "num_layers"):
            check_int("Seq2Seq", name, getattr(self, name), minimum=1)
        check_choice("Seq2Seq", "cell", self.cell, ("lstm", "gru"))
        check_choice("Seq2Seq", "attention", self.attention, ("general", "dot", "concat", "additive", None))
        check_range("Seq2Seq", "dropout_rate", self.dropout_rate, 0, 1)
        if self.is_bidirectional and self.width % 2:
            raise ValueError(f"Seq2Seq: width must be even for two directions, got {self.width}")
        self.read_embed = linen.Embed(self.source_size, self.embed_size)
        self.write_embed = linen.Embed(self.target_size, self.embed_size)
        num_directions = 1 + self.is_bidirectional
        self.encoder = [[Recurrence(self.cell, self.width // num_directions) for _ in range(num_directions)] for _ in range(self.num_layers)]
        self.decoder = [Recurrence(self.cell, self.width) for _ in range(self.num_layers)]
        if self.is_bidirectional:
            self.bridge = [Dense(self.width) for _ in range(self.num_layers)]
        if self.attention is not None:
            self.attend = SequenceAttention(self.attention, self.width)
            self.hidden = Dense(self.width)
        self.head = Dense(self.target_size)
        self.drop = linen.Dropout(self.dropout_rate)

    def __call__(self, x: Mapping[str, Any], train: bool = False) -> Float[Array, "B T V"]:
        """Logits of each next target token, given those before: teacher forcing.

        Args:
          x: a dict of
            - `source` [B, S], whole numbers in [0, source_size), and `inputs` [B, T], what the decoder reads at each time: the targets one place
              later, behind a token that stands for the beginning. A token outside its vocabulary gives NaN.
            - optionally `lengths` [B], how many tokens of each source are real, in 0 ... S; the padding behind may be any tokens.
            - optionally `sampling` [], in [0, 1]: how likely it is, in training, that the decoder reads a draw from what it just predicted instead
              of an input, the first excepted (scheduled sampling, Bengio et al., 2015). It may be traced. The draws, through which no gradient goes,
              come from the random stream `dropout`.
          train: whether to drop units and to read draws.
        Raises:
          ValueError: options out of range, arrays that do not fit. TypeError: tokens that are no whole numbers.
        """
        return self.align(x, train)[0]

    def align(self, x: Mapping[str, Any], train: bool = False) -> tuple[Float[Array, "B T V"], Float[Array, "B T S"]]:
        """Logits, and how much each target token looks at each source token: the soft alignment. Zeros without attention."""
        cache, inputs = self.encode(x["source"], x.get("lengths"), train), _tokens("inputs", x["inputs"])
        if len(inputs) != len(x["source"]):
            raise ValueError(f"Seq2Seq: source and inputs must be of one batch, got {x['source'].shape} and {inputs.shape}")
        if train and "sampling" in x:
            check_range("Seq2Seq", "sampling", x["sampling"], 0, 1)
            return self._scan(cache, inputs, x["sampling"], train)
        if self.attention == "additive":
            return self._scan(cache, inputs, None, train)
        return self._write(cache, inputs, train)[1:]

    def encode(self, source: Int[Array, "B S"], lengths: Int[Array, "B"] | None = None, train: bool = False) -> dict[str, Any]:
        """What the decoder starts from: a cache for `step`, in which every array has the batch on axis 0."""
        m = self.drop(self.read_embed(_tokens("source", source)), deterministic=not train)
        lengths = None if lengths is None else jnp.asarray(lengths)
        if lengths is not None and lengths.shape != source.shape[:1]:
            raise ValueError(f"Seq2Seq: lengths must be one number for each of the {len(source)} sources, got shape {lengths.shape}")
        carry = []
        for number, directions in enumerate(self.encoder):
            outputs, ends = zip(*(layer(m, None, lengths, is_back) for layer, is_back in zip(directions, (False, True), strict=False)), strict=True)
            m = jnp.concatenate(outputs, -1)
            if self.is_bidirectional:
                start = jnp.tanh(self.bridge[number](jnp.concatenate([_output(end) for end in ends], -1)))
                carry.append((jnp.zeros_like(start), start) if self.cell == "lstm" else start)
            else:
                carry.append(ends[0])
        cache: dict[str, Any] = {"carry": carry}
        if self.attention is not None:
            places = jnp.arange(source.shape[1])[None]
            mask = jnp.ones(source.shape, bool) if lengths is None else places < lengths[:, None]
            cache |= {"memory": m, "keys": self.attend.keys(m), "mask": mask}
        return cache

    def step(self, cache: Mapping[str, Any], tokens: Int[Array, "B"]) -> tuple[Float[Array, "B V"], dict[str, Any]]:
        """One token of every row read: the logits of the next one, and the new cache."""
        cache, logits, _ = self._write(cache, tokens[:, None], False)
        return logits[:, 0], cache

    def _write(self, cache: Mapping[str, Any], tokens: Int[Array, "B T"], train: bool) -> tuple[dict[str, Any], Array, Array]:
        # By Bahdanau T is one: what is read depends on the state before.
        x = self.drop(self.write_embed(tokens), deterministic=not train)
        if self.attention == "additive":
            context, weights = self._read(cache, _output(cache["carry"][-1])[:, None])
            x = jnp.concatenate([x, context], -1)
        carry = []
        for layer, state in zip(self.decoder, cache["carry"], strict=True):
            x, state = layer(x, state)
            carry.append(state)
        if self.attention is None:
            weights = jnp.zeros((*tokens.shape, 0), x.dtype)
        else:
            if self.attention != "additive":
                context, weights = self._read(cache, x)
            x = jnp.tanh(self.hidden(jnp.concatenate([context, x], -1)))
        return {**cache, "carry": carry}, self.head(self.drop(x, deterministic=not train)), weights

    def _read(self, cache: Mapping[str, Any], query: Float[Array, "B T D"]) -> tuple[Array, Array]:
        return self.attend(query, cache["memory"], cache["mask"], keys=cache["keys"])

    def _scan(self, cache: Mapping[str, Any], inputs: Int[Array, "B T"], sampling: Numeric | None, train: bool) -> tuple[Array, Array]:
        fixed = {name: value for name, value in cache.items() if name != "carry"}

        def body(model: Seq2Seq, state: tuple, token: Array) -> tuple:
            carry, drawn, is_first = state
            if sampling is not None:
                is_drawn = jax.random.bernoulli(model.make_rng("dropout"), sampling, token.shape) & ~is_first
                token = jnp.where(is_drawn, drawn, token)
            changed, logits, weights = model._write({**fixed, "carry": carry}, token[:, None], train)
            if sampling is not None:
                noise = jax.random.gumbel(model.make_rng("dropout"), logits.shape, logits.dtype)
                drawn = jnp.argmax(lax.stop_gradient(logits) + noise, -1)[:, 0].astype(token.dtype)
            return (changed["carry"], drawn, jnp.zeros((), bool)), (logits[:, 0], weights[:, 0])

        scan = linen.scan(body, variable_broadcast="params", split_rngs={"params": False, "dropout": True}, in_axes=1, out_axes=1)
        return scan(self, (cache["carry"], inputs[:, 0], jnp.ones((), bool)), inputs)[1]


class Recurrence(linen.Module):
    """A layer of `dljax.nn.lstm` or `gru` with its parameters.

    Attributes:
      cell: "lstm" or "gru".
      features: H, the size of the states.

    Kernels start as Glorot's, recurrent kernels orthogonal gate by gate, biases at zero.

    >>> y, variables = Recurrence("gru", 4).init_with_output(jax.random.key(0), jnp.ones((2, 5, 3)))
    >>> y[0].shape, jax.tree.map(jnp.shape, variables["params"])["kernel"]
    ((2, 5, 4), (3, 12))
    """

    cell: str
    features: int

    @linen.compact
    def __call__(
        self, x: Float[Array, "B T D"], carry: Any = None, lengths: Int[Array, "B"] | None = None, reverse: bool = False
    ) -> tuple[Array, Any]:
        """Outputs [B, T, H] and the carry behind the last real step."""
        size, gates = self.features, {"lstm": 4, "gru": 3}[self.cell]
        kernel = self.param("kernel", linen.initializers.glorot_uniform(), (x.shape[-1], gates * size))
        recurrent = self.param("recurrent_kernel", _orthogonal_gates(gates), (size, gates * size))
        weights = [kernel, recurrent, self.param("bias", linen.initializers.zeros, (gates * size,))]
        if self.cell == "gru":
            weights.append(self.param("recurrent_bias", linen.initializers.zeros, (size,)))
        run: Callable[..., Any] = lstm if self.cell == "lstm" else gru
        return run(x, *weights, carry=carry, lengths=lengths, reverse=reverse)


def _output(carry: Any) -> Float[Array, "B H"]:
    return carry[1] if isinstance(carry, tuple) else carry


def _orthogonal_gates(num: int) -> Callable[..., Array]:
    orthogonal = linen.initializers.orthogonal()

    def init(key: Any, shape: tuple[int, int], dtype: Any = jnp.float32) -> Array:
        return jnp.concatenate([orthogonal(part, (shape[0], shape[1] // num), dtype) for part in jax.random.split(key, num)], 1)

    return init


def _tokens(name: str, tokens: Any) -> Int[Array, "B T"]:
    if tokens.ndim != 2:
        raise ValueError(f"Seq2Seq: {name} must be tokens [B, T], got shape {tokens.shape}")
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise TypeError(f"Seq2Seq: {name} must be whole numbers, got {tokens.dtype}")
    return tokens
