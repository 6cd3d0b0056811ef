"""Molecules (chapter 7): the solubility of molecules from their atoms and bonds."""

from dljax.core.experiment import AtMost, Experiment, recipe


@recipe(
    "esol/mpnn",
    chapter=7,
    rows=("7.2",),
    target=AtMost("rmse", 0.80, source="Wu et al. (2018), MoleculeNet, table 7: MPNN 0.58 ± 0.03 log10 mol/l, random split"),
    minutes=1,
    seeds=3,
    data="esol",
)
def esol_mpnn(
    width: int = 32, learning_rate: float = 3e-3, batch_size: int = 32, split: int = 0, is_validation: bool = False, steps: int = 1000
) -> Experiment:
    """The solubility of molecules in water by a message passing network on their atoms and bonds, scored in log10 mol/l.

    902 molecules to learn from, 113 for validation and 113 for the test, at random as MoleculeNet divides them; `split` is the seed of that. With
    `is_validation` the score is on the validation molecules.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax

    from dljax import data
    from dljax.core import check_int, check_range
    from dljax.models.message_networks import MPNN
    from dljax.objectives import squared_error
    from dljax.supervised import supervised

    check_range("esol/mpnn", "learning_rate", learning_rate, 0, open_low=True, open_high=True)
    check_int("esol/mpnn", "batch_size", batch_size, minimum=1)
    esol = data.load("esol")
    graphs = [data.smiles_to_graph(str(smiles)) for smiles in esol["smiles"]]
    train, validation, test = np.split(np.random.default_rng(split).permutation(len(graphs)), [902, 902 + 113])
    mean, deviation = float(esol["y"][train].mean()), float(esol["y"][train].std())

    def part(rows):
        return [graphs[row] for row in rows], (esol["y"][rows] - mean) / deviation

    # Once in ten thousand times 32 molecules have more atoms or bonds than that; no molecule has.
    room = max(18 * batch_size, 55), max(38 * batch_size, 124)
    molecules, solubilities = part(train)
    source = data.graph_batches(molecules, solubilities, batch_size, num_nodes=room[0], num_edges=room[1])
    model = MPNN(1, width=width, edge_sizes=(width,), is_sorted=True)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(learning_rate, steps)))
    learner = supervised(model, lambda outputs, y: squared_error(outputs[:, 0], y), optimizer)

    def finish(acc):
        return {"loss": acc["loss"], "rmse": deviation * jnp.sqrt(acc["loss"].value)}

    scored = data.graph_batch(*part(validation if is_validation else test))

    def figures(params, key):
        from dljax import report

        predicted, measured = (mean + deviation * np.asarray(y)[:-1] for y in (jax.jit(model.apply)(params, scored["x"])[:, 0], scored["y"]))
        ends = [min(measured.min(), predicted.min()), max(measured.max(), predicted.max())]

        def draw(axes):
            axes.plot(ends, ends, color="0.7")
            axes.scatter(measured, predicted, s=14, alpha=0.7)
            axes.set(xlabel="measured, log10 mol/l", ylabel="predicted, log10 mol/l")

        return {"solubility": report.plot(draw, f"Solubility of {len(measured)} molecules that the network has not seen")}

    assert learner.evaluate is not None
    return Experiment(
        learner._replace(evaluate=learner.evaluate._replace(finish=finish)),
        source,
        steps=steps,
        evaluation=scored,
        figures=figures,
        per_step=batch_size,
        unit="molecules",
    )
