"""The quick check of a new Python or jax: one step of each family, a saved and resumed run, a sweep."""

import jax
import numpy as np
import pytest
from test_contract import built

from dljax.core import start
from dljax.core.tree import is_finite
from dljax.engine import FitConfig, fit, sweep

pytestmark = pytest.mark.smoke


@pytest.mark.parametrize(
    "name", ["cartpole/ppo", "cora/gcn", "digits/mlp", "eight-gaussians/spline-flow", "fashion-mnist/cnn", "ring/gan", "shakespeare/gpt"]
)
def test_one_step_of_a_recipe_is_finite(name):
    experiment = built(name)
    learner, source = experiment.learner, experiment.source

    @jax.jit
    def one(key, data):
        run_key, state, cursor = start(learner, source, key, data)
        _, batch = source.next(data, cursor)
        return learner.step(run_key, state, batch)

    state, metrics = one(jax.random.key(0), source.data)
    assert is_finite(state)
    assert metrics


def test_a_run_is_saved_resumed_and_swept(tmp_path):
    experiment, config = built("digits/mlp"), FitConfig(every=2)
    whole = fit(experiment.learner, experiment.source, 6, config=config)
    fit(experiment.learner, experiment.source, 4, config=config, out=tmp_path)
    resumed = fit(experiment.learner, experiment.source, 6, config=config, out=tmp_path, resume=True)
    jax.tree.map(np.testing.assert_array_equal, whole.params, resumed.params)
    swept = sweep(lambda: experiment.learner, seeds=2, source=experiment.source, steps=6, config=config)
    np.testing.assert_allclose(swept.members[0].history["loss"], whole.history["loss"], rtol=1e-4)
