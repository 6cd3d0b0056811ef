"""Where dljax keeps what it can make or fetch again: compiled programs, downloads, what was measured."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """The user's cache folder of dljax: `$DLJAX_CACHE`, else `$XDG_CACHE_HOME/dljax`, else `~/.cache/dljax`.

    >>> cache_folder().is_absolute()
    True
    """
    given = os.environ.get("DLJAX_CACHE")
    if given:
        return Path(given).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").absolute() / "dljax"
