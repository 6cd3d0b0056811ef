"""The engine: the imperative shell that compiles, runs, saves, spreads and reports any learner."""

from dljax.engine.checkpoint import CheckpointError
from dljax.engine.fit import NonFiniteError, Run, Snapshot, fit, train
from dljax.engine.folder import RunFolderError
from dljax.engine.parallel import Parallel, by_path, fsdp, make_mesh, start_processes
from dljax.engine.plan import EarlyStopping, FitConfig

__all__ = ["CheckpointError", "EarlyStopping", "FitConfig", "NonFiniteError", "Parallel", "Run", "RunFolderError", "Snapshot", "by_path", "fit", "fsdp",
           "make_mesh", "start_processes", "train"]  # fmt: skip
