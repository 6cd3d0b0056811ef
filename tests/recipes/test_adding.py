"""The adding problem: who remembers over 200 steps, and who only knows the mean."""

import jax
import pytest

from dljax import core, recipes


@pytest.mark.slow
@pytest.mark.parametrize(("cell", "low", "high"), [("lstm", 0.0, 0.01), ("elman", 0.12, 0.2)])
def test_6_1_an_lstm_adds_over_200_steps_and_a_simple_net_stays_at_the_variance(cell, low, high):
    experiment = recipes.get("adding/lstm").build(cell=cell)
    learner, source = experiment.learner, experiment.source
    key, state, cursor = jax.jit(lambda key: core.start(learner, source, key))(jax.random.key(0))
    state, _, _ = jax.jit(core.unroll(learner, source, experiment.steps, every=experiment.steps))(key, 0, state, cursor)
    result = jax.jit(core.evaluate(learner.evaluate, experiment.batch_size))(jax.random.key(0), state, experiment.evaluation)
    assert low <= float(result["mse"].value) <= high
