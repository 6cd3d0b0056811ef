"""Flows on the eight Gaussians beside flowjax and nflows: steps a second, and what comes of compilation.

In the first task everybody has the architecture of the recipe eight-gaussians/spline-flow: six coupling layers with a reversal of the features after
each, monotone rational-quadratic splines of eight pieces that are the identity outside of [-4, 4], conditioners of two hidden SiLU layers, Adam at a
constant rate on the mean negative log-likelihood. Ours begins at the identity, learns a scale (`act_norm`) and draws its data within the program; the
others begin at random splines and get their batches ready in memory, divided by the deviation. The losses, means over the second half of a chunk,
therefore agree only to a few per cent. The tasks of RealNVP and MAF have affine maps in place of the splines, whose scales each library bounds in its
own way, and MAF masked networks of the same widths: their losses agree less.

The last task compiles: a step of a flow of 32 spline layers, and beside it that of one of 4, in compilations a second.

Ours is the engine's program. flowjax has its own training step, and beside it a scan over that step, which its user would write by hand. nflows
computes on one thread, where it is fastest, with fused Adam.
"""

from _harness import Contestant, Task, Work, main

OPTIONS = {"kind": "spline", "layers": 6, "num_bins": 8, "width": 64, "bound": 4.0, "batch_size": 512, "learning_rate": 2e-3}


def prepare(work: Work):
    import jax
    import numpy as np

    from dljax.data.toy import eight_gaussians

    x = np.asarray(eight_gaussians().sample(jax.random.key(0), 2 * work.chunk * work.options["batch_size"]))
    return {"x": (x / x.std(0)).reshape(2 * work.chunk, -1, 2), "log_scale": np.log(x.std(0)).sum()}


