"""Language (chapters 6 and 8): character models of Shakespeare."""

from dljax.core.experiment import AtMost, Experiment, recipe


@recipe(
    "shakespeare/gpt",
    chapter=8,
    rows=("8.2", "8.4"),
    target=AtMost(
        "nats_per_char",
        1.85,
        source="nanoGPT's README reports 1.88 for 4 layers, width 128, context 64 after 2,000 steps of 12 sequences",
    ),
    minutes=2,
    data="tinyshakespeare",
)
def shakespeare_gpt(
    num_layers: int = 4,
    num_heads: int = 4,
    width: int = 128,
    context: int = 64,
    dropout_rate: float = 0.0,
    attention: str = "softmax",
    num_experts: int = 1,
    batch_size: int = 16,
    learning_rate: float = 2e-3,
    weight_decay: float = 0.1,
    steps: int = 2000,
) -> Experiment:
    """A GPT over the 65 characters of tiny Shakespeare, scored in nats a character on the last tenth of the text.

    The whole of the held-out text is read, in windows of `context` characters that do not overlap. With `attention="linear"` the cost grows with the
    context and not with its square. With `num_experts` above 1 each layer is a Switch layer, and `largest_load` says how many times its even share
    the busiest expert of all layers gets.
    """
    from functools import partial

    import jax.numpy as jnp
    import numpy as np
    import optax

    from dljax import data
    from dljax.core import check_choice, check_int, check_range
    from dljax.models.generation import generate
    from dljax.models.gpt import GPT, attention_maps
    from dljax.nn import LinearAttention, MixtureOfExperts
    from dljax.objectives import cross_entropy
    from dljax.supervised import supervised

    check_range("shakespeare/gpt", "learning_rate", learning_rate, 0, open_low=True, open_high=True)
    check_range("shakespeare/gpt", "weight_decay", weight_decay, 0, open_high=True)
    check_choice("shakespeare/gpt", "attention", attention, ("softmax", "linear"))
    check_int("shakespeare/gpt", "num_experts", num_experts, minimum=1)
    check_int("shakespeare/gpt", "context", context, minimum=1)
    text = data.load("tinyshakespeare")
    vocabulary, held_out = text["vocabulary"], _windows_of(text["validation"]["tokens"], context)
    model = GPT(len(vocabulary), context, num_layers, num_heads, width, dropout_rate)
    if attention == "linear":  # it has no weights to drop
        model = model.clone(attention=LinearAttention, attention_dropout_rate=0.0)
    if num_experts > 1:
        model = model.clone(feed_forward=partial(MixtureOfExperts, num_experts=num_experts))
    warmup = min(100, steps // 10)
    shape = optax.warmup_cosine_decay_schedule(0.0, 1.0, warmup, max(steps, warmup + 1), end_value=0.1)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        # The rate multiplies the schedule's shape, so that it may be traced; norms, biases and positions do not decay.
        optax.adamw(lambda step: learning_rate * shape(step), b2=0.99, weight_decay=weight_decay, mask=_is_matrix),
    )
    learner = supervised(model, cross_entropy, optimizer, metrics={"nats_per_char": cross_entropy})

    def sample(key, params, prompt, *, num=200, temperature=1.0):
        return generate(model, params, prompt, max_tokens=num, method="sample", key=key, temperature=temperature).tokens

    learner = learner._replace(functions={**learner.functions, "sample": sample})

    def measure(params, key):
        _, sown = model.apply(params, jnp.asarray(held_out["x"][:128]), mutable=["intermediates"])
        return {"largest_load": float(sown["intermediates"]["decoder"]["layers"]["feed_forward"]["load"][0].max() * num_experts)}

    def figures(params, key):
        from dljax import report

        prompt = jnp.asarray(data.encode_text("ROMEO:", vocabulary)[0])[None]
        drawn = np.asarray(sample(key, params, prompt, num=500, temperature=0.8))[0]
        line = text["validation"]["tokens"][:context]
        maps = np.asarray(attention_maps(model, params, jnp.asarray(line)[None]))[:, 0].reshape(num_layers * num_heads, len(line), len(line))
        names = [f"layer {layer + 1}, head {head + 1}" for layer in range(num_layers) for head in range(num_heads)]
        read = data.decode_text(line, vocabulary)
        return {
            "sample": report.text("ROMEO:" + data.decode_text(drawn, vocabulary), "What the model writes after “ROMEO:”, at temperature 0.8"),
            "attention": report.grid(
                # Each row by its own largest weight, or the first positions, which read few others, outshine the rest.
                maps / maps.max(-1, keepdims=True),
                f"Where each character (rows, top to bottom) looks back to (columns), reading {read!r}",
                labels=names,
                columns=num_heads,
            ),
        }

    return Experiment(
        learner,
        data.windows(text["train"]["tokens"], context, batch_size),
        steps=steps,
        evaluation=held_out,
        batch_size=128,
        measure=measure if num_experts > 1 else None,
        figures=figures,
        per_step=batch_size * context,
        unit="characters",
        exports=lambda key: {
            "predict": (jnp.zeros((1, context), jnp.int32),),
            "sample": (jnp.zeros((1, 1), jnp.int32),),
        },
    )


