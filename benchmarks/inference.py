"""Variational inference beside numpyro's: steps a second of the same logistic regression with a normal guide of full rank.

The breast masses of the recipe breast-cancer/bayesian-logistic, 569 examples and eleven unknowns, 16 samples a step, Adam at a constant rate. Ours is
the engine's program; numpyro is `svi.run`, a scan, and `svi.update`, jitted, in the user's loop. The losses, minus the ELBO over the second half of a
chunk, agree once both have converged, whatever the parameters of the triangular factor.
"""

from _harness import Contestant, Task, Work, main

OPTIONS = {"num_samples": 16, "learning_rate": 1e-2}


def prepare(work: Work):
    from dljax import data

    table = data.load("breast-cancer")
    x = table["x"][:, :10]
    return {"x": ((x - x.mean(0)) / x.std(0)).astype("float32"), "y": table["y"]}


def ours(work: Work):
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from jax.scipy.stats import norm

    from dljax.cli.launch import Launch
    from dljax.core.contract import EMPTY
    from dljax.engine.program import Program
    from dljax.generative.guides import full_rank_guide
    from dljax.generative.variational import vi

    Launch().start()
    arrays = work.arrays()
    x, signs = jnp.asarray(arrays["x"]), jnp.asarray(2.0 * arrays["y"] - 1, "float32")

    def log_joint(z):
        return norm.logpdf(z["b"]) + norm.logpdf(z["w"]).sum() + jax.nn.log_sigmoid(signs * (x @ z["w"] + z["b"])).sum()

    guide = full_rank_guide({"b": jnp.zeros(()), "w": jnp.zeros(10)})
    learner = vi(log_joint, guide, optax.adam(work.options["learning_rate"]), num_samples=work.options["num_samples"])
    program, done = Program(learner, EMPTY, every=work.chunk // 2), 0
    key, loop = program.start(jax.random.key(0))

    def run(steps):
        nonlocal loop, done
        losses = []
        for _ in range(steps // work.chunk):
            loop, history, _ = program.chunk(key, done, work.chunk, loop)
            losses.append(float(np.asarray(history["loss"])[-1]))
            done += work.chunk
        return losses

    return run


def numpyro(work: Work, is_scanned: bool):
    import jax
    import jax.numpy as jnp
    import numpy as np
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoMultivariateNormal

    arrays = work.arrays()
    x, y = jnp.asarray(arrays["x"]), jnp.asarray(arrays["y"])

    def model():
        b = numpyro.sample("b", dist.Normal(0, 1))
        w = numpyro.sample("w", dist.Normal(jnp.zeros(10), 1).to_event(1))
        numpyro.sample("y", dist.Bernoulli(logits=x @ w + b), obs=y)

    guide = AutoMultivariateNormal(model, init_scale=0.1)
    svi = SVI(model, guide, numpyro.optim.Adam(work.options["learning_rate"]), Trace_ELBO(num_particles=work.options["num_samples"]))
    state, update = svi.init(jax.random.key(0)), jax.jit(svi.update)

    def run(steps):
        nonlocal state
        losses = []
        for _ in range(steps // work.chunk):
            if is_scanned:
                result = svi.run(jax.random.key(1), work.chunk, init_state=state, progress_bar=False)
                state, found = result.state, result.losses
            else:
                found = []
                for _ in range(work.chunk):
                    state, loss = update(state)
                    found.append(loss)
                found = jnp.stack(found)
            losses.append(float(np.asarray(found)[work.chunk // 2 :].mean()))
        return losses

    return run


CONTESTANTS = {
    "dljax": ours,
    "numpyro: svi.run": Contestant(lambda work: numpyro(work, True)),
    "numpyro: a jitted update": Contestant(lambda work: numpyro(work, False)),
}
TASKS = [Task("bayesian-logistic", "steps/s", CONTESTANTS, prepare, chunk=2000, tolerance=0.01, options=OPTIONS)]

if __name__ == "__main__":
    main(TASKS)
