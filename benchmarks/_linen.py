"""Peers in flax.linen as its own examples write them: plain layers, one jitted step a batch, or the same step in `lax.scan`.

From the residual net to the GPT they take their layers from `nn`: linen's, or `dljax.nn` for ours, which is the same model with an import changed.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import optax
from flax import linen


class MLP(linen.Module):
    widths: tuple[int, ...]

    @linen.compact
    def __call__(self, x):
        x = x.astype(jnp.float32).reshape(x.shape[0], -1) / 255
        for width in self.widths:
            x = linen.relu(linen.Dense(width)(x))
        return linen.Dense(10)(x)


class CNN(linen.Module):
    widths: tuple[int, ...]
    hidden: int

    @linen.compact
    def __call__(self, x):
        x = x.astype(jnp.float32) / 255
        for width in self.widths:
            x = linen.max_pool(linen.relu(linen.Conv(width, (3, 3))(x)), (2, 2), strides=(2, 2))
        x = linen.relu(linen.Dense(self.hidden)(x.reshape(x.shape[0], -1)))
        return linen.Dense(10)(x)


class ResNet(linen.Module):
    """Basic blocks behind a 3×3 stem as on CIFAR, or bottlenecks behind the 7×7 stem as on ImageNet; projections where shapes change.

    With a `scale` above 1 it sees colour pictures in which every pixel of the grey ones is a square of that size.
    """

    stages: tuple[int, ...]
    width: int
    is_bottleneck: bool = False
    scale: int = 1
    dtype: Any = None
    nn: Any = linen

    @linen.compact
    def __call__(self, x):
        conv = partial(self.nn.Conv, use_bias=False, dtype=self.dtype)
        norm = partial(linen.BatchNorm, use_running_average=False, momentum=0.9, dtype=self.dtype)
        x = x.astype(jnp.float32) / 255
        if self.scale > 1:
            x = jnp.repeat(jnp.repeat(jnp.repeat(x, self.scale, 1), self.scale, 2), 3, 3)
        if self.is_bottleneck:
            x = linen.relu(norm()(conv(self.width, (7, 7), 2, padding=3)(x)))
            x = self.nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        else:
            x = linen.relu(norm()(conv(self.width, (3, 3), padding=1)(x)))
        for stage, blocks in enumerate(self.stages):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                x = _Block(self.width * 2**stage, stride, self.is_bottleneck, conv, norm)(x)
        return self.nn.Dense(10, dtype=self.dtype)(x.mean((1, 2))).astype(jnp.float32)


class _Block(linen.Module):
    width: int
    stride: int
    is_bottleneck: bool
    conv: Any
    norm: Any

    @linen.compact
    def __call__(self, x):
        y, out = x, self.width * (4 if self.is_bottleneck else 1)
        if self.is_bottleneck:
            y = linen.relu(self.norm()(self.conv(self.width, (1, 1))(y)))
            y = linen.relu(self.norm()(self.conv(self.width, (3, 3), self.stride, padding=1)(y)))
            y = self.norm()(self.conv(out, (1, 1))(y))
        else:
            y = linen.relu(self.norm()(self.conv(out, (3, 3), self.stride, padding=1)(y)))
            y = self.norm()(self.conv(out, (3, 3), padding=1)(y))
        if x.shape != y.shape:
            x = self.norm()(self.conv(out, (1, 1), self.stride)(x))
        return linen.relu(x + y)


class UNet(linen.Module):
    """Two convolutions at every size, halved by pooling and doubled again by transposed convolutions, beside what there was before halving."""

    widths: tuple[int, ...]
    classes: int
    dtype: Any = None
    nn: Any = linen

    @linen.compact
    def __call__(self, x):
        def twice(x, width):
            for _ in range(2):
                x = linen.relu(self.nn.Conv(width, (3, 3), dtype=self.dtype)(x))
            return x

        x, halved = x.astype(jnp.float32) / 255, []
        *widths, deepest = self.widths
        for width in widths:
            halved.append(twice(x, width))
            x = self.nn.max_pool(halved[-1], (2, 2), (2, 2))
        x = twice(x, deepest)
        for width in reversed(widths):
            x = self.nn.ConvTranspose(width, (2, 2), (2, 2), dtype=self.dtype)(x)
            x = twice(jnp.concatenate([halved.pop(), x], -1), width)
        return self.nn.Conv(self.classes, (1, 1), dtype=self.dtype)(x).astype(jnp.float32)


class LSTM(linen.Module):
    vocab_size: int
    width: int
    nn: Any = linen

    @linen.compact
    def __call__(self, tokens):
        h = linen.Embed(self.vocab_size, self.width, name="embed")(tokens)
        h = self.nn.RNN(linen.OptimizedLSTMCell(self.width, name="cell"))(h)
        return self.nn.Dense(self.vocab_size, name="head")(h)


class GPT(linen.Module):
    vocab_size: int
    num_layers: int
    num_heads: int
    width: int
    dtype: Any = jnp.float32
    nn: Any = linen

    @linen.compact
    def __call__(self, tokens):
        embed = linen.Embed(self.vocab_size, self.width, dtype=self.dtype, name="embed")
        positions = self.param("positions", linen.initializers.normal(0.02), (tokens.shape[1], self.width))
        h = embed(tokens) + positions.astype(self.dtype)
        mask = linen.make_causal_mask(tokens)
        for layer in range(self.num_layers):
            x = linen.LayerNorm(epsilon=1e-5, dtype=self.dtype, name=f"attention_norm_{layer}")(h)
            h = h + self.nn.MultiHeadDotProductAttention(self.num_heads, dtype=self.dtype, name=f"attention_{layer}")(x, mask=mask)
            x = linen.LayerNorm(epsilon=1e-5, dtype=self.dtype, name=f"mlp_norm_{layer}")(h)
            x = linen.gelu(self.nn.Dense(4 * self.width, dtype=self.dtype, name=f"up_{layer}")(x))
            h = h + self.nn.Dense(self.width, dtype=self.dtype, name=f"down_{layer}")(x)
        return embed.attend(linen.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="norm")(h)).astype(jnp.float32)


class GCN(linen.Module):
    width: int

    @linen.compact
    def __call__(self, graph):
        for layer, width in enumerate((self.width, 7)):
            update = linen.Dense(width, use_bias=False, name=f"layers_{layer}")
            graph = jraph.GraphConvolution(update, add_self_edges=True, symmetric_normalization=True)(graph)
            graph = graph._replace(nodes=linen.relu(graph.nodes)) if layer == 0 else graph
        return graph.nodes


def gpt_weights(ours: dict[str, Any], num_heads: int) -> dict[str, Any]:
    """The weights of `dljax.models.GPT`, layers stacked, as those of `GPT` above."""
    layers = ours["decoder"]["layers"]
    theirs = {"embed": ours["embed"], "positions": ours["positions"], "norm": ours["decoder"]["norm"]}
    for layer in range(len(layers["attention_norm"]["scale"])):
        one = jax.tree.map(lambda leaf, layer=layer: leaf[layer], layers)
        theirs[f"attention_norm_{layer}"], theirs[f"mlp_norm_{layer}"] = one["attention_norm"], one["feed_forward_norm"]
        theirs |= {f"{name}_{layer}": one["feed_forward"][name] for name in ("up", "down")}
        attention, out = one["attention"], one["attention"]["out"]
        width = len(out["bias"])
        parts = {
            name: {"kernel": attention[name]["kernel"].reshape(width, num_heads, -1), "bias": attention[name]["bias"].reshape(num_heads, -1)}
            for name in ("query", "key", "value")
        }
        theirs[f"attention_{layer}"] = parts | {"out": {"kernel": out["kernel"].reshape(num_heads, -1, width), "bias": out["bias"]}}
    return theirs


def model_and_weights(work):
    """The task's model and the initial variables."""
    arrays, options = work.arrays(), work.options
    dtype = jnp.dtype(options.get("precision", "float32"))
    match options["model"]:
        case "mlp":
            return MLP(options["widths"]), arrays["variables"]
        case "cnn":
            return CNN(options["widths"], options["hidden"]), arrays["variables"]
        case "gpt":
            vocab_size = len(arrays["variables"]["params"]["embed"]["embedding"])
            model = GPT(vocab_size, options["num_layers"], options["num_heads"], options["width"], dtype)
            return model, {"params": gpt_weights(arrays["variables"]["params"], options["num_heads"])}
        case "linen-gpt":
            vocab_size = len(arrays["variables"]["params"]["embed"]["embedding"])
            return GPT(vocab_size, options["num_layers"], options["num_heads"], options["width"], dtype), arrays["variables"]
        case "resnet":
            model = ResNet(options["stages"], options["width"], options.get("is_bottleneck", False), options.get("scale", 1), dtype)
            return model, arrays["variables"]
        case "unet":
            return UNet(options["widths"], options["classes"], dtype), arrays["variables"]
        case "lstm":
            return LSTM(len(arrays["variables"]["params"]["embed"]["embedding"]), options["width"]), arrays["variables"]
        case "gcn":
            return GCN(options["width"]), arrays["variables"]


