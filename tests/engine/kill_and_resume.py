"""Kill a run at random moments, resume it each time, and compare what comes out with the run that nobody disturbed, bit for bit.

    python tests/engine/kill_and_resume.py --kills 20 --source device
    python tests/engine/kill_and_resume.py --kills 20 --source grain --seed 1

The moments are drawn at random among five: while Python imports, while the program is compiled, while it trains, while a checkpoint is being
written and while it evaluates. The learner is a small network on scikit-learn's digits. The last line is a JSON object; exit status 1 says that
something differs.
"""

import argparse
import collections
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

MOMENTS = ("importing", "compiling", "training", "saving", "evaluating")
CHUNK, EVALUATE, SAVE = 10, 20, 10
PATIENCE = 4  # chunks that a process gets at most before it is killed


def child(out: Path, steps: int, source: str) -> None:
    """Train until the end, and say aloud where it stands."""
    import jax
    import optax
    from flax import linen

    from dljax import data, objectives
    from dljax.data.host import grain_source
    from dljax.engine import FitConfig, fit
    from dljax.supervised import supervised

    digits = data.load("digits")
    learner = supervised(
        linen.Sequential([lambda x: x.reshape(x.shape[0], -1) / 16.0, linen.Dense(64), linen.relu, linen.Dense(10)]),
        objectives.cross_entropy,
        optax.adam(1e-3),
        metrics={"accuracy": objectives.accuracy},
    )
    batches = data.shuffled(digits["train"], 64) if source == "device" else grain_source(digits["train"], 64, seed=3)

    class Say:
        def log(self, kind: str, step: int, values: object) -> None:
            if kind == "metrics" and step % EVALUATE == 0:
                print("evaluating", flush=True)

        def close(self) -> None: ...

    print("compiling", flush=True)
    fit(
        learner,
        batches,
        steps,
        jax.random.key(0),
        evaluation=digits["test"],
        out=out,
        resume=True,
        config=FitConfig(every=CHUNK // 2, chunk=CHUNK, evaluate_every=EVALUATE, checkpoint_every=SAVE, batch_size=100),
        callbacks=[lambda snapshot: print("training", flush=True)],
        loggers=[Say()],
    )


class Process:
    """A run in a process of its own, and what it has said so far."""

    def __init__(self, out: Path, steps: int, source: str) -> None:
        command = [sys.executable, __file__, "--child", str(out), "--steps", str(steps), "--source", source]
        self.out, self.said = out, collections.Counter[str]()
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (lives as long as the process)
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.errors, text=True)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.said[line.strip()] += 1

    def reached(self, moment: str, times: int) -> bool:
        """Whether it is in that moment, for the `times`-th time; "importing" is at once."""
        if moment == "importing":
            return True
        if moment == "saving":
            return self.said["training"] >= times and any((self.out / "checkpoints").glob(".partial-*"))
        return self.said[moment] >= (1 if moment == "compiling" else times)

    def wait(self) -> None:
        """Until its end, which must be a good one."""
        if self.process.wait() != 0:
            self.errors.seek(0)
            raise RuntimeError(f"the run in {self.out} failed:\n{self.errors.read()[-4000:]}")


def kill_once(process: Process, moment: str, chance: random.Random) -> bool:
    """Wait for a moment, and a little longer, and kill; False where the run was faster."""
    times = chance.randint(1, PATIENCE // 2 if moment == "evaluating" else PATIENCE)
    while not process.reached(moment, times):
        if process.process.poll() is not None:
            process.wait()
            return False
        time.sleep(0.0005)
    time.sleep(chance.uniform(0, {"importing": 3.0, "compiling": 1.5, "training": 0.02, "saving": 0.02, "evaluating": 0.01}[moment]))
    process.process.send_signal(signal.SIGKILL)
    return process.process.wait() == -signal.SIGKILL


def arrays(out: Path) -> dict[str, tuple]:
    """Every array of the newest checkpoint: name -> (dtype, shape, bytes)."""
    import numpy as np
    import orbax.checkpoint as ocp

    from dljax.engine.checkpoint import Checkpoints

    found = Checkpoints(out / "checkpoints").latest()
    assert found is not None
    with ocp.StandardCheckpointer() as reader:
        restored = reader.restore(found.path / "arrays")
    values = {leaf[0]: np.asarray(restored[str(index)]) for index, leaf in enumerate(found.meta["leaves"])}
    return {name: (str(value.dtype), value.shape, value.tobytes()) for name, value in values.items()} | {"step": ("", (), str(found.step).encode())}


def differences(whole: Path, killed: Path) -> list[str]:
    """What is not the same, to the bit."""
    found = [name for name in ("metrics.jsonl", "evaluations.jsonl") if (whole / name).read_bytes() != (killed / name).read_bytes()]
    one, other = arrays(whole), arrays(killed)
    return found + [name for name in sorted({*one, *other}) if one.get(name) != other.get(name)]


def main(arguments: list[str] | None = None) -> int:
    """Kill, resume, compare; 0 where all is the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, help="of the run; by default enough for all kills")
    parser.add_argument("--source", choices=("device", "grain"), default="device")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    steps = options.steps or (options.kills * PATIENCE + 10) * CHUNK
    if options.child is not None:
        child(options.child, steps, options.source)
        return 0
    chance = random.Random(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="dljax-kill-"))
    try:
        begin = time.monotonic()
        Process(folder / "whole", steps, options.source).wait()
        kills: collections.Counter[str] = collections.Counter()
        landed: collections.Counter[str] = collections.Counter()
        while kills.total() < options.kills:
            process = Process(folder / "killed", steps, options.source)
            moment = chance.choice(MOMENTS)
            if not kill_once(process, moment, chance):
                break
            kills[moment] += 1
            if any((folder / "killed" / "checkpoints").glob(".partial-*")):
                landed["half-written checkpoint"] += 1
            log = folder / "killed" / "metrics.jsonl"
            if log.is_file() and not log.read_bytes().endswith(b"\n") and log.stat().st_size:
                landed["half a line"] += 1
        Process(folder / "killed", steps, options.source).wait()
        differ = differences(folder / "whole", folder / "killed")
        said = {
            "source": options.source,
            "steps": steps,
            "kills": kills.total(),
            "moments": dict(kills),
            "left": dict(landed),
            "lines": sum(1 for _ in (folder / "whole" / "metrics.jsonl").open()),
            "arrays": len(arrays(folder / "whole")) - 1,
            "differences": differ,
            "seconds": round(time.monotonic() - begin, 1),
        }
        print(json.dumps(said), flush=True)
        return 1 if differ or kills.total() < options.kills else 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    raise SystemExit(main())
