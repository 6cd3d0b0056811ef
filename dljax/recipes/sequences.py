"""Sequences (chapter 6): what a recurrent net must remember."""

from dljax.core.experiment import AtMost, Experiment, recipe


@recipe(
    "adding/lstm",
    chapter=6,
    rows=("6.1",),
    target=AtMost(
        "mse",
        0.01,
        source="Hochreiter & Schmidhuber (1997), experiment 4: an LSTM solves the adding problem at hundreds of steps; 1/6 is the mean's error",
    ),
    minutes=2,
    cores=1,
)
def adding_lstm(
    cell: str = "lstm",
    length: int = 200,
    width: int = 64,
    forget_bias: float = 3.0,
    batch_size: int = 32,
    learning_rate: float = 3e-3,
    steps: int = 3000,
) -> Experiment:
    """The sum of two marked numbers among 200, the first in one half and the second in the other; `cell="elman"` shows what cannot.

    A net that only knows the mean of the sum has a mean squared error of 1/6, its variance; every batch is new, and the test set is 2,000 sequences.
    """
    import jax
    import jax.numpy as jnp
    import optax

    from dljax import data
    from dljax.core import check_int, check_range
    from dljax.models.rnn import RecurrentReadout
    from dljax.objectives import squared_error
    from dljax.supervised import supervised

    check_int("adding/lstm", "batch_size", batch_size, minimum=1)
    check_range("adding/lstm", "learning_rate", learning_rate, 0, open_low=True, open_high=True)

    def error(outputs, y):
        return squared_error(outputs[:, 0], y)

    model = RecurrentReadout(1, width, cell, forget_bias=forget_bias)
    shape = optax.cosine_decay_schedule(1.0, max(steps, 1), 0.05)
    # The rate multiplies the schedule's shape, so that it may be traced.
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(lambda step: learning_rate * shape(step)))
    return Experiment(
        supervised(model, error, optimizer, metrics={"mse": error}),
        data.from_sampler(lambda key: data.adding_problem(key, batch_size, length=length)),
        steps=steps,
        evaluation=jax.tree.map(jnp.asarray, data.adding_problem(jax.random.key(1), 2000, length=length)),
        batch_size=200,
        per_step=batch_size,
        unit="sequences",
    )
