"""Chapter 6: an encoder-decoder with attention learns how English words are pronounced, from the CMU dictionary.

On the 12,617 words held out 8.2 % of the phonemes are wrong by beam search, 8.3 % by the likeliest phoneme each time, and 34 % of the words have an
error, after 4,000 steps: some six minutes of one core, 19 on a machine shared with twenty other programs.
"""

# %% The recipe brings the dictionary, a tenth of its words held out, the model and its learner.
import os

import jax
import jax.numpy as jnp
import numpy as np

import dljax
from dljax import data, recipes
from dljax.data.pronunciations import encode_tokens
from dljax.models import Seq2Seq, decoder_step, encoder, greedy, sample, teacher_forcing, translator

STEPS = int(os.environ.get("STEPS", "4000"))
options = {"width": 192 if STEPS >= 100 else 8, "embed_size": 64}
experiment = recipes.get("cmudict/seq2seq").build(**options, steps=STEPS)
dictionary = data.load("cmudict")
letters = ["", *sorted(set("".join(dictionary["words"].tolist())))]
phonemes = ["<start>", "<stop>", *dictionary["phonemes"]]
model = Seq2Seq(len(letters), len(phonemes), **options, cell="gru")

# %% Training: the decoder reads the true phonemes and predicts each next one.
run = dljax.fit(experiment.learner, experiment.source, STEPS, jax.random.key(0))
params = run.params
print(f"accuracy of the next phoneme in training: {run.history['accuracy'][-1]:.3f}")

# %% Three ways to write with the same compiled step: the likeliest phoneme each time, draws, and the four best of a beam search.
words = ["transduction", "zephyr", "blick", "knightly", "supercalifragilistic"]
source, lengths = map(jnp.asarray, encode_tokens(words, letters))
step, encode, start = decoder_step(model), encoder(model), jnp.zeros((len(words), 1), jnp.int32)
limits = {"max_tokens": 24, "stop_tokens": (1,)}


@jax.jit
def write(params, key):
    cache = encode(params, source, lengths)
    likeliest = greedy(step, params, cache, start, **limits)
    drawn = sample(key, step, params, cache, start, temperature=0.8, top_p=0.9, **limits)
    return likeliest, drawn, translator(model, max_tokens=24, num_beams=4)(key, params, source, lengths)


def spoken(tokens, num):
    return " ".join(phonemes[token] for token in np.asarray(tokens[:num]) if token != 1)


likeliest, drawn, beams = write(params, jax.random.key(1))
for row, word in enumerate(words):
    print(f"\n{word}\n  greedy  {spoken(likeliest.tokens[row], likeliest.lengths[row])}\n  drawn   {spoken(drawn.tokens[row], drawn.lengths[row])}")
    for tokens, num, score in zip(beams.tokens[row], beams.lengths[row], beams.scores[row], strict=True):
        print(f"  beam    {spoken(tokens, num)}   ({score:.2f} nats a phoneme)")

# %% Where the decoder looks while it writes: the alignment runs down the diagonal, and letters that are not heard are passed over.
best = spoken(beams.tokens[0, 0], beams.lengths[0, 0]).split()
forced = teacher_forcing(source[:1, : len(words[0])], lengths[:1], *encode_tokens([best], phonemes))
weights = np.asarray(model.apply(params, forced["x"], method="align")[1])[0]

if __name__ == "__main__":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    axes.imshow(weights, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(words[0])), list(words[0]))
    axes.set_yticks(range(len(best) + 1), [*best, "stop"])
    axes.set(xlabel="letters that were read", ylabel="phonemes that were written")
    figure.savefig("ch06_spelling_to_speech.png", dpi=150)
