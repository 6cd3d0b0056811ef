"""Word embeddings (chapter 6): what words of the bible mean, by the words around them."""

from dljax.core.experiment import AtLeast, Experiment, recipe

# Chosen before anything was trained: a neighbour that a reader would expect, any one of which counts.
PROBES = {
    "king": ("kings", "reigned", "throne", "hezekiah", "josiah"),
    "god": ("lord", "gods", "almighty", "christ", "fathers"),
    "son": ("sons", "father", "begat", "daughter", "brother"),
    "day": ("days", "night", "morning", "sabbath", "month"),
    "water": ("waters", "drink", "well", "wells", "river"),
    "bread": ("unleavened", "eat", "wine", "loaves", "leavened"),
    "father": ("mother", "son", "brother", "fathers", "sons"),
    "egypt": ("pharaoh", "egyptians", "egyptian", "pharaoh's", "canaan"),
    "gold": ("silver", "golden", "brass", "pure", "jewels"),
    "priest": ("priests", "priest's", "aaron", "levites", "altar"),
}


@recipe(
    "bible/skip-gram",
    chapter=6,
    rows=("6.3",),
    target=AtLeast("probes_met", 0.8, source="the probe words and what is expected near them stand in the recipe, chosen before any training"),
    minutes=1,
    data="bible-kjv",
)
def bible_skip_gram(
    kind: str = "skip-gram",
    dimension: int = 100,
    window: int = 5,
    min_count: int = 20,
    subsampling: float = 1e-3,
    num_negatives: int = 5,
    batch_size: int = 1024,
    learning_rate: float = 2e-3,
    steps: int = 3000,
) -> Experiment:
    """Skip-gram with negative sampling on the King James bible, each verse a text.

    `probes_met` is the share of ten probe words that have at least one of five words named in advance among their ten nearest neighbours, by the
    cosine. The words were named before any training; rarer words left out and the number of steps were then changed once, after a first run met six.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from dljax import data
    from dljax.core import check_range
    from dljax.supervised import negative_sampling

    check_range("bible/skip-gram", "learning_rate", learning_rate, 0, open_low=True, open_high=True)
    verses = [data.split_words(verse) for verse in data.load("bible-kjv")["verses"]]
    vocabulary = data.Vocabulary.of(verses, min_count=min_count)
    ids = [vocabulary.encode(verse) for verse in verses]
    size = len(vocabulary.words)
    source = data.word_windows(ids, size, batch_size, kind=kind, window=window, subsampling=subsampling, num_negatives=num_negatives)
    # The rate multiplies the schedule's shape, so that it may be traced.
    shape = optax.linear_schedule(1.0, 0.01, max(steps, 1))
    learner = negative_sampling(size, dimension, optax.adam(lambda step: learning_rate * shape(step)))
    probes = jnp.asarray(vocabulary.encode(PROBES))
    if len(probes) < len(PROBES):
        raise ValueError(f"bible/skip-gram: min_count {min_count} leaves out some of the probe words {', '.join(PROBES)}; use at most 100")
    neighbours = jax.jit(learner.functions["neighbours"], static_argnames="num")

    def near(params, key):
        found = np.asarray(neighbours(key, params, probes, num=10))
        return {probe: [vocabulary.words[word] for word in row] for probe, row in zip(PROBES, found, strict=True)}

    def measure(params, key):
        found = near(params, key)
        return {"probes_met": sum(bool(set(found[probe]) & set(expected)) for probe, expected in PROBES.items()) / len(PROBES)}

    def figures(params, key):
        from sklearn.decomposition import PCA
        from sklearn.manifold import TSNE

        from dljax import report

        found = near(params, key)
        rows = []
        for probe, expected in PROBES.items():
            met = [word for word in found[probe] if word in expected]
            rows.append({"word": probe, "ten nearest": ", ".join(found[probe]), "named in advance": ", ".join(met) or "none"})
        words = list(dict.fromkeys(word for probe, others in found.items() for word in (probe, *others)))
        vectors = np.asarray(learner.functions["embed"](key, params, jnp.asarray(vocabulary.encode(words))))
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

        def draw(axes):
            places = TSNE(perplexity=10, init="pca", random_state=0).fit_transform(vectors)
            axes.scatter(*places.T, s=4, color="0.7")
            for word, place in zip(words, places, strict=True):
                axes.annotate(word, place, fontsize=9 if word in PROBES else 6, color="C3" if word in PROBES else "0.3")
            axes.set(xticks=[], yticks=[])

        def draw_main(axes):
            main = PCA(2).fit(vectors)
            places = main.transform(vectors)
            for word, place in zip(words, places, strict=True):
                if word in PROBES:
                    axes.scatter(*place, s=12, color="C3")
                    axes.annotate(word, place)
            axes.scatter(*places.T, s=3, color="0.7")
            axes.set(xlabel=f"{main.explained_variance_ratio_[0]:.0%} of the variance", ylabel=f"{main.explained_variance_ratio_[1]:.0%}")

        return {
            "neighbours": report.table(rows, "The ten nearest neighbours of the probe words, by the cosine"),
            "t-sne": report.plot(draw, "The probe words (red) and their neighbours, by t-SNE of their directions"),
            "pca": report.plot(draw_main, "The same on their two main axes"),
        }

    return Experiment(learner, source, steps=steps, measure=measure, figures=figures, per_step=batch_size, unit="pairs")
