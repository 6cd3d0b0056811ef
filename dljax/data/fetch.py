"""Find the files of a data set in the user's folder, the cache, a Debian or a Python package, or download them: resumable, verified, atomic.

A download goes to `NAME.part` in the cache, is verified by size and SHA-256, and only then takes its name. A lock lets two processes ask for
the same file at once: one downloads, the other waits and reads. Nothing is ever written or removed outside the cache.
"""

import errno
import gzip
import hashlib
import http.client
import importlib.util
import logging
import os
import ssl
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from dljax.core.cache import cache_folder
from dljax.data.entry import Entry, File

Progress = Callable[[str, int, int], None]

_log = logging.getLogger("dljax.data")
_TIMEOUT = 30.0  # seconds without a byte
_RESUMES = 20  # dropped connections per file and address
_BLOCK = 1 << 16


class DamagedError(ValueError):
    """A file whose content is not what the catalogue says."""


@dataclass(frozen=True)
class Place:
    """Where a file was found: `kind` is "DLJAX_DATA", "cache", "package" (Debian's) or "python"."""

    kind: str
    path: Path


def data_folder() -> Path:
    """Where downloads are kept: `data` in dljax's cache folder.

    >>> data_folder().name
    'data'
    """
    return cache_folder() / "data"


def find(entry: Entry, file: File) -> Place | None:
    """The first place that has the file, without reading it (but one that lies loose in `DLJAX_DATA` counts only with the right content)."""
    return next((place for place in _places(entry, file) if _is_there(place, entry, file)), None)


def read(entry: Entry, file: File, progress: Progress | None = None) -> bytes:
    """The verified content of a file, downloaded to the cache where it is nowhere.

    Raises:
      ValueError: the user's or the package's file has a wrong checksum, or every download was damaged.
      FileNotFoundError: it is nowhere and cannot be downloaded.
    """
    for place in _places(entry, file):
        if place.kind == "cache" or not _is_there(place, entry, file):
            continue
        try:
            return content(place.path, file)
        except DamagedError as error:
            remedies = {
                "package": f"run `apt install --reinstall {entry.package}`",
                "python": f"run `pip install '{entry.python_package}'`, or put {file.name} into $DLJAX_DATA/{entry.name}",
            }
            remedy = remedies.get(place.kind, "replace it, or move it away to let dljax fetch it")
            raise ValueError(f"{entry.name}: {place.path} {error}; {remedy}") from None
    cached = data_folder() / entry.name / file.name
    with suppress(FileNotFoundError, NotADirectoryError, DamagedError):
        return content(cached, file)
    return _fetch(entry, file, cached, progress)


def content(path: Path, file: File) -> bytes:
    """A file's content, unpacked if it is packed.

    Raises:
      DamagedError: it is not what the catalogue says. OSError: it cannot be read.
    """
    with path.open("rb") as raw:
        is_packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        try:
            # One byte more than expected is enough to know: a file that unpacks to gigabytes never gets the memory.
            data = (gzip.GzipFile(fileobj=raw) if is_packed else raw).read(file.size + 1)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DamagedError(f"is cut short or damaged ({error})") from None
    if len(data) != file.size:
        found = f"more than {file.size}" if len(data) > file.size else len(data)
        raise DamagedError(f"has the wrong size: {file.size} bytes are expected{' when unpacked' if is_packed else ''}, got {found}")
    digest = hashlib.sha256(data).hexdigest()
    if digest != file.sha256:
        raise DamagedError(f"has the wrong checksum: SHA-256 {file.sha256} is expected, got {digest}")
    return data


def _places(entry: Entry, file: File) -> Iterator[Place]:
    names = (file.name, file.name.removesuffix(".gz")) if file.name.endswith(".gz") else (file.name,)
    given = os.environ.get("DLJAX_DATA")
    if given:
        for folder in (entry.name, *entry.folders, ""):
            for name in names:
                yield Place("DLJAX_DATA", Path(given) / folder / name)
    yield Place("cache", data_folder() / entry.name / file.name)
    if entry.package_folder:
        yield Place("package", Path(entry.package_folder) / file.name)
    if entry.python_folder:
        # Found, not imported: it is the files alone that are wanted.
        name, _, folder = entry.python_folder.partition("/")
        spec = importlib.util.find_spec(name)
        for root in (spec and spec.submodule_search_locations) or ():
            yield Place("python", Path(root) / folder / file.name)


def _is_there(place: Place, entry: Entry, file: File) -> bool:
    if not place.path.is_file():
        return False
    if place.kind == "DLJAX_DATA" and place.path.parent == Path(os.environ["DLJAX_DATA"]):
        # Names such as input.txt and train-images-idx3-ubyte.gz are anybody's: a loose file of another content is simply another file.
        try:
            content(place.path, file)
        except DamagedError:
            return False
    return True


def _fetch(entry: Entry, file: File, path: Path, progress: Progress | None) -> bytes:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path.parent / ".lock"):
            try:
                return content(path, file)  # another process was faster
            except FileNotFoundError:
                pass
            except DamagedError as error:
                _log.warning("%s: %s %s; it is removed and fetched again", entry.name, path, error)
                path.unlink()
            failures = []
            for url in entry.urls:
                try:
                    return _download(url + file.name, path, file, progress)
                except (_UnreachableError, DamagedError) as error:
                    failures.append((url + file.name, error))
            raise _missing(entry, file, failures)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            remedy = "set DLJAX_CACHE to a folder that can be written"
            raise PermissionError(f"{entry.name}: cannot write to the cache {path.parent} ({error.strerror}); {remedy}") from None
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "free some, or set DLJAX_CACHE to a folder on another disk; what came is kept"
            raise OSError(f"{entry.name}: no space for {file.size / 1e6:.1f} MB in the cache {path.parent} ({error.strerror}); {remedy}") from None
        raise


