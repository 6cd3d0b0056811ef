"""Checkpoints: asynchronous, atomic, checked, and independent of how many devices wrote them.

A checkpoint is a folder `checkpoints/<step>` with the arrays (written by Orbax) and `meta.json`: the format version, the shapes, what the host
remembers, and the SHA-256 of every file. It is written under another name and renamed when it is complete, so a checkpoint that can be seen is whole;
one that was damaged later is recognised by its sums, and the one before it is used.
"""

import contextlib
import functools
import hashlib
import json
import logging
import os
import shutil
import threading
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from dljax.core.tree import named_leaves, with_keys, without_keys

FORMAT = 1


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written or read, with the reason and what to do."""


class Found(NamedTuple):
    """A whole checkpoint: its step, its folder, and its meta data, of which `meta["host"]` is what the host remembered."""

    step: int
    path: Path
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run folder.

    Args:
      folder: the run's `checkpoints` folder; made when the first one is saved.
      keep: how many of the newest are kept, >= 1.
    """

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self.folder, self.keep = Path(folder), keep
        self._orbax: Any = None
        self._pending: threading.Thread | None = None
        self._error: BaseException | None = None

    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit() and (path / "meta.json").is_file())

    def save(self, step: int, tree: Any, host: dict[str, Any], *, per_device: bool = False) -> None:
        """Write a checkpoint in the background; returns as soon as the arrays may be donated again.

        Args:
          tree: arrays. With `per_device`, stacked over devices: leaves that are equal on all are saved once.
          host: JSON values.
        Raises:
          CheckpointError: this one, or the one before it, cannot be written.
        """
        self.wait()
        names = [name for name, _ in named_leaves(tree)]
        leaves, stacked = _separated(tree) if per_device else (jax.tree.leaves(without_keys(tree)), (False,) * len(names))
        described = [[name, list(leaf.shape), str(leaf.dtype), keep] for name, leaf, keep in zip(names, leaves, stacked, strict=True)]
        meta = {"format": FORMAT, "step": step, "host": host, "leaves": described}
        partial = self.folder / f".partial-{step}"
        try:
            ocp = _import_orbax()
            if jax.process_index() == 0:
                self.folder.mkdir(parents=True, exist_ok=True)
                for old in self.folder.glob(".partial-*"):
                    shutil.rmtree(old)
            if jax.process_count() > 1:
                from jax.experimental import multihost_utils

                multihost_utils.sync_global_devices(f"dljax-checkpoint-{step}")
            if self._orbax is None:
                self._orbax = ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler())
            numbered = {str(index): _one_copy(leaf) for index, leaf in enumerate(leaves)} or {"none": np.zeros(())}  # Orbax saves no empty tree
            self._orbax.save((partial / "arrays").absolute(), args=ocp.args.StandardSave(numbered))
        except Exception as error:
            raise self._explained(step, error) from error
        self._pending = threading.Thread(target=self._finish, args=(step, partial, meta), name=f"dljax-checkpoint-{step}")
        self._pending.start()

    def wait(self) -> None:
        """Until the last save is complete.

        Raises:
          CheckpointError: it failed; the checkpoints before it are untouched.
        """
        if self._pending is not None:
            self._pending.join()
            self._pending = None
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def close(self) -> None:
        """Wait, and free what the writer holds."""
        try:
            self.wait()
        finally:
            orbax, self._orbax = self._orbax, None
            if orbax is not None:
                # Every save has ended by now; what Orbax notes late about one that failed goes to a folder that is gone.
                with contextlib.suppress(OSError):
                    orbax.close()

    def latest(self) -> Found | None:
        """The newest checkpoint whose files are all as they were written, None where there is none at all.

        Warns of those that are passed over.

        Raises:
          CheckpointError: every checkpoint is damaged or of another format.
        """
        damaged: list[str] = []
        for step in reversed(self.steps()):
            try:
                found = Found(step, self.folder / str(step), _checked(self.folder / str(step)))
            except CheckpointError as error:
                damaged.append(str(error))
                continue
            for message in damaged:
                warnings.warn(f"{message}; using the one of step {step}", RuntimeWarning, stacklevel=2)
            return found
        if damaged:
            raise CheckpointError(f"{'; '.join(damaged)}. No whole checkpoint is left in {self.folder}: train again into another folder")
        return None

    def _finish(self, step: int, partial: Path, meta: dict[str, Any]) -> None:
        try:
            self._orbax.wait_until_finished()
            if jax.process_index() == 0:
                arrays = partial / "arrays"
                files = {str(path.relative_to(arrays)): _digest(path) for path in sorted(arrays.rglob("*")) if path.is_file()}
                _write_durably(partial / "meta.json", json.dumps(meta | {"files": files}))
                final = self.folder / str(step)
                if final.exists():
                    shutil.rmtree(final)
                os.rename(partial, final)
                # A newer one is damaged, or this run would have begun there: it must not push out what is whole.
                for old in [other for other in self.steps() if other <= step][: -self.keep]:
                    shutil.rmtree(self.folder / str(old))
        except BaseException as error:  # a thread cannot raise: wait() does
            self._error = self._explained(step, error)
            shutil.rmtree(partial, ignore_errors=True)

    def _explained(self, step: int, error: BaseException) -> CheckpointError:
        kept = self.steps()
        last = f"the checkpoint of step {kept[-1]} is untouched" if kept else "there was none before it"
        reason = " ".join(str(error).split())
        if len(reason) > 300:  # the cause stands at the end
            reason = f"{reason[:100]} ... {reason[-200:]}"
        return CheckpointError(
            f"checkpoint of step {step} could not be written to {self.folder} ({type(error).__name__}: {reason}); {last}; "
            "free space or choose a writable folder"
        )


