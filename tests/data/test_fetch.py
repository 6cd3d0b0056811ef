"""Finding and downloading: every route, resumption, verification, concurrency, and what is said when it fails."""

import errno
import gzip
import hashlib
import http.server
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dljax import data
from dljax.data import fetch

CONTENT = bytes(range(256)) * 1000


class Server(http.server.ThreadingHTTPServer):
    """A server of one file under any name; `behaviour` is a list of what each request in turn meets, then "ok"."""

    daemon_threads = True

    def __init__(self, body):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.behaviour, self.ranges, self.paths = body, [], [], []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.ranges.append(asked)
        server.paths.append(self.path)
        behaviour = server.behaviour.pop(0) if server.behaviour else "ok"
        body, start = server.body, 0
        if behaviour == "missing":
            return self.send_error(404, "Not Found")
        if behaviour == "redirect":
            return self.redirect("/elsewhere")
        if behaviour == "redirect to a file":
            return self.redirect("file:///etc/hostname")
        if behaviour == "corrupt":
            body = body[:-1] + bytes([body[-1] ^ 1])
        if behaviour == "long":
            body = body + bytes(1_000_000)
        if behaviour == "endless":  # no length given, and too much
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body + bytes(1_000_000))
            return None
        if asked and behaviour not in ("ignores ranges", "drops and ignores ranges"):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                return self.send_error(416)
            self.send_response(206)
            shift = 7 if behaviour == "wrong range" else 0
            self.send_header("Content-Range", f"bytes {start + shift}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        rest = body[start:]
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[: len(rest) // 2] if behaviour.startswith("drops") else rest)
        return None

    def redirect(self, where):
        self.send_response(302)
        self.send_header("Location", where)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("DLJAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("DLJAX_DATA", raising=False)
    return tmp_path


@pytest.fixture
def server(folders):
    server = Server(CONTENT)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def entry_of(content=CONTENT, name="stuff.bin", packed=0, **options):
    file = data.File(name, len(content), hashlib.sha256(content).hexdigest(), packed)
    return data.Entry("stuff", "text", "CC0", "stuff", parse=dict, files=(file,), **options)


def read(entry, progress=None):
    return fetch.read(entry, entry.files[0], progress)


def cached(folders, name="stuff.bin"):
    return folders / "cache" / "data" / "stuff" / name


def test_a_download_is_verified_kept_and_not_repeated(folders, server):
    seen = []
    entry = entry_of(urls=(server.url,))
    assert read(entry, lambda *progress: seen.append(progress)) == CONTENT
    assert cached(folders).read_bytes() == CONTENT
    assert sorted(path.name for path in cached(folders).parent.iterdir()) == [".lock", "stuff.bin"]
    assert seen[-1] == ("stuff.bin", len(CONTENT), len(CONTENT))
    assert read(entry) == CONTENT
    assert server.paths == ["/stuff.bin"]


def test_a_dropped_connection_is_resumed_where_it_broke(folders, server):
    server.behaviour = ["drops", "drops", "ok"]
    assert read(entry_of(urls=(server.url,))) == CONTENT
    assert server.ranges == [None, "bytes=128000-", "bytes=192000-"]


def test_an_earlier_process_download_is_resumed(folders, server):
    part = cached(folders, "stuff.bin.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT[:1000])
    assert read(entry_of(urls=(server.url,))) == CONTENT
    assert server.ranges == ["bytes=1000-"]
    assert not part.exists()


def test_a_finished_but_unnamed_download_needs_no_network(folders):
    part = cached(folders, "stuff.bin.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT)
    assert read(entry_of(urls=("http://127.0.0.1:1/",))) == CONTENT


@pytest.mark.parametrize("behaviour", [["drops", "ignores ranges"], ["drops", "drops and ignores ranges", "ok"], ["drops", "wrong range", "ok"]])
def test_a_server_that_ignores_or_confuses_ranges_still_delivers(folders, server, behaviour):
    server.behaviour = list(behaviour)
    assert read(entry_of(urls=(server.url,))) == CONTENT


@pytest.mark.parametrize("beginning", [b"another version", bytes(len(CONTENT)), bytes(len(CONTENT) + 5)])
def test_a_beginning_that_does_not_belong_to_the_rest_is_dropped(folders, server, beginning):
    part = cached(folders, "stuff.bin.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(beginning)
    assert read(entry_of(urls=(server.url,))) == CONTENT
    assert server.ranges[0] == f"bytes={len(beginning)}-"
    assert server.ranges[-1] is None


def test_a_corrupted_download_is_removed_and_said_so(folders, server):
    server.behaviour = ["corrupt"]
    with pytest.raises(
        ValueError, match=r"(?s)stuff.bin is missing.*the download has the wrong checksum: SHA-256 \w+ is expected, got \w+; it was removed"
    ):
        read(entry_of(urls=(server.url,)))
    assert [path.name for path in cached(folders).parent.iterdir()] == [".lock"]


def test_a_mirror_is_tried_after_a_corrupted_or_missing_file(folders, server):
    server.behaviour = ["corrupt", "missing", "ok"]
    assert read(entry_of(urls=(server.url + "a/", server.url + "b/", server.url + "c/"))) == CONTENT
    assert server.paths == ["/a/stuff.bin", "/b/stuff.bin", "/c/stuff.bin"]


@pytest.mark.parametrize(("behaviour", "message"), [("long", "1256000 bytes where at most 256000"), ("endless", "more than the 256000 bytes")])
def test_a_download_that_is_too_large_is_stopped(folders, server, behaviour, message):
    server.behaviour = [behaviour]
    with pytest.raises(ValueError, match=message):
        read(entry_of(urls=(server.url,)))
    assert not cached(folders, "stuff.bin.part").exists()


def test_redirections_are_followed_but_not_to_files(folders, server):
    server.behaviour = ["redirect"]
    assert read(entry_of(urls=(server.url,))) == CONTENT
    cached(folders).unlink()
    server.behaviour = ["redirect to a file"]
    with pytest.raises(FileNotFoundError, match="HTTP status 302"):
        read(entry_of(urls=(server.url,)))
    with pytest.raises(FileNotFoundError, match="unknown url type"):
        read(entry_of(urls=("file:///etc/",)))


def test_without_a_network_the_message_says_where_it_looked_and_what_to_do(folders):
    entry = entry_of(urls=("http://127.0.0.1:1/",), package="dataset-stuff", package_folder=str(folders / "package"))
    with pytest.raises(FileNotFoundError) as caught:
        read(entry)
    message = str(caught.value)
    for part in (
        "stuff: stuff.bin is missing",
        "DLJAX_DATA (not set)",
        f"the cache ({folders / 'cache' / 'data' / 'stuff'})",
        f"the Debian package dataset-stuff ({folders / 'package'})",
        "tried http://127.0.0.1:1/stuff.bin: [Errno 111] Connection refused",
        "`apt install dataset-stuff`",
        "put stuff.bin into $DLJAX_DATA/stuff",
        "`dljax data get stuff`",
    ):
        assert part in message


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # urllib leaves the timed-out socket to the collector
def test_a_silent_server_is_given_up(folders, monkeypatch):
    import socket

    monkeypatch.setattr(fetch, "_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(FileNotFoundError, match="timed out"):
        read(entry_of(urls=(f"http://127.0.0.1:{silent.getsockname()[1]}/",)))


def test_two_processes_that_ask_at_once_download_once(folders, server):
    script = f"""
from dljax import data
from dljax.data import fetch
import hashlib
content = bytes(range(256)) * 1000
file = data.File("stuff.bin", len(content), hashlib.sha256(content).hexdigest())
input()  # wait until both are ready
assert fetch.read(data.Entry("stuff", "text", "CC0", "stuff", parse=dict, files=(file,), urls=("{server.url}",)), file) == content
"""
    processes = [subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    threads = [threading.Thread(target=process.communicate, args=("go\n",)) for process in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.returncode for process in processes] == [0, 0]
    assert server.paths == ["/stuff.bin"]


def test_threads_that_ask_at_once_download_once(folders, server):
    entry, results = entry_of(urls=(server.url,)), []
    threads = [threading.Thread(target=lambda: results.append(read(entry))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [CONTENT] * 8
    assert server.paths == ["/stuff.bin"]


def test_a_damaged_cached_file_is_fetched_again(folders, server, caplog):
    cached(folders).parent.mkdir(parents=True)
    cached(folders).write_bytes(CONTENT[:-1])
    with caplog.at_level(logging.WARNING, "dljax.data"):
        assert read(entry_of(urls=(server.url,))) == CONTENT
    assert "has the wrong size: 256000 bytes are expected, got 255999; it is removed and fetched again" in caplog.text


@pytest.mark.parametrize("folder", ["stuff", "other/raw", ""])
def test_the_users_folder_comes_first_in_any_layout(folders, monkeypatch, folder):
    path = folders / "mine" / folder / "stuff.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    monkeypatch.setenv("DLJAX_DATA", str(folders / "mine"))
    entry = entry_of(folders=("other/raw",))
    assert read(entry) == CONTENT
    assert fetch.find(entry, entry.files[0]) == fetch.Place("DLJAX_DATA", path)
    assert not (folders / "cache").exists()


def test_a_damaged_file_of_the_user_is_an_error_and_stays(folders, monkeypatch, server):
    path = folders / "mine" / "stuff" / "stuff.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    monkeypatch.setenv("DLJAX_DATA", str(folders / "mine"))
    with pytest.raises(ValueError, match=rf"stuff: {path} has the wrong size: 256000 bytes are expected, got 4; replace it, or move it away"):
        read(entry_of(urls=(server.url,)))
    assert path.read_bytes() == b"mine"
    assert not server.paths


def test_a_loose_file_of_another_content_is_just_another_file(folders, monkeypatch, server):
    (folders / "stuff.bin").write_bytes(b"something else")
    monkeypatch.setenv("DLJAX_DATA", str(folders))
    assert read(entry_of(urls=(server.url,))) == CONTENT
    assert (folders / "stuff.bin").read_bytes() == b"something else"


def test_a_debian_package_is_used_and_a_damaged_one_named(folders):
    (folders / "package").mkdir()
    (folders / "package" / "stuff.bin").write_bytes(CONTENT)
    entry = entry_of(package="dataset-stuff", package_folder=str(folders / "package"))
    assert read(entry) == CONTENT
    (folders / "package" / "stuff.bin").write_bytes(CONTENT[::-1])
    with pytest.raises(ValueError, match=r"has the wrong checksum.*run `apt install --reinstall dataset-stuff`"):
        read(entry)


def test_a_python_package_is_used_without_importing_it_and_another_release_named(folders, monkeypatch):
    (folders / "stuffpackage" / "data").mkdir(parents=True)
    (folders / "stuffpackage" / "__init__.py").write_text("raise RuntimeError('imported')")
    (folders / "stuffpackage" / "data" / "stuff.bin").write_bytes(CONTENT)
    entry = entry_of(urls=("http://127.0.0.1:1/",), python_package="stuff==1.0", python_folder="stuffpackage/data")
    with pytest.raises(FileNotFoundError, match=r"the Python package stuff==1.0 \(not installed\)(.|\n)*`pip install 'stuff==1.0'`"):
        read(entry)
    monkeypatch.syspath_prepend(folders)
    assert read(entry) == CONTENT
    (folders / "stuffpackage" / "data" / "stuff.bin").write_bytes(CONTENT[::-1])
    with pytest.raises(ValueError, match=r"has the wrong checksum.*run `pip install 'stuff==1.0'`, or put stuff.bin into"):
        read(entry)


@pytest.mark.parametrize("level", [1, 9])
def test_a_packed_file_is_known_by_its_content_whoever_packed_it(folders, server, level):
    server.body = gzip.compress(CONTENT, level, mtime=level)
    assert read(entry_of(name="stuff.gz", packed=len(server.body), urls=(server.url,))) == CONTENT


def test_an_unpacked_copy_serves_as_well(folders, monkeypatch):
    (folders / "stuff").mkdir()
    (folders / "stuff" / "stuff").write_bytes(CONTENT)
    monkeypatch.setenv("DLJAX_DATA", str(folders))
    assert read(entry_of(name="stuff.gz", packed=1)) == CONTENT


@pytest.mark.parametrize("spoil", [lambda packed: packed[:-20], lambda packed: packed[:50] + b"?" + packed[51:], lambda packed: packed + b"tail"])
def test_a_damaged_gzip_file_is_refused(folders, spoil):
    path = folders / "stuff.gz"
    path.write_bytes(spoil(gzip.compress(CONTENT)))
    with pytest.raises(fetch.DamagedError, match=r"is cut short or damaged|has the wrong"):
        fetch.content(path, entry_of(name="stuff.gz").files[0])


@pytest.mark.parametrize("name", ["../stuff", "/etc/passwd", "a/b", "..", ".hidden", "", "a\\b", "a\n"])
def test_names_that_could_leave_their_folder_are_refused(name):
    with pytest.raises(ValueError, match="plain file name"):
        data.File(name, 1, "0" * 64)
    if name not in ("a/b",):
        with pytest.raises(ValueError, match="plain names"):
            entry_of(folders=(name,))
    with pytest.raises(ValueError, match="plain names"):
        data.Entry(name if "/" not in name else "../x", "text", "CC0", "x", parse=dict)


def test_a_file_needs_a_size_and_a_checksum():
    with pytest.raises(ValueError, match="size and packed must be >= 0, got -1 and 0"):
        data.File("a", -1, "0" * 64)
    with pytest.raises(ValueError, match="64 hexadecimal digits, got 'abc'"):
        data.File("a", 1, "abc")


def test_a_cache_that_cannot_be_written_is_named(folders, server, monkeypatch):
    (folders / "file").write_text("no folder")
    monkeypatch.setenv("DLJAX_CACHE", str(folders / "file"))
    with pytest.raises(PermissionError, match=r"stuff: cannot write to the cache .*; set DLJAX_CACHE to a folder that can be written"):
        read(entry_of(urls=(server.url,)))


def test_a_full_disk_is_named_and_what_came_is_kept(folders, server, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"stuff: no space for 0.3 MB in the cache .*; free some"):
            read(entry_of(urls=(server.url,)))
    assert cached(folders, "stuff.bin.part").exists()
    assert not cached(folders).exists()
    assert read(entry_of(urls=(server.url,))) == CONTENT


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"DLJAX_CACHE": "/a"}, "/a/data"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/dljax/data"),
        ({"HOME": "/home/c"}, "/home/c/.cache/dljax/data"),
    ],
)
def test_the_cache_is_where_the_user_says(monkeypatch, variables, expected):
    for name in ("DLJAX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert fetch.data_folder() == Path(expected)


def test_the_catalogue_says_what_is_at_hand_and_what_is_wrong(folders, monkeypatch):
    entry = entry_of(package="dataset-stuff", urls=("http://127.0.0.1:1/",))
    monkeypatch.setitem(data.CATALOGUE, "stuff", entry)
    info = data.info("stuff")
    assert (info.place, info.folder, info.missing, info.num_bytes) == ("", "", ("stuff.bin",), 256_000)
    assert data.where("stuff") == {"stuff.bin": None}
    assert data.check("stuff") == (data.FileStatus("stuff.bin", "missing", "", "run `dljax data get stuff`"),)
    cached(folders).parent.mkdir(parents=True)
    cached(folders).write_bytes(CONTENT)
    info = data.get("stuff")
    assert (info.place, info.folder, info.missing) == ("cache", str(cached(folders).parent), ())
    assert info in data.available()
    assert data.check("stuff")[0].status == "ok"
    cached(folders).write_bytes(CONTENT[::-1])
    (status,) = data.check("stuff")
    assert (status.status, status.path) == ("damaged", str(cached(folders)))
    assert "wrong checksum" in status.detail
    assert cached(folders).exists()
    assert data.load("digits").keys() == {"train", "test"}


def test_an_unknown_data_set_is_refused_with_the_known_ones():
    for function in (data.load, data.info, data.get, data.check, data.where):
        with pytest.raises(ValueError, match=r"name must be one of 'fashion-mnist', 'digits', .*, got 'mnits'"):
            function("mnits")


def test_every_entry_of_the_catalogue_is_complete():
    for name, entry in data.CATALOGUE.items():
        assert name == entry.name
        assert entry.modality in ("image", "text", "graph", "molecule", "table", "geography")
        assert entry.licence
        assert entry.description
        assert all(url.startswith("http") and url.endswith("/") for url in entry.urls)
        assert bool(entry.files) == bool(entry.urls or entry.package or entry.python_package)
