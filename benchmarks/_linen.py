"""Peers in flax.linen as its own examples write them: plain layers, one jitted step a batch, or the same step in `lax.scan`."""

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


class GPT(linen.Module):
    vocab_size: int
    num_layers: int
    num_heads: int
    width: int
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, tokens):
        embed = linen.Embed(self.vocab_size, self.width, dtype=self.dtype, name="embed")
        positions = self.param("positions", linen.initializers.normal(0.02), (tokens.shape[1], self.width))
        h = embed(tokens) + positions.astype(self.dtype)
        mask = linen.make_causal_mask(tokens)
        for layer in range(self.num_layers):
            x = linen.LayerNorm(epsilon=1e-5, dtype=self.dtype, name=f"attention_norm_{layer}")(h)
            h = h + linen.MultiHeadDotProductAttention(self.num_heads, dtype=self.dtype, name=f"attention_{layer}")(x, mask=mask)
            x = linen.LayerNorm(epsilon=1e-5, dtype=self.dtype, name=f"mlp_norm_{layer}")(h)
            x = linen.gelu(linen.Dense(4 * self.width, dtype=self.dtype, name=f"up_{layer}")(x))
            h = h + linen.Dense(self.width, dtype=self.dtype, name=f"down_{layer}")(x)
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
    """The weights of `dljax.models.GPT`, layers stacked and projections joint, as those of `GPT` above."""
    blocks = ours["blocks"]
    theirs = {name: ours[name] for name in ("embed", "positions", "norm")}
    for layer in range(len(blocks["up"]["kernel"])):
        one = jax.tree.map(lambda leaf, layer=layer: leaf[layer], blocks)
        for name in ("attention_norm", "mlp_norm", "up", "down"):
            theirs[f"{name}_{layer}"] = one[name]
        qkv, out = one["attention"]["qkv"], one["attention"]["out"]
        width = len(out["bias"])
        parts = {
            name: {"kernel": kernel.reshape(width, num_heads, -1), "bias": bias.reshape(num_heads, -1)}
            for name, kernel, bias in zip(("query", "key", "value"), np.split(qkv["kernel"], 3, -1), np.split(qkv["bias"], 3, -1), strict=True)
        }
        theirs[f"attention_{layer}"] = parts | {"out": {"kernel": out["kernel"].reshape(num_heads, -1, width), "bias": out["bias"]}}
    return theirs


def model_and_weights(work):
    """The task's model and the initial variables."""
    arrays, options = work.arrays(), work.options
    match options["model"]:
        case "mlp":
            return MLP(options["widths"]), arrays["variables"]
        case "cnn":
            return CNN(options["widths"], options["hidden"]), arrays["variables"]
        case "gpt":
            model = GPT(arrays["variables"]["params"]["embed"]["embedding"].shape[0], options["num_layers"], options["num_heads"], options["width"])
            return model, {"params": gpt_weights(arrays["variables"]["params"], options["num_heads"])}
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
    """`[S, ...]` batches on the host; for a graph the one there is."""
    arrays = work.arrays()
    if work.options["model"] != "gcn":
        return arrays["batches"]
    x = arrays["graph"]
    graph = jraph.GraphsTuple(
        x["nodes"], None, x["senders"], x["receivers"], None, np.array([len(x["nodes"])], np.int32), np.array([len(x["senders"])], np.int32)
    )
    return {"x": graph, "y": arrays["y"], "mask": arrays["mask"]}


def per_step(work):
    """One jitted call for each batch."""
    state, step, stored = problem(work)
    step = jax.jit(step, donate_argnums=0)
    is_graph = work.options["model"] == "gcn"
    stored = jax.device_put(stored) if is_graph else stored
    done = 0

    def run(steps):
        nonlocal state, done
        losses = []
        for _ in range(steps):
            batch = stored if is_graph else {name: value[done % len(value)] for name, value in stored.items()}
            state, loss = step(state, batch)
            losses.append(loss)
            done += 1
        return chunk_means(jax.device_get(losses), work.chunk)

    return run


def scanned(work):
    """The same step inside `lax.scan`, as anybody would write it first."""
    state, step, stored = problem(work)
    is_graph = work.options["model"] == "gcn"

    @partial(jax.jit, donate_argnums=0)
    def chunk(state, data):
        if is_graph:
            return jax.lax.scan(lambda state, _: step(state, data), state, None, length=work.chunk)
        return jax.lax.scan(step, state, data)

    stored = jax.device_put(stored) if is_graph else stored
    done = 0

    def run(steps):
        nonlocal state, done
        losses = []
        for _ in range(steps // work.chunk):
            data = stored
            if not is_graph:
                begin = done % len(stored["y"])
                data = {name: value[begin : begin + work.chunk] for name, value in stored.items()}
            state, more = chunk(state, data)
            losses.append(more)
            done += work.chunk
        return chunk_means(np.concatenate(jax.device_get(losses)), work.chunk)

    return run


def flops(work):
    """Operations of one step by XLA's own count, outside any loop."""
    state, step, stored = problem(work)
    batch = stored if work.options["model"] == "gcn" else {name: value[0] for name, value in stored.items()}
    return jax.jit(step).lower(state, batch).cost_analysis()["flops"]


def chunk_means(losses, chunk):
    """The mean loss of every chunk of steps."""
    return np.asarray(losses, np.float64).reshape(-1, chunk).mean(1)