def problem(work):
    """The initial state, the step and the batches, all that both loops share."""
    model, variables = model_and_weights(work)
    params = variables["params"]
    rest = {name: value for name, value in variables.items() if name != "params"}
    optimizer = optax.adam(work.options["learning_rate"])

    def step(state, batch):
        def objective(params):
            logits, updated = model.apply({"params": params, **state[1]}, batch["x"], mutable=list(rest))
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
            if "mask" in batch:
                return jnp.sum(losses * batch["mask"]) / jnp.sum(batch["mask"]), updated
            return losses.mean(), updated

        (loss, updated), grads = jax.value_and_grad(objective, has_aux=True)(state[0])
        updates, opt_state = optimizer.update(grads, state[2])
        return (optax.apply_updates(state[0], updates), updated, opt_state), loss

    return jax.device_put((params, rest, optimizer.init(params))), step, batches(work)


def batches(work):
    """The batches on the device, one after another; for a graph the one there is."""
    arrays = work.arrays()
    if "graph" not in arrays:
        stored = arrays["batches"]
        return [jax.device_put({name: value[number] for name, value in stored.items()}) for number in range(len(stored["y"]))]
    nodes, senders, receivers = (arrays["graph"][name] for name in ("nodes", "senders", "receivers"))
    graph = jraph.GraphsTuple(nodes, None, senders, receivers, None, np.array([len(nodes)], np.int32), np.array([len(senders)], np.int32))
    return [jax.device_put({"x": graph, "y": arrays["y"], "mask": arrays["mask"]})]


