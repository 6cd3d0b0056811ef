"""`dljax export`: what a run has learned, as StableHLO and safetensors."""

from pathlib import Path
from typing import Annotated, Any

from dljax.cli.options import POSITIONAL, parse
from dljax.cli.status import DONE, UsageError


def main(args: list[str]) -> int:
    """`dljax export DIR`."""
    (options,) = parse("dljax export", args, export)
    return export(**options)


def export(
    folder: Annotated[str, POSITIONAL] = "",
    function: str | None = None,
    out: Path | None = None,
    member: int | None = None,
    platforms: tuple[str, ...] = (),
) -> int:
    """Write the functions of a run (predict, sample ...) as StableHLO programs for any batch size, and its parameters as safetensors.

    Args:
      folder: the run folder.
      function: only this one.
      out: where to; by default the folder export in the run folder.
      member: which member of a sweep, from 0.
      platforms: for which devices: cpu, cuda, tpu; by default the present one.
    """
    if not folder:
        raise UsageError("dljax export: give the folder of a run; `dljax runs` lists them")
    import jax

    from dljax import engine, recipes
    from dljax.engine.folder import read_config

    path = Path(folder)
    config = read_config(path) if path.is_dir() else None
    if config is None:
        raise UsageError(f"dljax export: there is no run in {folder!r}; `dljax runs` lists them")
    if not isinstance(config.get("recipe"), str):
        raise UsageError(
            f"dljax export: the run in {folder!r} was not started by `dljax train`; call dljax.engine.export in the script that started it"
        )
    members = config.get("members") or []
    varied = members[member] if member is not None and 0 <= member < len(members) else {}
    options = {**config.get("options", {}), **{name: value for name, value in varied.items() if name != "seed"}}
    experiment = recipes.get(config["recipe"]).build(**options)
    made = None if experiment.exports is None else experiment.exports(jax.random.key(0))
    examples: dict[str, Any] = dict(made or {})
    if not examples:
        raise UsageError(f"dljax export: {config['recipe']} does not say what to export; give its Experiment `exports`")
    if function is not None and function not in examples:
        raise UsageError(f"dljax export: no function {function!r}; there are {', '.join(examples)}")
    run = engine.load(path, experiment, member=member)
    target = out or path / "export"
    for name in [function] if function else examples:
        print(engine.export(run.learner.functions[name], run.params, examples[name], target, name=name, platforms=platforms or None))
    return DONE