@recipe(
    "shakespeare/lstm",
    chapter=6,
    rows=("6.4",),
    target=AtMost(
        "nats_per_char",
        1.65,
        source="nanoGPT's README reports 1.88 for a GPT of 0.8 million weights trained on a CPU and 1.47 for one of 10 million trained on a GPU",
    ),
    minutes=5,
    data="tinyshakespeare",
)
def shakespeare_lstm(
    cell: str = "lstm",
    num_layers: int = 1,
    width: int = 256,
    embedding_size: int = 64,
    dropout_rate: float = 0.1,
    segment: int = 64,
    batch_size: int = 32,
    learning_rate: float = 4e-3,
    steps: int = 5000,
) -> Experiment:
    """An LSTM over the 65 characters of tiny Shakespeare, by truncated backpropagation, scored in nats a character on the last tenth of the text.

    32 streams of the text are read side by side, segment after segment, and the state is carried on. The whole of the held-out text is read, in
    8 streams with the state carried from beginning to end.
    """
    import jax.numpy as jnp
    import numpy as np
    import optax

    from dljax import data
    from dljax.core import check_range
    from dljax.models.rnn import RecurrentLanguageModel, recurrent_sampler
    from dljax.objectives import cross_entropy
    from dljax.supervised import truncated_bptt

    check_range("shakespeare/lstm", "learning_rate", learning_rate, 0, open_low=True, open_high=True)
    text = data.load("tinyshakespeare")
    vocabulary = text["vocabulary"]
    model = RecurrentLanguageModel(len(vocabulary), width, cell, num_layers, embedding_size, dropout_rate)
    warmup = min(100, steps // 10)
    shape = optax.warmup_cosine_decay_schedule(0.0, 1.0, warmup, max(steps, warmup + 1), end_value=0.02)
    # The rate multiplies the schedule's shape, so that it may be traced.
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(lambda step: learning_rate * shape(step), b2=0.99))
    num_evaluated = 8
    learner = truncated_bptt(model, cross_entropy, optimizer, metrics={"nats_per_char": cross_entropy}, num_evaluated=num_evaluated)
    sample = recurrent_sampler(model)
    learner = learner._replace(functions={**learner.functions, "sample": sample})

    def figures(params, key):
        from dljax import report

        prompt = jnp.asarray(data.encode_text("ROMEO:", vocabulary)[0])[None]
        drawn = np.asarray(sample(key, params, prompt, num=600, temperature=0.8))[0]
        written = "ROMEO:" + data.decode_text(drawn, vocabulary)
        return {"sample": report.text(written, "What the model writes after “ROMEO:”, at temperature 0.8")}

    return Experiment(
        learner,
        data.streams(text["train"]["tokens"], segment, batch_size),
        steps=steps,
        evaluation=data.stream_segments(text["validation"]["tokens"], 128, num_evaluated),
        batch_size=num_evaluated,
        figures=figures,
        per_step=batch_size * segment,
        unit="characters",
        exports=lambda key: {"predict": (jnp.zeros((1, segment), jnp.int32),), "sample": (jnp.zeros((1, 1), jnp.int32),)},
    )


def _is_matrix(params):
    from jax import tree_util

    return tree_util.tree_map_with_path(lambda path, leaf: path[-1].key in ("kernel", "embedding"), params)


def _windows_of(tokens, length: int) -> dict:
    """A text as rows that do not overlap, every character but the first a target once; the last row is padded and masked."""
    import numpy as np

    num_targets = len(tokens) - 1
    rows = -(-num_targets // length)

    def padded(values):
        return np.pad(values, (0, rows * length - num_targets)).reshape(rows, length)

    return {"x": padded(tokens[:-1]), "y": padded(tokens[1:]), "mask": padded(np.ones(num_targets, np.float32))}
