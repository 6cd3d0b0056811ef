"""Recurrent networks: stacked and bidirectional layers over ragged batches, a readout of their last state, and a language model."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen
from jax import lax
from jaxtyping import Array, Float, Int, Shaped

from dljax.core.checks import check_choice, check_int, check_range
from dljax.core.contract import Key, Numeric
from dljax.nn.dense import Dense
from dljax.nn.elman import elman
from dljax.nn.recurrent import gru, lstm


class RecurrentNet(linen.Module):
    """Layers of recurrent units over sequences: each reads the outputs of the one below, in both directions where asked.

      h^l = cell(h^{l-1}),   bidirectional: h^l = [cell→(h^{l-1}), cell←(h^{l-1})]

    Parameters, their names apart, are PyTorch's: two biases a layer, of inputs and of states (of which all but the new gate's of a GRU act as
    their sum).

    Attributes:
      width: H, units of a layer and direction.
      cell: "lstm", "gru" or "elman".
      num_layers: L >= 1.
      is_bidirectional: whether a second set of cells reads each sequence from its end; outputs are then [B, T, 2H].
      dropout_rate: the fraction of units dropped between layers in training, in [0, 1).
      forget_bias: where the bias of an LSTM's forget gate starts; 1 keeps gradients alive over long times.

    Kernels start with unit gain, states' ones orthogonal.

    Source: Schuster & Paliwal (1997), Bidirectional recurrent neural networks; Gers et al. (2000) for the forget gate.

    >>> net = RecurrentNet(4, "elman", is_bidirectional=True)
    >>> (y, carry), variables = jax.jit(net.init_with_output)(jax.random.key(0), jnp.ones((3, 5, 2)), lengths=jnp.array([5, 1, 0]))
    >>> y.shape, len(carry), carry[0].shape
    ((3, 5, 8), 2, (3, 4))
    """

    width: int
    cell: str = "lstm"
    num_layers: int = 1
    is_bidirectional: bool = False
    dropout_rate: float = 0.0
    forget_bias: float = 1.0

    @linen.compact
    def __call__(
        self, x: Float[Array, "B T D"], carry: Any = None, lengths: Int[Array, "B"] | None = None, train: bool = False
    ) -> tuple[Float[Array, "B T Y"], tuple]:
        """Outputs of the last layer, and the states after the last step of each sequence.

        Args:
          x: sequences.
          carry: the states before the first step, one a layer and direction in the order of PyTorch (layer 0 forwards, layer 0 backwards, layer 1
            ...): h [B, H], of an LSTM (c, h); None for zeros.
          lengths: of each sequence, in 0 ... T; None for T. What stands behind has no influence; its outputs have no meaning.
          train: whether to drop units, with the random stream `dropout`.
        Raises:
          ValueError: an option out of range, or a carry of another number of states.
        """
        check_choice("RecurrentNet", "cell", self.cell, _CELLS)
        for name in ("width", "num_layers"):
            check_int("RecurrentNet", name, getattr(self, name), minimum=1)
        check_range("RecurrentNet", "dropout_rate", self.dropout_rate, 0, 1, open_high=True)
        directions = (False, True) if self.is_bidirectional else (False,)
        num_states = self.num_layers * len(directions)
        if carry is not None and len(carry) != num_states:
            raise ValueError(f"RecurrentNet: carry must hold {num_states} states, one a layer and direction, got {len(carry)}")
        states: list[Any] = []
        for layer in range(self.num_layers):
            if layer:
                x = linen.Dropout(self.dropout_rate, deterministic=not train)(x)
            outputs = []
            for reverse in directions:
                before = None if carry is None else carry[len(states)]
                name = f"layer_{layer}" + ("_reverse" if reverse else "")
                y, state = _Layer(self.width, self.cell, self.forget_bias, name=name)(x, before, lengths, reverse)
                outputs.append(y)
                states.append(state)
            x = jnp.concatenate(outputs, -1)
        return x, tuple(states)


class RecurrentReadout(linen.Module):
    """A number, a vector or logits of each whole sequence: a linear layer on the last states of a recurrent net.

      y = W h_T + b,   h_T of both directions where there are two

    Attributes:
      num_outputs: K.
      width, cell, num_layers, is_bidirectional, dropout_rate, forget_bias: as for `RecurrentNet`.

    >>> model = RecurrentReadout(3, width=4, cell="elman")
    >>> y, variables = jax.jit(model.init_with_output)(jax.random.key(0), {"x": jnp.ones((2, 5, 1)), "lengths": jnp.array([5, 3])})
    >>> y.shape
    (2, 3)
    """

    num_outputs: int
    width: int = 128
    cell: str = "lstm"
    num_layers: int = 1
    is_bidirectional: bool = False
    dropout_rate: float = 0.0
    forget_bias: float = 1.0

    @linen.compact
    def __call__(self, x: Float[Array, "B T D"] | Mapping[str, Array], train: bool = False) -> Float[Array, "B K"]:
        """Outputs of each sequence.

        Args:
          x: sequences, or for ragged ones a dict of `x` [B, T, D] and `lengths` [B].
          train: whether to drop units between layers, with the random stream `dropout`.
        Raises:
          ValueError: an option out of range.
        """
        check_int("RecurrentReadout", "num_outputs", self.num_outputs, minimum=1)
        x, lengths = (x["x"], x["lengths"]) if isinstance(x, Mapping) else (x, None)
        net = RecurrentNet(self.width, self.cell, self.num_layers, self.is_bidirectional, self.dropout_rate, self.forget_bias, name="net")
        _, states = net(x, lengths=lengths, train=train)
        last = [state[1] if self.cell == "lstm" else state for state in states[-2 if self.is_bidirectional else -1 :]]
        return Dense(self.num_outputs, name="head")(jnp.concatenate(last, -1))


class RecurrentLanguageModel(linen.Module):
    """A recurrent net that predicts every next token and hands on its state: sequences may come in pieces of any length.

      h = RecurrentNet(E[x]),   logits = W h + b

    Attributes:
      vocab_size: how many tokens there are, V.
      width, cell, num_layers: as for `RecurrentNet`.
      embedding_size: numbers a token.
      dropout_rate: the fraction of embeddings and of every layer's outputs dropped in training, in [0, 1): between layers, not in time.

    Source: Mikolov et al. (2010), Recurrent neural network based language model; dropout as in Zaremba et al. (2014), arXiv:1409.2329.

    >>> model = RecurrentLanguageModel(vocab_size=10, width=8)
    >>> (logits, carry), variables = jax.jit(model.init_with_output)(jax.random.key(0), jnp.zeros((3, 5), jnp.int32))
    >>> logits.shape, carry[0][1].shape
    ((3, 5, 10), (3, 8))
    """

    vocab_size: int
    width: int = 512
    cell: str = "lstm"
    num_layers: int = 1
    embedding_size: int = 128
    dropout_rate: float = 0.0

    @linen.compact
    def __call__(self, tokens: Shaped[Array, "B T"], carry: Any = None, train: bool = False) -> tuple[Float[Array, "B T V"], tuple]:
        """Logits of each next token, and the state after the last.

        Args:
          tokens: in [0, V); a token outside gives NaN.
          carry: the state before the first token; None for zeros.
          train: whether to drop units, with the random stream `dropout`.
        Raises:
          ValueError: an option out of range. TypeError: tokens that are not whole numbers.
        """
        for name in ("vocab_size", "embedding_size"):
            check_int("RecurrentLanguageModel", name, getattr(self, name), minimum=1)
        if not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise TypeError(f"RecurrentLanguageModel: tokens must be whole numbers, got {tokens.dtype}")
        h = linen.Embed(self.vocab_size, self.embedding_size, name="embed")(tokens)
        h = linen.Dropout(self.dropout_rate, deterministic=not train)(h)
        h, carry = RecurrentNet(self.width, self.cell, self.num_layers, dropout_rate=self.dropout_rate, name="net")(h, carry, train=train)
        h = linen.Dropout(self.dropout_rate, deterministic=not train)(h)
        return Dense(self.vocab_size, name="head")(h), carry


def recurrent_sampler(model: Any) -> Callable[..., Int[Array, "B N"]]:
    """A function that continues a text by a model that hands on its state: the prompt is read at once, then one compiled loop, a token at a time.

      x_t = argmax_v (logits_v + τ g_v),   g standard Gumbel: a draw from softmax(logits / τ), and the likeliest token at τ = 0

    Args:
      model: a linen module called as `(tokens, carry) -> (logits, carry)`, such as `RecurrentLanguageModel`.
    Returns:
      `sample(key, params, prompt, *, num=200, temperature=1.0)` as `dljax.models.sampler` gives for a GPT; it returns tokens int32 [B, num].
    Raises:
      ValueError: when called: an empty prompt, `num` < 1, `temperature` < 0.

    >>> model = RecurrentLanguageModel(vocab_size=10, width=8, cell="elman")
    >>> variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))
    >>> sample = jax.jit(recurrent_sampler(model), static_argnames="num")
    >>> sample(jax.random.key(1), variables, jnp.zeros((2, 3), jnp.int32), num=5).shape
    (2, 5)
    """

    def sample(key: Key, params: Mapping[str, Any], prompt: Int[Array, "..."], *, num: int = 200, temperature: Numeric = 1.0) -> Int[Array, "B N"]:
        check_int("sample", "num", num, minimum=1)
        check_range("sample", "temperature", temperature, 0)
        if prompt.ndim != 2 or prompt.shape[1] == 0:
            raise ValueError(f"sample: prompt must be tokens [B, P] with P >= 1, got shape {prompt.shape}")

        def draw(key: Key, logits: Float[Array, "B V"]) -> Int[Array, "B"]:
            noise = jax.random.gumbel(key, logits.shape, logits.dtype)
            return jnp.argmax(logits + temperature * noise, -1).astype(jnp.int32)

        def step(state: tuple, key: Key) -> tuple[tuple, Int[Array, "B"]]:
            token, carry = state
            logits, carry = model.apply(params, token[:, None], carry)
            token = draw(key, logits[:, -1])
            return (token, carry), token

        first_key, *keys = jax.random.split(key, num)
        logits, carry = model.apply(params, prompt)
        token = draw(first_key, logits[:, -1])
        if num == 1:
            return token[:, None]
        _, rest = lax.scan(step, (token, carry), jnp.stack(keys))
        return jnp.concatenate([token[:, None], rest.T], 1)

    return sample


def recurrent_weights(model: RecurrentNet, *, prefix: str = "", path: str = "") -> list[Any]:
    """What PyTorch's `torch.nn.LSTM`, `GRU` and `RNN` call the parameters of a `RecurrentNet`, for `dljax.models.weights`.

    Args:
      prefix: what stands before the names in the file, "encoder.rnn.".
      path: where the net stands in our tree, "net/".

    >>> [weight.path for weight in recurrent_weights(RecurrentNet(4))]  # doctest: +SKIP
    ['layer_0/kernel', 'layer_0/recurrent_kernel', 'layer_0/bias', 'layer_0/recurrent_bias']
    """
    from dljax.models.weights import Weight

    names = {"weight_ih": "kernel", "weight_hh": "recurrent_kernel", "bias_ih": "bias", "bias_hh": "recurrent_bias"}
    return [
        Weight(f"{prefix}{theirs}_l{layer}{suffix}", f"{path}layer_{layer}{suffix}/{ours}", "transposed" if "kernel" in ours else "same")
        for layer in range(model.num_layers)
        for suffix in (("", "_reverse") if model.is_bidirectional else ("",))
        for theirs, ours in names.items()
    ]


_CELLS = {"lstm": 4, "gru": 3, "elman": 1}  # and how many gates they have


class _Layer(linen.Module):
    width: int
    cell: str
    forget_bias: float

    @linen.compact
    def __call__(self, x: Float[Array, "B T D"], carry: Any, lengths: Any, reverse: bool) -> tuple[Float[Array, "B T H"], Any]:
        num = _CELLS[self.cell]
        size = num * self.width

        def bias_init(key: Key, shape: tuple, dtype: Any = jnp.float32) -> Array:
            gate = jnp.arange(size) // self.width
            return jnp.where((gate == 1) & (self.cell == "lstm"), self.forget_bias, 0).astype(dtype)

        def orthogonal(key: Key, shape: tuple, dtype: Any = jnp.float32) -> Array:
            square = jax.vmap(lambda key: linen.initializers.orthogonal()(key, (self.width, self.width), dtype))
            return jnp.concatenate(list(square(jax.random.split(key, num))), -1)

        kernel = self.param("kernel", linen.initializers.lecun_normal(), (x.shape[-1], size))
        recurrent_kernel = self.param("recurrent_kernel", orthogonal, (self.width, size))
        bias = self.param("bias", bias_init, (size,))
        recurrent_bias = self.param("recurrent_bias", linen.initializers.zeros, (size,))
        x, kernel, recurrent_kernel, bias, recurrent_bias = linen.dtypes.promote_dtype(x, kernel, recurrent_kernel, bias, recurrent_bias)
        options: dict[str, Any] = {"carry": carry, "lengths": lengths, "reverse": reverse}
        if self.cell == "gru":
            inner = bias.at[: 2 * self.width].add(recurrent_bias[: 2 * self.width])
            return gru(x, kernel, recurrent_kernel, inner, recurrent_bias[2 * self.width :], **options)
        run = lstm if self.cell == "lstm" else elman
        return run(x, kernel, recurrent_kernel, bias + recurrent_bias, **options)
