"""Makes posteriors.npz: posterior moments of three models by numpyro's NUTS, in float64, each with its Monte Carlo standard error.

Run with the extra `oracles`: python tests/golden/make_posteriors.py
"""

from pathlib import Path

import numpy as np

CHAINS, WARMUP, DRAWS = 4, 2000, 25_000


def models():
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from sklearn.datasets import load_breast_cancer, load_iris

    y = jnp.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    error = jnp.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])

    def eight_schools():
        mean = numpyro.sample("mean", dist.Normal(0, 5))
        scale = numpyro.sample("scale", dist.HalfCauchy(5))
        noise = numpyro.sample("noise", dist.Normal(jnp.zeros(8), 1).to_event(1))
        effects = numpyro.deterministic("effects", mean + scale * noise)
        numpyro.deterministic("log_scale", jnp.log(scale))
        numpyro.sample("y", dist.Normal(effects, error).to_event(1), obs=y)

    cancer = load_breast_cancer()
    x = cancer.data[:, :10]
    x, benign = jnp.asarray((x - x.mean(0)) / x.std(0)), jnp.asarray(cancer.target)

    def breast_cancer():
        intercept = numpyro.sample("intercept", dist.Normal(0, 1))
        weights = numpyro.sample("weights", dist.Normal(jnp.zeros(10), 1).to_event(1))
        numpyro.sample("y", dist.Bernoulli(logits=x @ weights + intercept), obs=benign)

    length = jnp.asarray(load_iris().data[:, 2])

    def iris():
        share = numpyro.sample("share", dist.Uniform(0, 1))
        means = numpyro.sample("means", dist.ImproperUniform(dist.constraints.ordered_vector, (), (2,)))
        scales = numpyro.sample("scales", dist.LogNormal(jnp.array([-1.0, -1.0]), 1).to_event(1))
        numpyro.factor("prior", dist.Normal(4, 2).log_prob(means).sum())
        shares = jnp.log(jnp.array([share, 1 - share]))
        log_likelihood = jax.nn.logsumexp(shares + dist.Normal(means, scales).log_prob(length[:, None]), axis=-1)
        numpyro.factor("y", log_likelihood.sum())

    return {
        "eight_schools": (eight_schools, ("mean", "scale", "log_scale", "effects"), {}),
        "breast_cancer": (breast_cancer, ("intercept", "weights"), {}),
        # Begun in the mode with a component for each of the two clouds: chains begun elsewhere may stay with one narrow and one broad component
        # around the first, which is less likely by tens of nats.
        "iris": (iris, ("share", "means", "scales"), {"share": 0.33, "means": jnp.array([1.5, 4.9]), "scales": jnp.array([0.2, 0.8])}),
    }


def posteriors():
    import jax
    import numpyro
    from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
    from numpyro.infer import MCMC, NUTS, init_to_median, init_to_value

    values = {"numpyro": np.array(numpyro.__version__), "settings": np.array([CHAINS, WARMUP, DRAWS])}
    for name, (model, sites, begin) in models().items():
        # A small step, or the narrow neck of the funnel is missed.
        strategy = init_to_value(values=begin) if begin else init_to_median
        kernel = NUTS(model, target_accept_prob=0.95, init_strategy=strategy)
        mcmc = MCMC(kernel, num_warmup=WARMUP, num_samples=DRAWS, num_chains=CHAINS, chain_method="sequential", progress_bar=False)
        mcmc.run(jax.random.key(2019), extra_fields=("diverging",))
        samples = mcmc.get_samples(group_by_chain=True)
        print(name, "divergences", int(mcmc.get_extra_fields()["diverging"].sum()))
        for site in sites:
            draws = np.asarray(samples[site], np.float64)
            mean, scale = draws.mean((0, 1)), draws.std((0, 1))
            deviations = np.abs(draws - mean) ** 2
            errors = [part.std((0, 1)) / np.sqrt(effective_sample_size(part)) for part in (draws, deviations)]
            values |= {
                f"{name}/{site}/mean": mean, f"{name}/{site}/scale": scale, f"{name}/{site}/mean_error": errors[0],
                f"{name}/{site}/scale_error": errors[1] / (2 * scale),
            }  # fmt: skip
            print(site, mean.round(4), scale.round(4), "errors in scales", (errors[0] / scale).max().round(4), (errors[1] / (2 * scale**2)).max().round(4),
                  "rhat", np.max(split_gelman_rubin(draws)).round(5))  # fmt: skip
    return values


if __name__ == "__main__":
    import numpyro

    numpyro.enable_x64()
    np.savez_compressed(Path(__file__).with_name("posteriors.npz"), **posteriors())
