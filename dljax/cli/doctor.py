"""`dljax doctor`: what dljax finds on this machine, and what to do about what is missing."""

import importlib.metadata
import os
import platform
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dljax.cli.launch import Launch, available_cores
from dljax.cli.options import parse
from dljax.cli.status import DONE
from dljax.cli.tables import print_json, print_table

_PARTS = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "distrax", "jraph", "grain", "numpy", "matplotlib", "scikit-learn", "tyro", "rich")
_EXTRAS = {
    "games": ("pgx", "mctx"), "envs": ("gymnax", "jumanji"), "physics": ("brax",), "chem": ("rdkit",), "test": ("pytest", "hypothesis", "gymnasium"),
    "oracles": ("torch", "transformers"),
}  # fmt: skip


def main(args: list[str]) -> int:
    """`dljax doctor`."""
    (options,) = parse("dljax doctor", args, doctor)
    return doctor(**options)


def doctor(json: bool = False) -> int:
    """Versions, devices, caches, data at hand, and what to do about what is missing.

    Args:
      json: print JSON.
    """
    Launch().start()
    rows = [*_versions(), *_devices(), *_folders(), *_data(), *_extras()]
    if json:
        print_json(rows)
        return DONE
    for part in dict.fromkeys(row["part"] for row in rows):
        print_table([row for row in rows if row["part"] == part], {part: "name", "": "value", "to do": "remedy"})
    lacking = [row for row in rows if not row["ok"]]
    print(f"{len(lacking)} to look at" if lacking else "all well")
    return DONE


def _found(part: str, name: str, value: Any, *, ok: bool = True, remedy: str = "") -> dict[str, Any]:
    return {"part": part, "name": name, "value": value, "ok": ok, "remedy": remedy}


def _versions() -> list[dict[str, Any]]:
    from dljax import __version__

    rows = [_found("versions", "dljax", __version__), _found("versions", "python", platform.python_version())]
    for name in _PARTS:
        version = _version(name)
        rows.append(_found("versions", name, version or "missing", ok=version is not None, remedy="" if version else "pip install --upgrade dljax"))
    return rows


def _devices() -> list[dict[str, Any]]:
    import jax

    devices = jax.devices()
    kinds = ", ".join(dict.fromkeys(device.device_kind for device in devices))
    rows = [
        _found("devices", "system", platform.platform()),
        _found("devices", "cores", f"{available_cores()} of {os.cpu_count()}"),
        _found("devices", "memory", _memory()),
        _found("devices", "jax devices", f"{len(devices)} x {devices[0].platform} ({kinds})"),
    ]
    has_gpu = shutil.which("nvidia-smi") is not None
    if has_gpu and devices[0].platform == "cpu":
        rows.append(
            _found(
                "devices", "gpu", "there, but jax does not see it", ok=False, remedy="pip install 'jax[cuda13]' (or cuda12), as your driver asks for"
            )
        )
    rows += [_found("devices", name, os.environ[name]) for name in ("XLA_FLAGS", "JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES") if name in os.environ]
    return rows


def _folders() -> list[dict[str, Any]]:
    from dljax.core.cache import cache_folder
    from dljax.data.fetch import data_folder

    rows = []
    for name, folder, setting in (
        ("compiled programs", cache_folder() / "xla", "DLJAX_CACHE"),
        ("data", data_folder(), "DLJAX_CACHE"),
        ("runs", Path("runs").absolute(), "--out"),
    ):
        home = next(place for place in (folder, *folder.parents) if place.exists())
        ok = os.access(home, os.W_OK)
        free = shutil.disk_usage(home).free / 2**30
        value = f"{folder} ({_size(folder)}{free:.0f} GiB free)"
        remedy = f"set {setting} to a folder that can be written" if not ok else "free some space" if free < 1 else ""
        rows.append(_found("folders", name, value, ok=ok and free >= 1, remedy=remedy))
    given = os.environ.get("DLJAX_DATA")
    if given:
        is_there = Path(given).is_dir()
        rows.append(_found("folders", "DLJAX_DATA", given, ok=is_there, remedy="" if is_there else "no such folder: correct it or unset it"))
    return rows


def _data() -> list[dict[str, Any]]:
    from dljax import data

    rows = []
    for info in data.available():
        remedy = f"dljax data get {info.name}" + (f", or apt install {info.package}" if info.package else "")
        value = f"{info.place}{' ' + info.folder if info.folder else ''}" if not info.missing else f"missing: {', '.join(info.missing)}"
        rows.append(_found("data", info.name, value, ok=not info.missing, remedy=remedy if info.missing else ""))
    return rows


def _extras() -> list[dict[str, Any]]:
    rows = []
    for extra, modules in _EXTRAS.items():
        missing = [module for module in modules if find_spec(module) is None]
        # What is optional is never a fault.
        rows.append(
            _found(
                "extras",
                extra,
                f"without {', '.join(missing)}" if missing else "installed",
                remedy=f"pip install 'dljax[{extra}]', if you want it" if missing else "",
            )
        )
    return rows


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (AttributeError, OSError, ValueError):
        return "unknown"


def _size(folder: Path) -> str:
    if not folder.is_dir():
        return "empty, "
    return f"{sum(path.stat().st_size for path in folder.rglob('*') if path.is_file()) / 2**20:.0f} MiB, "