def _checked(path: Path) -> dict[str, Any]:
    """The meta data of a checkpoint whose files are all as they were written."""
    try:
        meta = json.loads((path / "meta.json").read_text())
        found, files, _ = meta["format"], dict(meta["files"]), meta["leaves"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"checkpoint {path} is damaged (meta.json: {error})") from None
    if found != FORMAT:
        raise CheckpointError(f"checkpoint {path} has format {found}, and this dljax reads format {FORMAT}")
    for name, digest in files.items():
        try:
            same = _digest(path / "arrays" / name) == digest
        except OSError as error:
            raise CheckpointError(f"checkpoint {path} is damaged ({name}: {error.strerror})") from None
        if not same:
            raise CheckpointError(f"checkpoint {path} is damaged ({name} is not what was written)")
    return meta


def read(found: Found, shapes: Any, *, per_device: bool = False) -> Any:
    """The arrays of a checkpoint, placed as `shapes` say.

    Args:
      shapes: `jax.ShapeDtypeStruct`s with shardings, in the structure that was saved.
      per_device: whether `shapes` are stacked over devices; what was saved once is then given to each.
    Raises:
      CheckpointError: the structure is another; the message names the leaves.
    """
    ocp = _import_orbax()
    path, meta = found.path, found.meta

    targets, differences = {}, []
    expected = list(named_leaves(jax.eval_shape(without_keys, shapes)))
    shardings = [leaf.sharding for leaf in jax.tree.leaves(shapes)]
    saved = meta["leaves"]
    names, old_names = {name for name, _ in expected}, {leaf[0] for leaf in saved}
    if names != old_names:
        raise CheckpointError(
            f"checkpoint {path} does not fit: only in the checkpoint: {sorted(old_names - names)}; only in the learner: {sorted(names - old_names)}; "
            "resume with the options it was trained with"
        )
    for index, ((name, leaf), sharding, (old_name, shape, dtype, stacked)) in enumerate(zip(expected, shardings, saved, strict=True)):
        spread = per_device and not stacked
        wanted = leaf.shape[1:] if spread else leaf.shape
        if stacked and not per_device:
            differences.append(f"{name} differs between the {shape[0]} devices that wrote it; resume in the same mode on as many")
        elif (name, wanted, str(leaf.dtype)) != (old_name, tuple(shape), dtype):
            differences.append(f"{old_name} {dtype}{shape} in the checkpoint, {name} {leaf.dtype}{list(wanted)} now")
        where = NamedSharding(sharding.mesh, PartitionSpec()) if spread else sharding
        targets[str(index)] = jax.ShapeDtypeStruct(wanted, leaf.dtype, sharding=where)
    if differences:
        more = f" (and {len(differences) - 5} more)" if len(differences) > 5 else ""
        raise CheckpointError(f"checkpoint {path} does not fit: {'; '.join(differences[:5])}{more}; resume with the options it was trained with")
    if not targets:
        return shapes
    with ocp.AsyncCheckpointer(ocp.StandardCheckpointHandler()) as reader:
        arrays = reader.restore((path / "arrays").absolute(), args=ocp.args.StandardRestore(targets))
    leaves = [arrays[str(index)] for index in range(len(expected))]
    if per_device:
        whole = [tuple(leaf.shape) for _, leaf in expected]
        spread_out = jax.jit(
            lambda xs: [x if x.shape == shape else jnp.broadcast_to(x, shape) for x, shape in zip(xs, whole, strict=True)], out_shardings=shardings
        )
        leaves = spread_out(leaves)
    return with_keys(jax.tree.unflatten(jax.tree.structure(shapes), leaves), shapes)


def import_orbax_meanwhile() -> None:
    """Start to import Orbax in a thread: it takes a quarter of a second, in which the device computes."""
    threading.Thread(target=_import_orbax, daemon=True).start()


def _import_orbax() -> Any:
    """Orbax, imported where it is used, for it takes seconds; it is not to log the traceback of what is raised here anyhow."""
    import orbax.checkpoint

    logging.getLogger("absl").addFilter(_is_not_orbax)
    return orbax.checkpoint


def _is_not_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in Path(record.pathname).parts


def _one_copy(leaf: Any) -> Any:
    """One of the copies of an array that is the same on every device: Orbax would compile programs that cut them, and write every piece."""
    if not isinstance(leaf, jax.Array) or not leaf.is_fully_replicated or len(leaf.sharding.device_set) == 1:
        return leaf
    return leaf.addressable_data(0) if jax.process_count() == 1 else np.asarray(leaf.addressable_data(0))


def _separated(tree: Any) -> tuple[list[Any], tuple[bool, ...]]:
    """The leaves of a tree stacked over devices, one copy of those that are equal on all; and which are not."""
    leaves = jax.tree.leaves(without_keys(tree))
    varies = tuple(bool(leaf) for leaf in _varies(leaves))
    return _once(leaves, varies), varies


@jax.jit
def _varies(leaves: list[Any]) -> list[Any]:
    return [jnp.any(leaf != leaf[:1]) for leaf in leaves]


@functools.partial(jax.jit, static_argnums=1)
def _once(leaves: list[Any], varies: tuple[bool, ...]) -> list[Any]:
    return [leaf if keep else leaf[0] for leaf, keep in zip(leaves, varies, strict=True)]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_durably(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
