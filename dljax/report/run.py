"""A run's folder, read in whatever state a crash, a running process or a stranger has left it."""

import json
import os
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dljax.report.figures import INDEX, SUFFIXES, is_file_name
from dljax.report.markup import is_number, memory, shown

LARGEST_FIGURE = 16 * 2**20
"""Bytes that a single figure may have to be embedded."""

LARGEST_PAGE = 48 * 2**20
"""Bytes that all embedded figures may have together."""


Column = tuple[np.ndarray, np.ndarray]
"""A metric along a run: steps [R], increasing, and values [R, M] of M members, NaN where a report says nothing; one value at least is known."""


class Embedded(NamedTuple):
    """A figure whose file has been read: bytes of its media type.

    >>> Embedded("verse", "a sample", "text/plain", b"To be").name
    'verse'
    """

    name: str
    caption: str
    media: str
    content: bytes


@dataclass
class Run:
    """What a run's folder says, checked no further than that each part has its kind.

    Attributes:
      config, result: {} where the file is missing or damaged.
      metrics, evaluations: by name.
      members: the options of each member of a sweep, [] for a single run.
      figures: those of the index whose files can be shown.
      notes: what could not be read, for the reader of the page.

    >>> Run(Path("run"), members=[{"seed": 0}, {"seed": 1}]).num_members
    2
    """

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Column] = field(default_factory=dict)
    evaluations: dict[str, Column] = field(default_factory=dict)
    members: list[dict[str, Any]] = field(default_factory=list)
    figures: list[Embedded] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def num_members(self) -> int:
        """Columns of the widest metric, at least one."""
        widths = [values.shape[1] for _, values in (*self.metrics.values(), *self.evaluations.values())]
        return max([1, len(self.members), *widths])


def read_run(run_dir: str | os.PathLike[str]) -> Run:
    """Read a run's folder, whatever state a crash has left it in.

    Raises:
      FileNotFoundError: no such folder, or neither a configuration nor metrics in it.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\\n{"step": 2, "lo')
    ...     read_run(folder).metrics
    {'loss': (array([1.]), array([[2.]]))}
    """
    folder = Path(run_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"report: no folder {str(folder)!r}; give the folder of a run")
    if not any((folder / name).is_file() for name in ("config.json", "metrics.jsonl")):
        raise FileNotFoundError(f"report: {str(folder)!r} is no run: neither config.json nor metrics.jsonl is in it")
    notes: list[str] = []
    config, result = (_read_object(folder / name, notes) for name in ("config.json", "result.json"))
    metrics, evaluations = (_read_rows(folder / name, notes) for name in ("metrics.jsonl", "evaluations.jsonl"))
    listed = config.get("members")
    members = [member if isinstance(member, dict) else {} for member in listed] if isinstance(listed, list) else []
    return Run(folder.resolve(), config, result, metrics, evaluations, members, _read_figures(folder, notes), notes)


def extent(content: bytes, media: str) -> tuple[int, int] | None:
    """Width and height of a PNG or a GIF; None where the bytes are something else.

    >>> extent(b"GIF89a" + bytes([3, 0, 2, 0]), "image/gif")
    (3, 2)
    """
    if media == "image/png" and content[:8] == b"\x89PNG\r\n\x1a\n" and len(content) >= 24:
        width, height = struct.unpack(">II", content[16:24])
    elif media == "image/gif" and content[:6] in (b"GIF87a", b"GIF89a") and len(content) >= 10:
        width, height = struct.unpack("<HH", content[6:10])
    else:
        return None
    return width, height


def _read_json(path: Path, notes: list[str]) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_bytes().decode("utf-8", "replace"))
    except (OSError, ValueError, RecursionError) as error:
        notes.append(f"{path.name} could not be read ({error}); it is left out.")
        return None


def _read_object(path: Path, notes: list[str]) -> dict[str, Any]:
    content = _read_json(path, notes)
    if content is None or isinstance(content, dict):
        return content or {}
    notes.append(f"{path.name} is no JSON object; it is left out.")
    return {}


def _read_rows(path: Path, notes: list[str]) -> dict[str, Column]:
    """JSON lines as columns; of two rows with the same step the later one counts, as a resumed run wrote it."""
    if not path.is_file():
        return {}
    rows: dict[float, dict[str, Any]] = {}
    lines, damaged = path.read_bytes().decode("utf-8", "replace").split("\n"), 0
    for position, line in enumerate(lines):
        try:
            row = json.loads(line) if line.strip() else {}
            row = row if isinstance(row, dict) else {}
        except (ValueError, RecursionError):
            # The last line may be half written: the run goes on, or was killed.
            damaged += position < len(lines) - 1
            continue
        step = row.pop("step", None)
        if is_number(step) and abs(step) < 1e15:
            rows[step] = row
    if damaged:
        notes.append(f"{path.name}: {damaged} unreadable {'line' if damaged == 1 else 'lines'} left out.")
    steps = sorted(rows)
    columns = {}
    for name in dict.fromkeys(name for step in steps for name in rows[step]):
        found = [rows[step].get(name) for step in steps]
        cells: list[list[Any]] = [cell if isinstance(cell, list) else [cell] for cell in found]
        values = np.full((len(steps), max(map(len, cells))), np.nan)
        for index, cell in enumerate(cells):
            values[index, : len(cell)] = [float(value) if is_number(value) else np.nan for value in cell]
        if np.isfinite(values).any():
            columns[name] = (np.array(steps, float), values)
    return columns


def _read_figures(folder: Path, notes: list[str]) -> list[Embedded]:
    index = _read_json(folder / "figures" / INDEX, notes)
    home, entries, room = folder.resolve() / "figures", [], LARGEST_PAGE
    for entry in index if isinstance(index, list) else ():
        entry = entry if isinstance(entry, dict) else {}
        file, media = str(entry.get("file")), str(entry.get("media"))
        name, caption = shown(entry.get("name", "figure")), shown(entry.get("caption", ""))
        suffix = SUFFIXES.get(media, "")
        # Neither a path nor a link may bring another file of this machine into the page.
        is_ours = suffix and file.endswith(suffix) and is_file_name(file.removesuffix(suffix)) and (home / file).resolve().parent == home
        if not is_ours or not (home / file).is_file():
            notes.append(f"Figure {name!r} ({file}, {media}) is left out: no file of a known kind in the run's figures folder.")
            continue
        size = (home / file).stat().st_size
        if size > min(LARGEST_FIGURE, room):
            notes.append(f"Figure {name!r} is left out: {memory(size)} is too large to embed. It is in figures/{file}.")
            continue
        content = (home / file).read_bytes()
        if media.startswith("image/") and extent(content, media) is None:
            notes.append(f"Figure {name!r} is left out: {file} is no {media}.")
            continue
        room -= size
        entries.append(Embedded(name, caption or name, media, content))
    return entries
