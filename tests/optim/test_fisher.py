"""Products with the Fisher information and the Gauss-Newton matrix, held against the matrices themselves."""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from dljax.core import bind_axis
from dljax.objectives import cross_entropy, huber_loss, sigmoid_binary_cross_entropy, squared_error
from dljax.optim import Likelihood, fisher_product, gauss_newton_product
from dljax.optim.fisher import bernoulli, categorical, from_divergence, gaussian, likelihood_of

LOG_DENSITIES = {
    "categorical": lambda z, y: jax.nn.log_softmax(z)[y],
    "bernoulli": lambda z, y: -optax.sigmoid_binary_cross_entropy(z, y).sum(),
}
TARGETS = {"categorical": [jnp.int32(0), jnp.int32(1)], "bernoulli": [jnp.array(bits, float) for bits in product((0, 1), repeat=2)]}


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield


def net(outputs=2, num=5):
    """A small net as a function of its parameters as one vector, on a batch."""
    keys = jax.random.split(jax.random.key(0), 3)
    params = {"a": jax.random.normal(keys[0], (3, 4)), "b": jax.random.normal(keys[1], (4, outputs))}
    x, unravel = jax.random.normal(keys[2], (num, 3)), ravel_pytree(params)[1]

    def forward(theta, x=x):
        return jnp.tanh(x @ unravel(theta)["a"]) @ unravel(theta)["b"]

    return forward, ravel_pytree(params)[0], x


def matrix(times, theta):
    return jax.vmap(times)(jnp.eye(theta.size))


def same(ours, expected, *args):
    """Both compiled together: a program an operation would take longer."""
    for one, other in zip(*jax.jit(lambda *args: (ours(*args), expected(*args)))(*args), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-10)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_3_3_fisher_product_is_the_explicit_fisher(name):
    """The definition: the score's square, expected over all targets that there are."""
    forward, theta, x = net()
    weights = jnp.array([0.5, 0.0, 0.2, 0.2, 0.1])

    def one(theta, x):
        def log_density(theta, y):
            return LOG_DENSITIES[name](forward(theta, x[None])[0], y)

        scores = [(jnp.exp(log_density(theta, y)), jax.grad(log_density)(theta, y)) for y in TARGETS[name]]
        return sum(chance * jnp.outer(score, score) for chance, score in scores)

    same(
        lambda theta: matrix(fisher_product(forward, theta, name, weights=weights), theta),
        lambda theta: jnp.einsum("b,bij->ij", weights, jax.vmap(lambda x: one(theta, x))(x)),
        theta,
    )


def test_3_3_fisher_product_of_a_normal_distribution_is_that_of_the_textbook():
    forward, theta, _ = net()

    def divergence(old, new):
        """KL of normal distributions of mean and logarithm of the deviation, which a policy has."""
        mean, log_deviation = (jnp.stack([old[i], new[i]]) for i in (0, 1))
        variance = jnp.exp(2 * log_deviation)
        return log_deviation[1] - log_deviation[0] + (variance[0] + (mean[0] - mean[1]) ** 2) / (2 * variance[1]) - 0.5

    def policy(theta):
        z = forward(theta)
        return z[:, 0], z[:, 1]

    def ours(theta):
        known = matrix(fisher_product(forward, theta, gaussian(0.3), damping=0.7), theta)
        return known, matrix(fisher_product(policy, theta, from_divergence(divergence)), theta)

    def expected(theta):
        J = jax.jacobian(forward)(theta)
        # In these coordinates F = diag(1/σ², 2).
        scale = jnp.stack([jnp.exp(-2 * policy(theta)[1]), jnp.full(5, 2.0)], 1)
        return jnp.einsum("bki,bkj->ij", J, J) / (5 * 0.3) + 0.7 * jnp.eye(theta.size), jnp.einsum("bk,bki,bkj->ij", scale, J, J) / 5

    same(ours, expected, theta)


def test_3_3_gauss_newton_product_is_the_explicit_matrix():
    forward, theta, _ = net()
    y = jnp.array([0, 1, 1, 0, 1])

    def loss(z):
        return cross_entropy(z, y).mean() + (z**4).sum()

    def expected(theta):
        J, H = jax.jacobian(forward)(theta).reshape(10, -1), jax.hessian(loss)(forward(theta)).reshape(10, 10)
        return J.T @ H @ J + 0.1 * jnp.eye(theta.size)

    same(lambda theta: matrix(gauss_newton_product(forward, loss, theta, damping=0.1), theta), expected, theta)


