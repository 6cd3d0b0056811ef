"""The folder of a run: its configuration, its logs, its checkpoints and its result; one process at a time writes to it."""

import fcntl
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

FORMAT = 1
CONFIG, RESULT = "config.json", "result.json"


class RunFolderError(RuntimeError):
    """A run folder that cannot be used, with the reason and what to do."""


class RunFolder:
    """A run folder held by this process; until `write_config` nothing in it is changed. `is_new` says whether it held no run.

    Args:
      path: made where it does not exist.
      config: what makes the run what it is (recipe, options, key, steps per report ...). `steps` may grow when a run is extended.
      resume: whether to go on with the run that is there.
    Raises:
      RunFolderError: it holds a run and `resume` is False; it holds another run; another process writes to it; it cannot be written to.
      ValueError: `config` holds a number that JSON cannot hold.
    """

    def __init__(self, path: Path, config: Mapping[str, Any], *, resume: bool) -> None:
        self.path = Path(path).absolute()
        self._config = _as_json(config)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / ".lock").open("w")
        except OSError as error:
            raise RunFolderError(f"out: cannot write to {self.path} ({error.strerror}); choose a writable folder") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise RunFolderError(f"out: another process is training in {self.path}; wait for it or choose another folder") from None
        try:
            self._open(resume)
        except BaseException:
            self.close()
            raise

    def _open(self, resume: bool) -> None:
        old = read_config(self.path)
        self.is_new = old is None
        if old is None:
            self._config = {"format": FORMAT, **self._config}
            return
        if not resume:
            raise RunFolderError(
                f"out: {self.path} already holds a run ({old.get('recipe') or 'unnamed'}, {old.get('steps')} steps); "
                "resume it or choose another folder"
            )
        new = self._config
        changed = [f"{name}: {before!r} in the run, {after!r} now" for name, before, after in _changes(old, new) if name != "steps"]
        if changed:
            raise RunFolderError(
                f"resume: {self.path} is another run ({'; '.join(changed[:5])}); use the options it was started with or choose another folder"
            )
        self._config = {**old, "steps": new["steps"]}

    def write_config(self) -> None:
        """Write `config.json` atomically, once all that could refuse the run has been asked."""
        write_json(self.path / CONFIG, {**self._config, "environment": environment()})

    def forget(self) -> None:
        """Take `config.json` of a new run away again, which never made a step."""
        (self.path / CONFIG).unlink(missing_ok=True)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Replace `result.json` atomically."""
        write_json(self.path / RESULT, result)

    def close(self) -> None:
        """Let others write."""
        self._lock.close()


def read_config(path: Path) -> dict[str, Any] | None:
    """The configuration of the run in a folder, None where there is none.

    Raises:
      RunFolderError: the file is damaged or of another format.
    """
    file = Path(path) / CONFIG
    if not file.is_file():
        return None
    try:
        config = json.loads(file.read_text())
        found = config["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{file} is damaged ({error}); restore it from a copy or train again into another folder") from None
    if found != FORMAT:
        raise RunFolderError(f"{file} has format {found}, and this dljax reads format {FORMAT}; use the dljax that wrote it")
    return config


def read_result(path: Path) -> dict[str, Any]:
    """The result of the run in a folder, empty while it has none."""
    try:
        return json.loads((Path(path) / RESULT).read_text())
    except (OSError, ValueError):
        return {}


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it.

    Raises:
      RunFolderError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w") as file:
            json.dump(value, file, indent=1, allow_nan=False, default=str)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise RunFolderError(f"{path} cannot be written ({error.strerror}); free space or choose a writable folder") from None


def environment() -> dict[str, Any]:
    """Versions and devices, for the header of a run."""
    from dljax import __version__

    device = jax.devices()[0]
    return {
        "dljax": __version__,
        "python": platform.python_version(),
        "jax": jax.__version__,
        "platform": device.platform,
        "device_kind": device.device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "system": platform.platform(),
    }


def _as_json(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as it will be read again; functions and other objects by their name."""

    def described(value: Any) -> Any:
        if np.ndim(value) == 0 and hasattr(value, "item"):
            return value.item()
        return f"{value.__module__}.{value.__qualname__}" if hasattr(value, "__qualname__") else str(value)

    try:
        return json.loads(json.dumps(dict(config), allow_nan=False, default=described))
    except ValueError as error:
        raise ValueError(f"describe: must hold JSON values, and NaN and infinity are none ({error}); leave them out or write them as text") from None


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    changes = []
    for name, after in new.items():
        before = old.get(name)
        if isinstance(after, Mapping) and isinstance(before, Mapping):
            changes += _changes(before, {**dict.fromkeys(before), **after}, f"{prefix}{name}.")
        elif before != after:
            changes.append((f"{prefix}{name}", before, after))
    return changes