def per_step(work):
    """One jitted call for each batch."""
    state, step, stored = problem(work)
    step = jax.jit(step, donate_argnums=0)
    done = 0

    def run(steps):
        nonlocal state, done
        losses = []
        for _ in range(steps):
            state, loss = step(state, stored[done % len(stored)])
            losses.append(loss)
            done += 1
        return chunk_means(jax.device_get(losses), work.chunk)

    return run


def scanned(work):
    """The same step inside `lax.scan` over a chunk of stacked batches, as anybody would write it first."""
    state, step, stored = problem(work)
    if len(stored) > 1:
        chunks = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *stored[begin : begin + work.chunk]) for begin in range(0, len(stored), work.chunk)]
    done = 0

    @partial(jax.jit, donate_argnums=0)
    def chunk(state, data):
        if len(stored) > 1:
            return jax.lax.scan(step, state, data)
        return jax.lax.scan(lambda state, _: step(state, data), state, None, length=work.chunk)

    def run(steps):
        nonlocal state, done
        losses = []
        for _ in range(steps // work.chunk):
            state, more = chunk(state, chunks[done % len(chunks)] if len(stored) > 1 else stored[0])
            losses.append(more)
            done += 1
        return chunk_means(np.concatenate(jax.device_get(losses)), work.chunk)

    return run


def flops(work):
    """Operations of one step by XLA's own count, outside any loop."""
    state, step, stored = problem(work)
    return jax.jit(step).lower(state, stored[0]).cost_analysis()["flops"]


def chunk_means(losses, chunk):
    """The mean loss of every chunk of steps."""
    return np.asarray(losses, np.float64).reshape(-1, chunk).mean(1)