@pytest.mark.parametrize(
    ("loss", "y"),
    [
        (cross_entropy, np.array([0, 1, 1, 0, 1])),
        (partial(cross_entropy, label_smoothing=0.2), np.array([0, 1, 1, 0, 1])),
        (sigmoid_binary_cross_entropy, np.eye(5, 2)),
        (squared_error, np.ones((5, 2))),
        (optax.l2_loss, np.ones((5, 2))),
    ],
    ids=["softmax", "smoothed", "sigmoid", "squares", "half-squares"],
)
def test_fisher_information_behind_a_loss_is_its_gauss_newton_matrix(loss, y):
    forward, theta, _ = net()

    def behind(theta):
        values = loss(forward(theta), y)
        weights = jnp.full(values.shape, 1 / values.size)
        return [fisher_product(forward, theta, likelihood_of("test", None, loss), weights=weights)(theta)]

    same(behind, lambda theta: [gauss_newton_product(forward, lambda z: loss(z, y).mean(), theta)(theta)], theta)


@pytest.mark.parametrize("likelihood", [categorical(), bernoulli(), gaussian(0.3)], ids=["categorical", "bernoulli", "gaussian"])
def test_scores_and_columns_square_to_the_fisher_information(likelihood):
    z = jnp.array([[0.5, -1.0, 2.0], [1e4, -1e4, 0.0]])

    @jax.jit
    def everything(z):
        F = jax.vmap(lambda v: likelihood.product(z, jnp.broadcast_to(v[None], z.shape)), out_axes=1)(jnp.eye(3))  # [B, 3, 3]
        columns, scores = likelihood.columns(z), likelihood.score(jax.random.key(0), jnp.broadcast_to(z[:1], (200_000, 3)))
        return F, jnp.einsum("kbi,kbj->bij", columns, columns), scores.mean(0), scores.T @ scores / len(scores)

    F, squares, mean, covariance = everything(z)
    np.testing.assert_allclose(squares, F, atol=1e-12)
    np.testing.assert_allclose(mean, 0, atol=0.02)
    np.testing.assert_allclose(covariance, F[0], atol=0.02 * float(F[0].max()) + 0.005)


def test_devices_hold_shares_of_one_matrix():
    forward, theta, x = net(num=6)

    def products(theta, x):
        fisher = fisher_product(lambda theta: forward(theta, x), theta)
        return fisher(theta), gauss_newton_product(lambda theta: forward(theta, x), lambda z: (z**2).sum(), theta)(theta)

    def shard(theta, x):
        with bind_axis("data"):
            return products(theta, x)

    def shards(theta):
        return jax.vmap(shard, (None, 0), axis_name="data")(theta, x.reshape(2, 3, 3))

    same(shards, lambda theta: [jnp.stack([whole, whole]) for whole in products(theta, x)], theta)


def test_bad_inputs_are_refused():
    forward, theta, _ = net()
    with pytest.raises(ValueError, match=r"fisher_product: likelihood must be one of 'bernoulli', 'categorical', 'gaussian', got 'softmax'"):
        fisher_product(forward, theta, "softmax")
    with pytest.raises(ValueError, match=r"fisher_product: damping must be in \[0, inf\), got -1"):
        fisher_product(forward, theta, damping=-1)
    with pytest.raises(ValueError, match=r"weights must have the shape of the outputs \(5, 2\) or a prefix of it, got \(4,\)"):
        fisher_product(forward, theta, weights=jnp.ones(4))(theta)
    with pytest.raises(ValueError, match=r"gauss_newton_product: damping must be in \[0, inf\), got nan"):
        gauss_newton_product(forward, lambda z: z.sum(), theta, damping=float("nan"))
    with pytest.raises(ValueError, match=r"gaussian: variance must be in \(0, inf\), got 0"):
        gaussian(0)
    with pytest.raises(ValueError, match=r"kfac: knows no distribution behind the loss 'huber_loss'; say likelihood='bernoulli', 'categorical', "):
        likelihood_of("kfac", None, huber_loss)
    assert isinstance(likelihood_of("test", "gaussian"), Likelihood)
