"""Chapter 8: a character model of Shakespeare that writes, and is taught a second voice by 1 % more weights.

A GPT of 0.8 million weights learns the first half of tiny Shakespeare. Texts come from one compiled program: prompts of different length are read at
once into a cache of keys and values, and continued greedily, at random, or by beam search. LoRA then adapts it to upper case, which it has hardly
seen, training only low-rank updates of queries and values, 8,192 numbers.
"""

# %% Data: 65 characters; the second voice shouts.
import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import dljax
from dljax import data
from dljax.core.tree import num_params
from dljax.engine import FitConfig
from dljax.models import GPT, generate, lora, lora_merged
from dljax.objectives import cross_entropy
from dljax.supervised import supervised

STEPS = int(os.environ.get("STEPS", "600"))
CONTEXT = 64
text = data.load("tinyshakespeare")
vocabulary, tokens = text["vocabulary"], text["train"]["tokens"]


def shouted(tokens):
    return data.encode_text(data.decode_text(tokens, vocabulary).upper(), vocabulary)[0]


# %% A base model.
model = GPT(len(vocabulary), CONTEXT)
learner = supervised(model, cross_entropy, optax.adamw(2e-3, weight_decay=0.1))
config = FitConfig(every=max(STEPS // 20, 1))
base = dljax.fit(learner, data.windows(tokens[:500_000], CONTEXT, 16), STEPS, jax.random.key(0), config=config)
print(f"{num_params(base.params):,} weights, {base.history['loss'][-1]:.2f} nats a character")

# %% Three ways to continue two prompts of different length.
prompts = [data.encode_text(line, vocabulary)[0] for line in ("ROMEO:\nIs the day", "The king")]
lengths = jnp.array([len(prompt) for prompt in prompts])
padded = jnp.stack([jnp.pad(jnp.asarray(prompt), (0, int(lengths.max()) - len(prompt))) for prompt in prompts])
write = partial(generate, model, max_tokens=40, lengths=lengths)
ways = {
    "greedy": jax.jit(write)(base.params, padded).tokens,
    "sampled": jax.jit(partial(write, method="sample", temperature=0.8, top_p=0.95, key=jax.random.key(1)))(base.params, padded).tokens,
    "beam search": jax.jit(partial(write, method="beam_search", num_beams=4))(base.params, padded).tokens[:, 0],
}
for way, found in ways.items():
    for prompt, row in zip(prompts, found, strict=True):
        print(f"{way}: {data.decode_text(np.concatenate([prompt, row]), vocabulary)!r}")

# %% LoRA: the base stays as it is.
adapted = supervised(lora(model, base.params, r"attention/(query|value)/kernel$", rank=4), cross_entropy, optax.adam(1e-2))
loud = data.windows(shouted(tokens[500_000:700_000]), CONTEXT, 16)
tuned = dljax.fit(adapted, loud, STEPS, jax.random.key(2), config=config)
print(f"LoRA trains {num_params(tuned.params['params']):,} weights; {tuned.history['loss'][0]:.2f} -> {tuned.history['loss'][-1]:.2f} nats")
merged = {"params": lora_merged(base.params["params"], tuned.params["params"])}
sample = jax.jit(partial(write, method="sample", temperature=0.5, key=jax.random.key(3)))
for name, variables in (("base", base.params), ("adapted", merged)):
    print(f"{name}: {data.decode_text(np.asarray(sample(variables, padded).tokens[0]), vocabulary)!r}")


# %% How well do both know both voices?
@jax.jit
def nats(variables, tokens):
    windows = tokens[: len(tokens) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)
    return cross_entropy(model.apply(variables, windows)[:, :-1], windows[:, 1:]).mean()


held_out = text["validation"]["tokens"][: 300 * CONTEXT]
voices = {"as written": jnp.asarray(held_out), "in upper case": jnp.asarray(shouted(held_out))}
scores = {name: [float(nats(variables, voice)) for voice in voices.values()] for name, variables in (("base", base.params), ("adapted", merged))}
print("nats a character", {name: [round(score, 2) for score in row] for name, row in scores.items()})

# %% A figure.
if __name__ == "__main__":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, run in (("base", base), ("adapted to upper case", tuned)):
        left.plot(run.history["step"], run.history["loss"], label=name)
    left.set(xlabel="step", ylabel="nats a character", title="training")
    left.legend()
    for place, (name, row) in enumerate(scores.items()):
        right.bar(np.arange(2) + 0.4 * place, row, 0.4, label=name)
    right.set_xticks(np.arange(2) + 0.2, voices)
    right.set(ylabel="nats a character", title="a text not seen")
    right.legend()
    figure.savefig("ch08_generation.png", dpi=150)
