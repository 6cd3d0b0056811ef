"""Chapter 10: what a guide leaves out. Forward against reverse KL in a picture, and the gradient variance of nine estimators in a table.

A mean-field guide of a correlated normal distribution is too narrow by reverse KL (scale 0.44, the precision's diagonal) and as wide as the margin by
forward KL (1.0); of two modes reverse KL takes one, forward KL covers both. At a guide near the posterior of a logistic regression the plain score
function's gradient has a variance of 1e5, leaving one out 59, reparameterised 18, sticking the landing 2.5. Rao-Blackwellisation is worse there than
leaving one out (102): every weight is in the likelihood, and what it drops would have cancelled. About half a minute on two cores.
"""

# %% Two targets in the plane: correlated, and with two modes.
import os

import jax
import jax.numpy as jnp
import optax
from jax.scipy.stats import multivariate_normal, norm

import dljax
from dljax.engine import FitConfig
from dljax.generative.bounds import forward_kl, importance_weighted, reverse_kl
from dljax.generative.estimators import doubly_reparameterised, rao_blackwellised, reparameterised, score_function, sticking_the_landing
from dljax.generative.guides import mean_field_guide
from dljax.generative.variational import gradient_variance, vi

STEPS = int(os.environ.get("STEPS", "1000"))
covariance = jnp.array([[1.0, 0.9], [0.9, 1.0]])


def correlated(z):
    return multivariate_normal.logpdf(z, jnp.zeros(2), covariance)


def two_modes(z):
    return jax.nn.logsumexp(jnp.stack([norm.logpdf(z, center, 0.6).sum() for center in (-1.5, 1.5)])) - jnp.log(2.0)


# %% Each by both divergences: another divergence is another argument.
guide = mean_field_guide(jnp.array([0.3, 0.1]), scale=1.0)
fits = {}
for target in (correlated, two_modes):
    for divergence, estimator in ((reverse_kl, reparameterised()), (forward_kl, score_function())):
        optimizer = optax.adam(optax.cosine_decay_schedule(0.05, STEPS))
        learner = vi(target, guide, optimizer, divergence=divergence, estimator=estimator, num_samples=100)
        run = dljax.fit(learner, steps=STEPS, key=jax.random.key(0), config=FitConfig(every=max(STEPS // 10, 1)))
        fits[target.__name__, divergence.name] = guide.moments(run.params)
        print(target.__name__, divergence.name, *(moment.round(2) for moment in fits[target.__name__, divergence.name]))

# %% The variance of every estimator, at the same guide of a logistic regression of five weights and 200 examples.
x = jax.random.normal(jax.random.key(1), (200, 5))
signs = jnp.where(jax.random.bernoulli(jax.random.key(2), jax.nn.sigmoid(x @ jnp.array([1.0, -1.0, 0.5, 0.0, 2.0]))), 1.0, -1.0)


def terms(w):
    """Five terms of the prior, one for each weight, and the likelihood."""
    return jnp.append(norm.logpdf(w), jax.nn.log_sigmoid(signs * (x @ w)).sum())


posterior = mean_field_guide(jnp.array([0.9, -0.9, 0.4, 0.0, 1.8]), scale=0.2)
depends = jnp.concatenate([jnp.eye(5, dtype=bool), jnp.ones((1, 5), bool)])
estimators = {
    "score function": score_function(baseline="none"),
    "moving average": score_function(baseline="moving-average"),
    "leave one out": score_function(),
    "optimal control variate": score_function(baseline="optimal"),
    "Rao-Blackwellised": rao_blackwellised(depends),
    "reparameterised": reparameterised(),
    "sticking the landing": sticking_the_landing(),
}
weighted = {"importance-weighted": reparameterised(), "importance-weighted, DReG": doubly_reparameterised()}


@jax.jit
def variances(key):
    place, options = (key, posterior.init(key), terms, posterior), {"num_samples": 10, "repeats": 2 * STEPS}
    table = gradient_variance(*place, estimators, **options)
    return table | gradient_variance(*place, weighted, divergence=importance_weighted, **options)


table = variances(jax.random.key(3))
totals = {name: float(table[name].total) for name in (*estimators, *weighted)}
for name, total in totals.items():
    print(f"{name:26s} total variance {total:12.4g}")

# %% A figure.
if __name__ == "__main__":
    from matplotlib.figure import Figure
    from matplotlib.patches import Ellipse

    figure = Figure(figsize=(13, 4), layout="constrained")
    grid = jnp.stack(jnp.meshgrid(axis := jnp.linspace(-3.5, 3.5, 150), axis), -1)
    *places, bars = figure.subplots(1, 3)
    for axes, target in zip(places, (correlated, two_modes), strict=True):
        axes.contour(axis, axis, jnp.exp(jax.vmap(jax.vmap(target))(grid)), colors="0.6", linewidths=0.8)
        for divergence, colour in (("reverse_kl", "C0"), ("forward_kl", "C3")):
            mean, scale = fits[target.__name__, divergence]
            axes.add_patch(Ellipse(mean, *(4 * scale), fill=False, color=colour, linewidth=2, label=divergence))
        axes.set(title=target.__name__.replace("_", " "), aspect="equal")
        axes.legend()
    bars.barh(list(totals), list(totals.values()))
    bars.set(xscale="log", title="total variance of the gradient")
    figure.savefig("ch10_variational_inference.png", dpi=150)
