"""Variational inference (chapter 10): posteriors of three models on real data, beside those of a long Markov chain."""

from dljax.core.experiment import AtMost, Experiment, recipe

# Means and deviations by numpyro 0.22's NUTS in float64: 4 chains of 25,000 draws after 2,000 of warm-up, target acceptance 0.95, no divergences.
# Monte Carlo standard errors are at most 0.7 % of a posterior deviation. `tests/golden/make_posteriors.py` makes them.
_NUTS = {
    "eight-schools/vi": {
        "mean": [[4.3995, 3.3282]],
        "log_scale": [[0.7961, 1.1683]],
        "effects": [
            [6.2015, 5.5419], [4.9389, 4.6659], [3.9277, 5.2525], [4.7659, 4.7854], [3.6306, 4.6651], [4.0428, 4.8330],
            [6.2963, 5.0750], [4.8307, 5.3370],
        ],
    },
    "breast-cancer/bayesian-logistic": {
        "intercept": [[0.5914, 0.2219]],
        "weights": [
            [-1.0369, 0.8228], [-1.4541, 0.2338], [-0.9587, 0.8401], [-1.3677, 0.8519], [-1.0111, 0.3401], [0.2867, 0.5237],
            [-1.1033, 0.4770], [-1.6582, 0.6628], [-0.4344, 0.2692], [0.4271, 0.4388],
        ],
    },
    "iris/bayesian-mixture": {
        "share": [[0.3351, 0.0380]],
        "means": [[1.4619, 0.0254], [4.9025, 0.0842]],
        "scales": [[0.1771, 0.0185], [0.8319, 0.0609]],
    },
}  # fmt: skip

_CLOSE = (
    "the largest error of a mean, in posterior deviations, or of a deviation, relative; the posterior is that of numpyro's NUTS, 100,000 draws, "
    "whose own Monte Carlo errors are below 0.01"
)


@recipe("eight-schools/vi", chapter=10, rows=("10.1",), target=AtMost("largest_deviation", 0.05, source=_CLOSE), minutes=1.5)
def eight_schools_vi(
    layers: int = 4,
    width: int = 32,
    num_bins: int = 8,
    learning_rate: float = 5e-3,
    num_samples: int = 128,
    steps: int = 8000,
) -> Experiment:
    """Eight schools (Rubin, 1981): how much coaching helped in each, and how much schools differ; a spline flow for a guide.

      y_j ~ N(θ_j, σ_j²),   θ_j = μ + τ ε_j,   ε_j ~ N(0, 1),   μ ~ N(0, 5²),   τ ~ half-Cauchy(5)

    The model is written without a centre: μ, log τ and ε. Few data say that τ is not zero, so log τ has a long lower tail, which no normal guide has.
    Metrics: `elbo` (nats), `elbo_gap` to the evidence, -31.3113 by quadrature, `k_hat` (below 0.7 the guide can be relied on) and `largest_deviation`
    of the means and the deviations of μ, log τ and the eight θ_j. The number of samples and of steps was chosen in sight of that metric.
    """
    import jax
    import jax.numpy as jnp
    from jax.scipy.stats import cauchy, norm

    from dljax.core import check_int
    from dljax.generative import act_norm, chain, repeat, spline_coupling
    from dljax.generative.constrain import constrain, positive
    from dljax.generative.guides import flow_guide

    check_int("eight-schools/vi", "width", width, minimum=1)
    effects = jnp.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    errors = jnp.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])

    def log_joint(z):
        prior = norm.logpdf(z["mean"], 0, 5) + jnp.log(2.0) + cauchy.logpdf(z["scale"], 0, 5) + norm.logpdf(z["noise"]).sum()
        return prior + norm.logpdf(effects, z["mean"] + z["scale"] * z["noise"], errors).sum()

    def quantities(x):
        z = model.forward(x)
        return {"mean": z["mean"], "log_scale": x["scale"], "effects": z["mean"] + z["scale"] * z["noise"]}

    model = constrain(log_joint, {"scale": positive()})
    like = {"mean": jnp.zeros(()), "scale": jnp.zeros(()), "noise": jnp.zeros(8)}
    bijector = chain(act_norm(), repeat(spline_coupling(num_bins=num_bins, hidden=(width, width)), layers))
    guide = flow_guide(bijector, like, scale=1.0)
    names = ["μ", "log τ", *(f"θ {letter}" for letter in "ABCDEFGH")]
    return _experiment("eight-schools/vi", model.log_joint, guide, learning_rate, num_samples, steps, jax.vmap(quantities), names, -31.3113)


@recipe(
    "breast-cancer/bayesian-logistic",
    chapter=10,
    rows=("10.1",),
    target=AtMost("largest_deviation", 0.05, source=_CLOSE),
    minutes=0.5,
    data="breast-cancer",
)
def breast_cancer_bayesian_logistic(learning_rate: float = 2e-2, num_samples: int = 16, steps: int = 4000) -> Experiment:
    """Bayesian logistic regression of breast masses on ten measurements of cell nuclei, a normal guide of full rank.

      y_n ~ Bernoulli(sigmoid(wᵀ x_n + b)),   w_i, b ~ N(0, 1),   x standardised

    Radius, perimeter and area say nearly the same, so their weights are strongly correlated: a mean-field guide would take them for too certain.
    Metrics: `elbo` (nats), `k_hat` and `largest_deviation` of the means and the deviations of the intercept and the ten weights.
    """
    import jax
    import jax.numpy as jnp
    from jax.scipy.stats import norm

    from dljax import data
    from dljax.generative.guides import full_rank_guide

    table = data.load("breast-cancer")
    x = table["x"][:, :10]
    x, signs = jnp.asarray((x - x.mean(0)) / x.std(0), "float32"), jnp.asarray(2.0 * table["y"] - 1)

    def log_joint(z):
        return norm.logpdf(z["intercept"]) + norm.logpdf(z["weights"]).sum() + jax.nn.log_sigmoid(signs * (x @ z["weights"] + z["intercept"])).sum()

    guide = full_rank_guide({"intercept": jnp.zeros(()), "weights": jnp.zeros(10)})
    nuclei = "radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity", "concave points", "symmetry", "fractal dimension"
    return _experiment("breast-cancer/bayesian-logistic", log_joint, guide, learning_rate, num_samples, steps, lambda z: z, ["intercept", *nuclei])


