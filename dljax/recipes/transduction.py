"""Transduction (chapter 6): one sequence into another, by an encoder and a decoder with attention."""

from dljax.core.experiment import AtLeast, AtMost, Experiment, recipe


@recipe(
    "reversal/seq2seq",
    chapter=6,
    rows=("6.2",),
    target=AtLeast("exact_match", 0.98, source="the task has an exact solution; two strings in a hundred may be wrong somewhere"),
    minutes=1,
)
def reversal_seq2seq(
    task: str = "reversal",
    symbols: int = 10,
    longest: int = 12,
    attention: str = "general",
    cell: str = "lstm",
    width: int = 96,
    sampling: float = 0.0,
    batch_size: int = 64,
    learning_rate: float = 5e-3,
    steps: int = 1500,
) -> Experiment:
    """Random strings written backwards (`--task copy`: as they are), exact to the last symbol, on strings that were never trained on.

    A string has 1 to `longest` symbols, numbers from 0. Those whose sum is a multiple of `symbols` are held out: training never draws one.
    `sampling` is the share of the decoder's inputs that are its own draws in the last step; it grows from none.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from dljax import data
    from dljax.core.checks import check_choice, check_int, check_range
    from dljax.models.seq2seq import Seq2Seq
    from dljax.models.translation import teacher_forcing, translator
    from dljax.objectives import accuracy, cross_entropy
    from dljax.supervised import scheduled_sampling, supervised

    check_choice("reversal/seq2seq", "task", task, ("reversal", "copy"))
    check_int("reversal/seq2seq", "symbols", symbols, minimum=2)
    check_int("reversal/seq2seq", "longest", longest, minimum=1)
    check_int("reversal/seq2seq", "batch_size", batch_size, minimum=1)
    check_range("reversal/seq2seq", "learning_rate", learning_rate, 0, open_low=True, open_high=True)
    model = Seq2Seq(symbols + 2, symbols + 2, width, embed_size=32, cell=cell, attention=attention)
    places = np.arange(longest)

    def strings(key, num, is_held_out):
        """Ids from 2, for 0 and 1 begin and end a target."""
        length_key, key = jax.random.split(key)
        lengths = jax.random.randint(length_key, (num,), 1, longest + 1)
        source = jax.random.randint(key, (num, longest), 0, symbols)
        total = jnp.where(places[None] < lengths[:, None], source, 0).sum(1)
        # Another first symbol makes the sum what it must be.
        change = -total if is_held_out else jnp.where(total % symbols == 0, 1, 0)
        first = (source[:, 0] + change) % symbols
        return source.at[:, 0].set(first) + 2, lengths

    def target_of(source, lengths):
        order = jnp.where(places[None] < lengths[:, None], lengths[:, None] - 1 - places[None], places[None])
        return jnp.take_along_axis(source, order, 1) if task == "reversal" else source

    def sample(key):
        source, lengths = strings(key, batch_size, False)
        target = jnp.where(places[None] < lengths[:, None], target_of(source, lengths), 0)
        inputs, y = jnp.pad(target, ((0, 0), (1, 0))), jnp.pad(target, ((0, 0), (0, 1))).at[jnp.arange(batch_size), lengths].set(1)
        mask = (jnp.arange(longest + 1)[None] <= lengths[:, None]).astype(jnp.float32)
        return {"x": {"source": source, "lengths": lengths, "inputs": inputs}, "y": y, "mask": mask}

    # A sweep over the learning rate builds this in a trace, but these are constants.
    with jax.ensure_compile_time_eval():
        source, lengths = map(np.asarray, strings(jax.random.key(0), 2000, True))
        target = np.asarray(target_of(jnp.asarray(source), jnp.asarray(lengths)))
    shape = optax.cosine_decay_schedule(1.0, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(lambda step: learning_rate * shape(step)))
    learner = supervised(model, cross_entropy, optimizer, metrics={"accuracy": accuracy})
    translate = translator(model, max_tokens=longest + 1)
    learner = learner._replace(functions={**learner.functions, "translate": translate})
    if sampling:
        learner = scheduled_sampling(learner, optax.linear_schedule(0.0, sampling, steps))

    def measure(params, key):
        found = jax.jit(translate)(key, params, jnp.asarray(source), jnp.asarray(lengths))
        tokens, num = np.asarray(found.tokens[:, 0]), np.asarray(found.lengths[:, 0])
        is_right = (num == lengths + 1) & ((tokens[:, :-1] == target) | (np.arange(longest) >= lengths[:, None])).all(1)
        return {"exact_match": float(is_right.mean())}

    def figures(params, key):
        row = int(lengths.argmax())
        text, written = source[row, : lengths[row]] - 2, target[row, : lengths[row]] - 2
        forced = teacher_forcing(source[row : row + 1], lengths[row : row + 1], target[row : row + 1], lengths[row : row + 1])
        return {"alignment": _alignment(model, params, forced["x"], list(map(str, text)), [*map(str, written), "stop"], f"Writing {written}")}

    return Experiment(
        learner,
        data.from_sampler(sample),
        steps=steps,
        evaluation=teacher_forcing(source, lengths, target, lengths),
        batch_size=500,
        measure=measure,
        figures=figures,
        per_step=batch_size,
        unit="strings",
        exports=lambda key: {"translate": (jnp.asarray(source[:1]), jnp.asarray(lengths[:1]))},
    )


@recipe(
    "cmudict/seq2seq",
    chapter=6,
    rows=("6.2",),
    target=AtMost(
        "phoneme_error_rate",
        0.10,
        source="none published for this split: a tenth of the phonemes; Bisani & Ney (2008) have 5.9 % by joint n-grams on another one",
    ),
    minutes=8,
    data="cmudict",
)
def cmudict_seq2seq(
    attention: str = "general",
    cell: str = "gru",
    width: int = 192,
    embed_size: int = 64,
    num_layers: int = 1,
    dropout_rate: float = 0.1,
    sampling: float = 0.0,
    num_beams: int = 4,
    longest: int = 12,
    batch_size: int = 128,
    learning_rate: float = 3e-3,
    steps: int = 4000,
) -> Experiment:
    """How English words are pronounced: 39 phonemes, without stress, from their letters; scored on words held out.

    A tenth of the words, chosen by a hash, is held out with all their pronunciations, and with their genitives ("cat's" goes with "cat"). The phoneme
    error rate is the edit distance to the nearest of a word's pronunciations over that one's length, both summed over all held-out words; the word
    error rate is the share of words that meet none. Training leaves out words of more than `longest` letters or phonemes, 3 % of them; the test does
    not.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from dljax import data
    from dljax.core.checks import check_int, check_range
    from dljax.data.pronunciations import encode_tokens, split_words, without_stress
    from dljax.models.seq2seq import Seq2Seq
    from dljax.models.translation import teacher_forcing, translator
    from dljax.objectives import accuracy, cross_entropy, edit_distance
    from dljax.supervised import scheduled_sampling, supervised

    check_range("cmudict/seq2seq", "learning_rate", learning_rate, 0, open_low=True, open_high=True)
    check_int("cmudict/seq2seq", "longest", longest, minimum=4)
    dictionary = data.load("cmudict")
    words = dictionary["words"].tolist()
    letters = ["", *sorted(set("".join(words)))]
    phonemes = ["<start>", "<stop>", *dictionary["phonemes"]]
    spoken = [list(dict.fromkeys(tuple(map(without_stress, variant)) for variant in variants)) for variants in dictionary["pronunciations"]]
    is_test = split_words([word.removesuffix("'s") for word in words])

    def pairs(is_chosen, limit):
        rows = [(word, variant) for word, variants, chosen in zip(words, spoken, is_chosen, strict=True) if chosen for variant in variants]
        return zip(*[(word, variant) for word, variant in rows if max(len(word), len(variant)) <= limit], strict=True)

    def arrays(pairs, length):
        written, said = pairs
        return teacher_forcing(*encode_tokens(written, letters, length), *encode_tokens(said, phonemes, length))

    train, most = arrays(pairs(~is_test, longest), longest), max(map(len, words))
    test_words = [word for word, chosen in zip(words, is_test, strict=True) if chosen]
    test_spoken = [variants for variants, chosen in zip(spoken, is_test, strict=True) if chosen]
    source, lengths = encode_tokens(test_words, letters)
    owner = np.repeat(np.arange(len(test_words)), [len(variants) for variants in test_spoken])
    said, said_lengths = encode_tokens([variant for variants in test_spoken for variant in variants], phonemes)

    model = Seq2Seq(len(letters), len(phonemes), width, embed_size, num_layers, cell, attention, dropout_rate=dropout_rate)
    warmup = min(200, steps // 10)
    shape = optax.warmup_cosine_decay_schedule(0.0, 1.0, warmup, max(steps, warmup + 1), end_value=0.01)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(lambda step: learning_rate * shape(step)))
    learner = supervised(model, cross_entropy, optimizer, metrics={"accuracy": accuracy})
    translate = translator(model, max_tokens=most, num_beams=num_beams)
    learner = learner._replace(functions={**learner.functions, "translate": translate})
    if sampling:
        learner = scheduled_sampling(learner, optax.linear_schedule(0.0, sampling, steps))

    def spell(params, key, beams, source, lengths):
        write = jax.jit(translator(model, max_tokens=most, num_beams=beams))
        found = [write(key, params, *part) for part in blocks((source, lengths), 512)]
        tokens, num = (np.concatenate([np.asarray(getattr(part, name)[:, 0]) for part in found])[: len(source)] for name in ("tokens", "lengths"))
        # The stop is no phoneme.
        is_stopped = tokens[np.arange(len(tokens)), num - 1] == 1
        return tokens, num - is_stopped

    def error_rates(params, key, beams):
        tokens, num = spell(params, key, beams, source, lengths)
        given = map(jnp.asarray, (tokens[owner], said, num[owner], said_lengths))
        edits = np.asarray(
            jax.jit(lambda tokens, labels, *lengths: edit_distance(tokens, labels, lengths=lengths[0], label_lengths=lengths[1]))(*given)
        )
        # The nearest of each word's pronunciations; of equally near ones the first.
        order = np.lexsort((edits, owner))
        nearest = order[np.unique(owner[order], return_index=True)[1]]
        return edits[nearest].sum() / said_lengths[nearest].sum(), (edits[nearest] > 0).mean()

    def measure(params, key):
        (greedy, greedy_words), (beam, beam_words) = (error_rates(params, key, beams) for beams in (1, num_beams))
        return {
            "phoneme_error_rate": float(beam), "word_error_rate": float(beam_words),
            "greedy_phoneme_error_rate": float(greedy), "greedy_word_error_rate": float(greedy_words),
        }  # fmt: skip

    def figures(params, key):
        from dljax import report

        rows = np.flatnonzero((lengths >= 8) & (lengths <= 11))[:: max(1, len(lengths) // 60)][:12]
        tokens, num = spell(params, key, num_beams, source[rows], lengths[rows])
        said_of = [[phonemes[token] for token in row[:count]] for row, count in zip(tokens, num, strict=True)]
        table = [
            {"word": test_words[row], "the model": " ".join(guess), "the dictionary": " / ".join(map(" ".join, test_spoken[row]))}
            for row, guess in zip(rows, said_of, strict=True)
        ]
        word, guess = test_words[rows[0]], said_of[0]
        forced = teacher_forcing(source[rows[:1]], lengths[rows[:1]], *encode_tokens([guess], phonemes))
        return {
            "words": report.table(table, "Words that were held out"),
            "alignment": _alignment(model, params, forced["x"], list(word), [*guess, "stop"], f"Which letters of “{word}” each phoneme looks at"),
        }

    return Experiment(
        learner,
        data.shuffled(train, batch_size),
        steps=steps,
        evaluation=arrays(pairs(is_test, longest), longest),
        batch_size=512,
        measure=measure,
        figures=figures,
        per_step=batch_size,
        unit="words",
        exports=lambda key: {"translate": (jnp.asarray(source[:1]), jnp.asarray(lengths[:1]))},
    )


def blocks(arrays, size):
    """Rows in blocks of one size, so that one program does for all; the last block is filled up with copies of the last row."""
    import numpy as np

    num = len(arrays[0])
    for start in range(0, num, size):
        rows = np.minimum(np.arange(start, start + size), num - 1)
        yield tuple(array[rows] for array in arrays)


def picture(weights, read, written, caption):
    """The weights of an attention [T, S] as a picture with its tokens."""
    from dljax import report

    def draw(axes):
        axes.imshow(weights, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(len(read)), read, rotation=90 if max(map(len, read)) > 3 else 0)
        axes.set_yticks(range(len(written)), written)
        axes.set(xlabel="read", ylabel="written")

    return report.plot(draw, caption)


def _alignment(model, params, x, read, written, caption):
    import numpy as np

    weights = np.asarray(model.apply(params, x, method="align")[1])[0, : len(written), : len(read)]
    return picture(weights, read, written, caption)
