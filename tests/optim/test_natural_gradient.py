"""The natural gradient: the explicit solution, the same in all linear coordinates, and no further than a divergence allows."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from second_order import LINE, check_empty_batch, check_shards, classes, first_steps, least_squares_solution, regression

from dljax.objectives import cross_entropy, huber_loss, squared_error
from dljax.optim import natural_gradient
from dljax.optim.fisher import from_divergence
from dljax.supervised import supervised


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield


def net(coordinates=None, outputs=3):
    """tanh and softmax, its 21 parameters as θ = M φ."""
    M = jnp.eye(12 + 4 * outputs) if coordinates is None else coordinates
    start = jax.random.normal(jax.random.key(3), (len(M),))

    def apply(params, x):
        theta = M @ params["theta"]
        return jnp.tanh(x @ theta[:12].reshape(3, 4)) @ theta[12:].reshape(4, outputs)

    return (lambda key, x: {"theta": jnp.linalg.solve(M, start)}, apply)


def test_3_3_natural_gradient_is_the_explicit_solution():
    batch = classes() | {"mask": jnp.arange(12.0)}
    init, apply = net()
    rule = natural_gradient(optax.constant_schedule(0.5), damping=0.1, max_divergence=jnp.inf, max_iterations=100)
    (before, after), _ = first_steps(supervised((init, apply), cross_entropy, rule), batch)

    @jax.jit
    def expected(theta):
        w = batch["mask"] / batch["mask"].sum()
        z, J = apply({"theta": theta}, batch["x"]), jax.jacobian(lambda theta: apply({"theta": theta}, batch["x"]))(theta)
        p = jax.nn.softmax(z)
        F = jnp.einsum("b,bki,bkl,blj->ij", w, J, jax.vmap(jnp.diag)(p) - jnp.einsum("bk,bl->bkl", p, p), J)
        gradient = jnp.einsum("b,bk,bki->i", w, p - jax.nn.one_hot(batch["y"], 3), J)
        return theta - 0.5 * jnp.linalg.solve(F + 0.1 * jnp.eye(theta.size), gradient)

    np.testing.assert_allclose(after.params["theta"], expected(before.params["theta"]), atol=1e-6)


def test_3_3_natural_gradient_is_invariant_to_reparameterisation():
    batch = regression(30)
    M = jax.random.normal(jax.random.key(5), (20, 20)) + 3 * jnp.eye(20)
    changes = {}
    for name, rule in [("natural", natural_gradient(0.5, damping=0.0, max_divergence=0.3, max_iterations=400)), ("plain", optax.sgd(0.01))]:
        changes[name] = []
        for coordinates in (None, M):
            learner = supervised(net(coordinates, outputs=2), squared_error, rule)
            (before, after), _ = first_steps(learner, batch)
            predict = jax.jit(learner.functions["predict"])
            changes[name].append(predict(None, learner.params(after), batch["x"]) - predict(None, learner.params(before), batch["x"]))
    np.testing.assert_allclose(*changes["natural"], atol=1e-3 * float(jnp.abs(changes["natural"][0]).max()))
    assert float(jnp.abs(changes["plain"][0] - changes["plain"][1]).max()) > 0.1 * float(jnp.abs(changes["plain"][0]).max())


def test_natural_gradient_solves_least_squares_in_one_step():
    batch = regression()
    (_, after), _ = first_steps(supervised(LINE, squared_error, natural_gradient(damping=0.0, max_divergence=jnp.inf)), batch)
    np.testing.assert_allclose(after.params["w"], least_squares_solution(batch), atol=1e-8)


def test_step_goes_as_far_as_the_divergence_allows():
    batch = classes()
    model = net()
    (before, after), (metrics,) = first_steps(supervised(model, cross_entropy, natural_gradient(damping=1e-2, max_divergence=1e-6)), batch)
    assert float(metrics["divergence"]) == pytest.approx(1e-6)
    old, new = (jax.nn.log_softmax(model[1](state.params, batch["x"])) for state in (before, after))
    assert float((jnp.exp(old) * (old - new)).sum(-1).mean()) == pytest.approx(1e-6, rel=0.05)


def test_devices_take_one_step():
    batch = regression() | {"mask": jnp.arange(12.0)}
    check_shards(natural_gradient(damping=0.1), LINE, squared_error, batch)


def test_batch_of_weight_zero_changes_nothing():
    check_empty_batch(natural_gradient(), regression())


def test_likelihood_by_a_divergence_and_refusals():
    batch = regression()
    normal = from_divergence(lambda old, new: ((old - new) ** 2).sum(-1))
    by_name, by_divergence = (
        first_steps(supervised(LINE, squared_error, natural_gradient(likelihood=likelihood)), batch)[0][1] for likelihood in (None, normal)
    )
    np.testing.assert_allclose(by_divergence.params["w"], by_name.params["w"], atol=1e-10)
    with pytest.raises(ValueError, match=r"natural_gradient: knows no distribution behind the loss 'huber_loss'; say likelihood="):
        supervised(LINE, huber_loss, natural_gradient()).init(jax.random.key(0), batch)
    for name, value in [("learning_rate", 0), ("damping", -1), ("max_divergence", 0), ("max_iterations", 0)]:
        with pytest.raises(ValueError, match=rf"natural_gradient: {name} must be"):
            natural_gradient(**{name: value})
    with pytest.raises(ValueError, match=r"natural_gradient: likelihood must be one of"):
        natural_gradient(likelihood="normal")
