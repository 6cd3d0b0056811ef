"""Oja's rule: the principal components, without a gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.decomposition import PCA

from dljax.core import Source, start, unroll
from dljax.core.check_learner import check_learner
from dljax.optim import oja


def data():
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    x = (rng.standard_normal((400, 5)) * [2.0, 1.2, 0.6, 0.3, 0.1]) @ axes
    return {"x": jnp.asarray(x - x.mean(0), jnp.float32)}


SOURCE = Source(lambda key: (), lambda data, cursor: (cursor, data), data())


def test_3_4_oja_is_the_first_principal_component_and_sanger_all_of_them():
    expected = PCA().fit(np.asarray(SOURCE.data["x"])).components_
    learner = oja(num_components=2, learning_rate=0.05)
    key, state, cursor = start(learner, SOURCE, jax.random.key(0))
    state, _, history = jax.jit(unroll(learner, SOURCE, 1000))(key, 0, state, cursor)
    np.testing.assert_allclose(np.abs(state.params @ expected.T), np.eye(2, 5), atol=2e-3)
    assert history["length"][-1] == pytest.approx(1, abs=1e-3)
    y = learner.functions["encode"](jax.random.key(0), state.params, SOURCE.data["x"])
    np.testing.assert_allclose(np.corrcoef(y.T)[0, 1], 0, atol=1e-2)


def test_oja_keeps_the_contract():
    check_learner(oja(num_components=2), SOURCE, steps=2)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="oja: num_components must be >= 1, got 0"):
        oja(num_components=0)
    with pytest.raises(ValueError, match=r"oja: learning_rate must be in \(0, inf\), got 0"):
        oja(learning_rate=0)