def _missing(entry: Entry, file: File, failures: Sequence[tuple[str, Exception]]) -> Exception:
    given = os.environ.get("DLJAX_DATA")
    looked = [f"DLJAX_DATA ({given + ' has no such file' if given else 'not set'})", f"the cache ({data_folder() / entry.name})"]
    remedies = [f"put {file.name} into $DLJAX_DATA/{entry.name}"]
    if entry.package:
        looked.append(f"the Debian package {entry.package} ({entry.package_folder})")
        remedies.insert(0, f"`apt install {entry.package}`")
    if entry.python_package:
        looked.append(f"the Python package {entry.python_package} (not installed)")
        remedies.insert(0, f"`pip install '{entry.python_package}'`")
    if failures:
        remedies.append(f"with a network: `dljax data get {entry.name}`")
    tried = "".join(f"\n  tried {url}: {error}" for url, error in failures)
    message = f"{entry.name}: {file.name} is missing.\n  looked in {', '.join(looked)}{tried}\n  to do: {'; or '.join(remedies)}"
    damaged = any(isinstance(error, DamagedError) for _, error in failures)
    return ValueError(message) if damaged else FileNotFoundError(message)


def _download(url: str, path: Path, file: File, progress: Progress | None) -> bytes:
    part = path.with_name(path.name + ".part")
    is_fresh = not part.exists()
    if is_fresh or not _is_complete(part, file):
        _log.info("downloading %s (%.1f MB)", url, file.download_size / 1e6)
        try:
            _transfer(url, part, file, progress)
        except DamagedError:
            part.unlink(missing_ok=True)
            raise
    try:
        data = content(part, file)
    except DamagedError as error:
        part.unlink()
        if not is_fresh:  # the beginning may have been another version's
            return _download(url, path, file, progress)
        raise DamagedError(f"the download {error}; it was removed") from None
    os.replace(part, path)
    return data


def _is_complete(part: Path, file: File) -> bool:
    try:
        content(part, file)
    except DamagedError:
        return False
    return True


def _transfer(url: str, part: Path, file: File, progress: Progress | None) -> None:
    """Bring `part` to its full length, going on where it stops."""
    for attempt in range(_RESUMES):
        start = part.stat().st_size if part.exists() else 0
        try:
            return _attempt(url, part, start, file, progress)
        except _DroppedError:
            time.sleep(min(0.1 * attempt, 2.0))
        except urllib.error.HTTPError as error:
            if error.code != 416 or not start:
                raise _UnreachableError(f"HTTP status {error.code} {error.reason}") from None
            part.unlink()  # the server has no more than what is there, and that is not it: begin again
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
            raise _UnreachableError(getattr(error, "reason", None) or str(error) or type(error).__name__) from None
    raise _UnreachableError(f"the connection dropped {_RESUMES} times; what came is kept, try again to go on")


def _attempt(url: str, part: Path, start: int, file: File, progress: Progress | None) -> None:
    """One connection: append to `part` from byte `start`, or from 0 where the server sends everything."""
    # Who packed it, and how well, is upstream's choice; but not by an eighth more.
    limit = file.packed + file.packed // 8 + _BLOCK if file.packed else file.size
    headers = {"User-Agent": "dljax", "Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with _opener().open(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT) as response:
        if response.status != 206:
            start = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            part.unlink()  # what comes does not follow what is there
            raise _DroppedError
        length = response.headers.get("Content-Length", "")
        total = start + int(length) if length.isdigit() else None
        if total is not None and total > limit:
            raise DamagedError(f"has {total} bytes where at most {limit} are expected; it was not fetched")
        done = start
        with part.open("r+b" if start else "wb") as out:
            out.seek(start)
            while block := _block(response, is_first=done == start):
                done += len(block)
                if done > limit:
                    raise DamagedError(f"has more than the {limit} bytes expected; it was stopped and removed")
                out.write(block)
                if progress:
                    progress(file.name, done, total or file.download_size)
            out.flush()
            os.fsync(out.fileno())
    if total is not None and done < total:
        raise _DroppedError


def _block(response: http.client.HTTPResponse, is_first: bool) -> bytes:
    try:
        return response.read(_BLOCK)
    except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
        if is_first:
            raise
        raise _DroppedError from error


def _opener() -> urllib.request.OpenerDirector:
    """HTTP and HTTPS only: an address, or a redirection, to file: or ftp: is refused."""
    opener = urllib.request.OpenerDirector()
    request = urllib.request
    for handler in (
        request.ProxyHandler, request.HTTPHandler, request.HTTPSHandler, request.HTTPRedirectHandler, request.HTTPErrorProcessor,
        request.HTTPDefaultErrorHandler, request.UnknownHandler,
    ):  # fmt: skip
        opener.add_handler(handler())
    return opener


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Exclusive among processes while inside; the system releases it however a process ends."""
    try:
        import fcntl
    except ImportError:  # Windows: two downloads at once may spoil each other, which the checksum finds
        yield
        return
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _UnreachableError(Exception):
    """An address gives nothing."""


class _DroppedError(Exception):
    """A connection that brought something broke: worth going on."""
