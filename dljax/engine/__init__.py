"""The engine: the imperative shell that compiles, runs, saves, spreads and reports any learner."""

from dljax.engine.checkpoint import CheckpointError
from dljax.engine.export import export, load_exported
from dljax.engine.fit import NonFiniteError, Run, Snapshot, fit, train
from dljax.engine.folder import RunFolderError
from dljax.engine.lanes import Member
from dljax.engine.load import load
from dljax.engine.parallel import Parallel, by_path, fsdp, make_mesh, start_processes
from dljax.engine.plan import EarlyStopping, FitConfig
from dljax.engine.sweep import Sweep, sweep

__all__ = [
    "CheckpointError",
    "EarlyStopping",
    "FitConfig",
    "Member",
    "NonFiniteError",
    "Parallel",
    "Run",
    "RunFolderError",
    "Snapshot",
    "Sweep",
    "by_path",
    "export",
    "fit",
    "fsdp",
    "load",
    "load_exported",
    "make_mesh",
    "start_processes",
    "sweep",
    "train",
]