@recipe(
    "iris/bayesian-mixture",
    chapter=10,
    rows=("10.1",),
    target=AtMost("largest_deviation", 0.05, source=_CLOSE),
    minutes=0.5,
    data="iris",
)
def iris_bayesian_mixture(learning_rate: float = 2e-2, num_samples: int = 16, steps: int = 4000) -> Experiment:
    """A mixture of two normals behind the petal lengths of 150 irises, no species told; a normal guide of full rank on the reals.

      x_n ~ π N(m_1, s_1²) + (1 - π) N(m_2, s_2²),   π ~ U(0, 1),   m_k ~ N(4, 2²) with m_1 < m_2,   log s_k ~ N(-1, 1)

    Which component made which flower is summed over. Metrics: `elbo` (nats), `k_hat` and `largest_deviation` of the means and the deviations of
    the share, the two means and the two scales.
    """
    import jax
    import jax.numpy as jnp
    from jax.scipy.stats import norm

    from dljax import data
    from dljax.generative.constrain import constrain, interval, ordered, positive
    from dljax.generative.guides import full_rank_guide

    length = jnp.asarray(data.load("iris")["x"][:, 2], "float32")

    def log_joint(z):
        shares = jnp.log(jnp.stack([z["share"], 1 - z["share"]]))
        log_scales = jnp.log(z["scales"])
        prior = norm.logpdf(z["means"], 4, 2).sum() + (norm.logpdf(log_scales, -1, 1) - log_scales).sum()
        each = shares[None] + norm.logpdf(length[:, None], z["means"][None], z["scales"][None])
        return prior + jax.nn.logsumexp(each, axis=1).sum()

    model = constrain(log_joint, {"share": interval(), "means": ordered(), "scales": positive()})
    # Begun with a component for each cloud: one narrow and one broad around the first is a mode as well, far less likely.
    guide = full_rank_guide(model.inverse({"share": 0.3, "means": jnp.array([1.5, 5.0]), "scales": jnp.array([0.3, 0.7])}))
    names = ["share", "mean 1", "mean 2", "scale 1", "scale 2"]
    return _experiment("iris/bayesian-mixture", model.log_joint, guide, learning_rate, num_samples, steps, jax.vmap(model.forward), names)


_DRAWS = 100_000


def _experiment(name, log_joint, guide, learning_rate, num_samples, steps, quantities, names, evidence=None):
    """Fit the guide, then compare the moments of the quantities that it implies with those of NUTS."""
    import jax
    import jax.numpy as jnp
    import optax

    from dljax.core import check_range
    from dljax.generative.importance import pareto_smoothed
    from dljax.generative.variational import vi

    check_range(name, "learning_rate", learning_rate, 0, open_low=True, open_high=True)
    schedule = optax.cosine_decay_schedule(learning_rate, max(steps, 1))
    learner = vi(log_joint, guide, optax.adam(schedule), num_samples=num_samples)
    reference = {site: jnp.asarray(moments) for site, moments in _NUTS[name].items()}

    @jax.jit
    def moments(params, key):
        found = quantities(learner.functions["sample"](key, params, _DRAWS))
        return {site: jnp.stack([jnp.atleast_1d(draws.mean(0)), jnp.atleast_1d(draws.std(0))], 1) for site, draws in found.items()}

    def measure(params, key):
        sample_key, weight_key = jax.random.split(key)
        found = moments(params, sample_key)
        w = jax.jit(learner.functions["log_weights"], static_argnums=2)(weight_key, params, 10_000)
        worst = max(float(_deviations(found[site], reference[site]).max()) for site in reference)
        scores = {"elbo": float(w.mean()), "k_hat": float(pareto_smoothed(w).k_hat), "largest_deviation": worst}
        return scores if evidence is None else scores | {"elbo_gap": evidence - scores["elbo"]}

    def figures(params, key):
        from dljax import report

        found = moments(params, key)
        both = {"NUTS": jnp.concatenate(list(reference.values())), "guide": jnp.concatenate([found[site] for site in reference])}

        def draw(axes):
            for place, (label, rows) in zip((-0.12, 0.12), both.items(), strict=True):
                # In units of the reference, or those with small deviations could not be seen.
                center, scale = both["NUTS"].T
                axes.errorbar(
                    jnp.arange(len(rows)) + place, (rows[:, 0] - center) / scale, rows[:, 1] / scale, fmt="o", markersize=4, capsize=3, label=label
                )
            axes.set_xticks(range(len(names)), names, rotation=40, ha="right")
            axes.set(ylabel="posterior deviations of NUTS")
            axes.legend()

        return {"moments": report.plot(draw, "Means and deviations of the posterior, of the guide and of numpyro's NUTS")}

    return Experiment(learner, steps=steps, measure=measure, figures=figures, per_step=num_samples, unit="samples")


def _deviations(found, reference):
    import jax.numpy as jnp

    scale = reference[:, 1]
    return jnp.stack([jnp.abs(found[:, 0] - reference[:, 0]) / scale, jnp.abs(found[:, 1] / scale - 1)])