def settled(losses):
    """The mean over the second half of a chunk's losses."""
    return float(losses[len(losses) // 2 :].mean())


def ours(work: Work):
    import jax
    import numpy as np
    import optax

    from dljax import data
    from dljax.cli.launch import Launch
    from dljax.data.toy import eight_gaussians
    from dljax.engine.program import Program
    from dljax.generative import act_norm, chain, flow, repeat

    Launch().start()
    options, density = work.options, eight_gaussians()
    learner = flow(chain(act_norm(), repeat(our_layer(options), options["layers"])), optax.adam(options["learning_rate"]), size=2)
    source = data.from_sampler(lambda key: {"x": density.sample(key, options["batch_size"])})
    program, done = Program(learner, source, every=work.chunk // 2), 0
    key, loop = program.start(jax.random.key(0))

    def run(steps):
        nonlocal loop, done
        losses = []
        for _ in range(steps // work.chunk):
            loop, history, _ = program.chunk(key, done, work.chunk, loop)
            losses.append(float(np.asarray(history["nll"])[-1]))
            done += work.chunk
        return losses

    return run


def our_layer(options):
    from dljax.generative import affine_coupling, masked_autoregressive, spline_coupling

    hidden = (options["width"],) * 2
    if options["kind"] == "spline":
        return spline_coupling(num_bins=options["num_bins"], bound=options["bound"], hidden=hidden)
    return affine_coupling(hidden=hidden) if options["kind"] == "realnvp" else masked_autoregressive(hidden=hidden)


def flowjax(work: Work, is_scanned: bool):
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from flowjax.bijections import RationalQuadraticSpline
    from flowjax.distributions import Normal
    from flowjax.flows import coupling_flow, masked_autoregressive_flow
    from flowjax.train.losses import MaximumLikelihoodLoss
    from flowjax.train.train_utils import step
    from jax import lax
    from paramax import NonTrainable

    options, arrays = work.options, work.arrays()
    is_spline = options["kind"] == "spline"
    model = (masked_autoregressive_flow if options["kind"] == "maf" else coupling_flow)(
        jax.random.key(0),
        base_dist=Normal(jnp.zeros(2)),
        transformer=RationalQuadraticSpline(knots=options["num_bins"], interval=options["bound"]) if is_spline else None,
        flow_layers=options["layers"],
        nn_width=options["width"],
        nn_depth=2,
        nn_activation=jax.nn.silu,
    )
    params, static = eqx.partition(model, eqx.is_inexact_array, is_leaf=lambda leaf: isinstance(leaf, NonTrainable))
    optimizer, loss_fn = optax.adam(options["learning_rate"]), MaximumLikelihoodLoss()
    opt_state, key, x, done = optimizer.init(params), jax.random.key(1), jnp.asarray(arrays["x"]), 0

    def one(carry, x):
        params, opt_state = carry
        params, opt_state, loss = step(params, static, x, None, key, optimizer=optimizer, opt_state=opt_state, loss_fn=loss_fn)
        return (params, opt_state), loss

    scanned = jax.jit(lambda carry, x: lax.scan(one, carry, x))

    def run(steps):
        nonlocal params, opt_state, done
        losses = []
        for _ in range(steps // work.chunk):
            begin = done % len(x)
            if is_scanned:
                (params, opt_state), chunk = scanned((params, opt_state), x[begin : begin + work.chunk])
            else:
                found = []
                for number in range(begin, begin + work.chunk):
                    (params, opt_state), loss = one((params, opt_state), x[number])
                    found.append(loss)
                chunk = jnp.stack(found)
            losses.append(settled(np.asarray(chunk)) + float(arrays["log_scale"]))
            done += work.chunk
        return losses

    return run


def nflows(work: Work):
    import torch
    from nflows.distributions.normal import StandardNormal
    from nflows.flows.base import Flow
    from nflows.nn.nets import MLP
    from nflows.transforms import (
        AffineCouplingTransform,
        CompositeTransform,
        MaskedAffineAutoregressiveTransform,
        PiecewiseRationalQuadraticCouplingTransform,
        ReversePermutation,
    )
    from torch.nn import functional

    torch.set_num_threads(1)
    torch.manual_seed(0)
    options, arrays = work.options, work.arrays()

    class Conditioner(MLP):
        def __init__(self, num_inputs, num_outputs):
            super().__init__([num_inputs], [num_outputs], [options["width"]] * 2, activation=functional.silu)

        def forward(self, x, context):
            return super().forward(x)

    builders = {
        "spline": lambda: PiecewiseRationalQuadraticCouplingTransform([0, 1], Conditioner, options["num_bins"], "linear", options["bound"]),
        "realnvp": lambda: AffineCouplingTransform([0, 1], Conditioner),
        "maf": lambda: MaskedAffineAutoregressiveTransform(2, options["width"], num_blocks=1, use_residual_blocks=False, activation=functional.silu),
    }
    layers = [layer for _ in range(options["layers"]) for layer in (builders[options["kind"]](), ReversePermutation(2))]
    model, x, done = Flow(CompositeTransform(layers), StandardNormal([2])), torch.tensor(arrays["x"]), 0
    optimizer = torch.optim.Adam(model.parameters(), options["learning_rate"], fused=True)

    def run(steps):
        nonlocal done
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = -model.log_prob(x[done % len(x)]).mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            done += 1
        chunks = torch.stack(losses).view(-1, work.chunk)
        return [settled(chunk) + float(arrays["log_scale"]) for chunk in chunks]

    return run


def compiled(work: Work, layers: int):
    """Compile a training step over and over, from tracing on."""
    import jax
    import optax

    from dljax.generative import act_norm, chain, flow, repeat

    jax.config.update("jax_enable_compilation_cache", False)
    learner = flow(chain(act_norm(), repeat(our_layer(work.options), layers)), optax.adam(1e-3), size=2)
    batch = {"x": jax.ShapeDtypeStruct((work.options["batch_size"], 2), "float32")}
    key = jax.random.key(0)

    def run(steps):
        for _ in range(steps):
            jax.clear_caches()
            state = jax.eval_shape(learner.init, key, batch)
            jax.jit(learner.step).lower(key, state, batch).compile()
        return [1.0] * steps

    return run


CONTESTANTS = {
    "dljax": ours,
    "flowjax: a jitted step": Contestant(lambda work: flowjax(work, False)),
    "flowjax: scanned": Contestant(lambda work: flowjax(work, True)),
    "nflows": nflows,
}
COMPILED = {"dljax": lambda work: compiled(work, 32), "dljax: 4 layers": lambda work: compiled(work, 4)}
TASKS = [
    Task("eight-gaussians", "steps/s", CONTESTANTS, prepare, chunk=400, tolerance=0.05, options=OPTIONS),
    Task("realnvp", "steps/s", CONTESTANTS, prepare, chunk=400, tolerance=0.2, options=OPTIONS | {"kind": "realnvp"}, quick=False),
    Task("maf", "steps/s", CONTESTANTS, prepare, chunk=400, tolerance=0.2, options=OPTIONS | {"kind": "maf"}, quick=False),
    Task("compiling-32-layers", "compilations/s", COMPILED, options=OPTIONS, quick=False),
]

if __name__ == "__main__":
    main(TASKS)
