"""One of two processes of a run: `python two_processes.py HOST:PORT PROCESS OUT MODE STEPS [interrupt]`; its last line says what it reached."""

import json
import os
import signal
import socket
import sys

PORT_RANGE = range(1024, 65536)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _modes():
    from jax.sharding import PartitionSpec

    from dljax.engine import Parallel, by_path, fsdp, make_mesh

    columns, rows = PartitionSpec(None, "model"), PartitionSpec("model", None)
    tensor = by_path(("first/kernel$", columns), ("bias$", PartitionSpec("model")), ("second/kernel$", rows))
    return {
        "data": lambda: Parallel(make_mesh(data=8)),
        "fsdp": lambda: Parallel(make_mesh(data=8), rules=(fsdp(min_size=8),)),
        "tensor": lambda: Parallel(make_mesh(data=2, model=4), rules=(tensor,)),
        "pmap": lambda: Parallel(make_mesh(data=8), mode="pmap"),
        "shard_map": lambda: Parallel(make_mesh(data=8), mode="shard_map"),
    }


if __name__ != "__main__":
    MODES = _modes()


def main() -> None:
    coordinator, process, out, mode, steps, *options = sys.argv[1:]
    from dljax.engine import start_processes

    start_processes(coordinator, 2, int(process))
    import jax
    import numpy as np
    import problems

    from dljax.engine import FitConfig, fit
    from dljax.engine.parallel import copied

    shapes = []

    def callback(snapshot):
        shapes.append(snapshot.params["first"]["kernel"].shape)
        if "interrupt" in options and process == "1" and snapshot.step == 50:
            os.kill(os.getpid(), signal.SIGTERM)

    config = FitConfig(every=1, chunk=5, evaluate_every=25, checkpoint_every=25, batch_size=16, parallel=_modes()[mode]())
    arguments = problems.network(), problems.SOURCE, int(steps), jax.random.key(2)
    run = fit(*arguments, evaluation=problems.HELD_OUT, out=out, resume=True, config=config, callbacks=[callback])
    said = {
        "status": run.status,
        "step": run.step,
        "devices": jax.device_count(),
        "recompilations": run.result["recompilations"],
        "loss": run.history["loss"].tolist(),
        "error": run.evaluations["error"].tolist(),
        "callback_shape": shapes[-1],
        "kernel": np.asarray(copied(run.params)["first"]["kernel"]).tolist(),
    }
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
