"""Every mistake gives one message that names the value and the remedy, the right exit status, no traceback, and costs nothing that was there."""

import fcntl
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from dljax import data, recipes
from dljax.cli import main
from dljax.data.entry import Entry, File


@dataclass(frozen=True)
class Case:
    """A mistake.

    Attributes:
      args: the command line; a function of the test's `Place` where it needs something to be there.
      says: what the message must contain: the value and the remedy.
      status: 2 for bad usage, 3 where something is not finite.
    """

    args: str | Callable[["Place"], str]
    says: tuple[str, ...]
    status: int = 2


class Place:
    """What a case may need."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
        self.folder, self.monkeypatch, self.request = folder, monkeypatch, request

    def run(self, *more: str) -> str:
        """A finished run of `tiny/line`."""
        assert main(["train", "tiny/line", "--steps", "20", "--out", "done", "--quiet", *more]) == 0
        return "done"

    def file(self, name: str, text: str = "") -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return name

    def entry(self, name: str, *urls: str) -> None:
        """A data set of one file, hello.txt with five bytes."""
        file = File("hello.txt", 5, hashlib.sha256(b"hello").hexdigest())
        self.monkeypatch.setitem(data.CATALOGUE, name, Entry(name, "text", "CC0", "a word", dict, (file,), urls=urls))

    def server(self, content: bytes) -> str:
        """The address of a server that answers everything with the same bytes."""

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: object) -> None: ...

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.request.addfinalizer(server.server_close)
        self.request.addfinalizer(server.shutdown)
        return f"http://127.0.0.1:{server.server_port}/"


def _resume_changed(**changes: object) -> Callable[[Place], str]:
    def args(place: Place) -> str:
        path = Path(place.run(), "config.json")
        config = json.loads(path.read_text())
        config["options"].update(changes.pop("options", {}))
        path.write_text(json.dumps({**config, **changes}))
        return "resume done --steps 40"

    return args


def _resume_with(text: str) -> Callable[[Place], str]:
    return lambda place: (place.run(), place.file("done/config.json", text), "resume done --steps 40")[-1]


def _truncated_checkpoint(place: Place) -> str:
    place.run()
    for path in Path("done/checkpoints").rglob("*"):
        if path.is_file() and path.stat().st_size > 1 and "arrays" in path.parts:
            path.write_bytes(path.read_bytes()[:-1])
    return "resume done --steps 40"


def _used_by_another(place: Place) -> str:
    place.file("busy/.lock")
    lock = (place.folder / "busy/.lock").open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    place.request.addfinalizer(lock.close)
    return "train tiny/line --out busy"


def _no_network(place: Place) -> str:
    place.monkeypatch.delenv("DLJAX_DATA", raising=False)
    place.entry("nowhere", "http://127.0.0.1:9/")
    return "train tiny/faulty --fault nowhere"


def _corrupted_download(place: Place) -> str:
    place.monkeypatch.delenv("DLJAX_DATA", raising=False)
    place.entry("corrupted", place.server(b"jello"))
    return "data get corrupted"


def _damaged_file(place: Place) -> str:
    place.entry("mine")
    place.monkeypatch.setenv("DLJAX_DATA", str(place.folder / "data"))
    place.file("data/mine/hello.txt", "hell")
    return "train tiny/faulty --fault mine"


def _damaged_check(place: Place) -> str:
    _damaged_file(place)
    return "data get mine"


def _no_results(place: Place) -> str:
    place.file("README.md", "no table here")
    place.monkeypatch.setattr("dljax.cli.verify.__file__", str(place.folder / "a" / "b" / "c"))
    return "verify tiny/line --write"


def _no_benchmarks(place: Place) -> str:
    place.monkeypatch.setattr("dljax.cli.bench.__file__", str(place.folder / "a" / "b" / "c"))
    return "bench --all"


def _busy_cores(place: Place) -> str:
    place.monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=1")
    return "train tiny/line --cores 77"


LINE = "train tiny/line"

CASES = {
    # names
    "no such command": Case("trian tiny/line", ("'trian'", "did you mean 'train'")),
    "a command that resembles none": Case("xyzzy", ("'xyzzy'", "train, resume")),
    "no such recipe": Case("train tiny/lime", ("'tiny/lime'", "did you mean 'tiny/line'")),
    "a recipe that resembles none": Case("train xyzzy", ("'xyzzy'", "dljax list")),
    "no recipe": Case("train --steps 3", ("name a recipe", "dljax list")),
    "misspelt option": Case(f"{LINE} --learnin-rate 0.1", ("--learnin-rate", "did you mean --learning-rate")),
    "option that resembles none": Case(f"{LINE} --xyzzy 1", ("--xyzzy", "its options are", "--batch-size")),
    "another argument": Case(f"{LINE} fast", ("'fast'", "--name value")),
    "no such choice": Case("train tiny/faulty --fault none-at-all", ("--fault", "none-at-all", "one of", "labels")),
    # types and ranges
    "text for a number": Case(f"{LINE} --learning-rate fast", ("--learning-rate", "a number", "'fast'", "0.1")),
    "fraction for a whole number": Case(f"{LINE} --batch-size 8.5", ("--batch-size", "a whole number", "'8.5'")),
    "text in a list": Case(f"{LINE} --widths 1 two", ("--widths", "whole numbers", "'1 two'")),
    "no value": Case(f"{LINE} --steps", ("--steps needs a value", "whole number")),
    "a value for a flag": Case(f"{LINE} --halve true", ("'true'", "not expected")),
    "nan": Case(f"{LINE} --learning-rate nan", ("--learning-rate", "got nan", "a number")),
    "negative learning rate": Case(f"{LINE} --learning-rate -0.1", ("learning_rate", "(0, inf", "-0.1")),
    "zero steps": Case(f"{LINE} --steps 0", ("--steps", ">= 1", "got 0")),
    "negative steps": Case(f"{LINE} --steps -5", ("--steps", ">= 1", "got -5")),
    "zero steps of a recipe's own": Case("train tiny/never --steps 0", ("steps", ">= 1", "got 0")),
    "zero seeds": Case(f"{LINE} --seeds 0", ("--seeds", "between 1 and", "got 0")),
    "negative seed": Case(f"{LINE} --seed -1", ("--seed", "between 0 and", "got -1")),
    "huge seed": Case(f"{LINE} --seed 4294967296", ("--seed", "4294967295", "got 4294967296")),
    "batch larger than the data": Case(f"{LINE} --batch-size 65", ("batch_size 65", "64 examples", "at most 64")),
    "empty batch": Case(f"{LINE} --batch-size 0", ("batch_size", ">= 1", "got 0")),
    # devices
    "unknown precision": Case(f"{LINE} --precision int4", ("--precision", "float32 or bf16", "'int4'")),
    "too large a mesh": Case(f"{LINE} --mesh data=999", ("--mesh data=999", "999 devices", "smaller mesh")),
    "unknown axis": Case(f"{LINE} --mesh rows=2", ("'rows'", "seed, data, model")),
    "empty axis": Case(f"{LINE} --mesh data=0", ("--mesh data=0", ">= 1", "'0'")),
    "mesh that is no mesh": Case(f"{LINE} --mesh data", ("--mesh data", ">= 1", "for example --mesh data=2")),
    "mesh on one device": Case(f"{LINE} --mesh data=1 --one-device", ("--one-device", "--mesh", "leave one out")),
    "cores on one device": Case(f"{LINE} --cores 2 --one-device", ("--one-device", "--cores", "leave one out")),
    "no cores": Case(f"{LINE} --cores 0", ("--cores", ">= 1", "got 0")),
    "cores against the environment": Case(_busy_cores, ("--cores 77", "XLA_FLAGS", "leave --cores out")),
    "a mesh for seeds": Case(f"{LINE} --seeds 2 --mesh data=1", ("--mesh", "leave it out")),
    # what goes wrong inside
    "huge learning rate": Case(f"{LINE} --learning-rate 1e30", ("not finite at step", "Lower the learning rate"), status=3),
    "huge learning rate for all seeds": Case(f"{LINE} --learning-rate 1e30 --seeds 2 --quiet", ("not finite", "learning rate"), status=3),
    "label out of range": Case("train tiny/faulty --fault labels", ("labels", "10", "[0, 9]")),
    "empty graph": Case("train tiny/faulty --fault graph", ("graph", "at least one row", "got none")),
    "edge to no node": Case("train tiny/faulty --fault edges", ("senders", "[0, 2]", "0 to 7")),
    "no rows": Case("train tiny/faulty --fault rows", ("at least one row",)),
    "averaged loss": Case("train tiny/faulty --fault loss", ("one value an example", "scalar", "leave the averaging")),
    # data
    "missing data without a network": Case(_no_network, ("nowhere", "hello.txt is missing", "DLJAX_DATA", "127.0.0.1")),
    "corrupted download": Case(_corrupted_download, ("corrupted", "hello.txt", "checksum")),
    "damaged file of the user's": Case(_damaged_file, ("hello.txt", "size", "5 bytes")),
    "damaged file to get": Case(_damaged_check, ("hello.txt", "size", "5 bytes")),
    "no such data set": Case("data get fashon-mnist", ("'fashon-mnist'", "did you mean 'fashion-mnist'")),
    "data without an action": Case("data", ("list, get or check",)),
    "data with another action": Case("data fetch digits", ("list, get or check", "'fetch'")),
    "data get without a name": Case("data get", ("name a data set", "dljax data list")),
    # folders
    "folder with a run": Case(lambda place: f"{LINE} --out {place.run()}", ("done", "already holds a run", "resume it or choose another")),
    "folder with another recipe's run": Case(lambda place: f"train tiny/never --out {place.run()}", ("tiny/line", "choose another folder")),
    "folder with a sweep's run": Case(
        lambda place: f"sweep tiny/line --seeds 2 --out {place.run()}", ("already holds a run", "choose another folder")
    ),
    "file for a folder": Case(lambda place: f"{LINE} --out {place.file('taken')}", ("taken", "choose a writable folder")),
    "folder that cannot be made": Case(lambda place: f"{LINE} --out {place.file('taken')}/run", ("taken/run", "choose a writable folder")),
    "folder in use": Case(_used_by_another, ("another process", "busy", "choose another folder")),
    "resume nothing": Case("resume", ("give the folder of a run", "dljax runs")),
    "resume no folder": Case("resume nowhere", ("'nowhere'", "dljax runs")),
    "resume an empty folder": Case(lambda place: ((place.folder / "empty").mkdir(), "resume empty")[-1], ("no run in 'empty'", "dljax runs")),
    "resume a damaged config": Case(_resume_with('{"format": 1,'), ("config.json is damaged", "restore it")),
    "resume a config of the future": Case(_resume_changed(format=99), ("format 99", "reads format 1")),
    "resume a run of a script": Case(_resume_changed(recipe=None), ("not started by `dljax train`", "fit(..., resume=True)")),
    "resume a recipe that is gone": Case(_resume_changed(recipe="tiny/gone"), ("'tiny/gone'", "dljax list")),
    "resume an option that is gone": Case(_resume_changed(options={"depth": 3}), ("depth", "tiny/line")),
    "resume with another seed": Case(_resume_changed(seed=7), ("another run", "key", "choose another folder")),
    "resume with fewer steps": Case(lambda place: f"resume {place.run()} --steps 10", ("--steps 10", "20 already", "at least 20")),
    "resume a truncated checkpoint": Case(_truncated_checkpoint, ("is damaged", "train again into another folder")),
    "report nothing": Case("report", ("give run folders", "dljax runs")),
    "report no folder": Case("report nowhere", ("'nowhere'", "give the folder of a run")),
    "report no run": Case(lambda place: ((place.folder / "empty").mkdir(), "report empty")[-1], ("'empty'", "no run")),
    "runs nowhere": Case("runs nowhere", ("'nowhere'", "give one that holds runs")),
    # verify, list, sweep
    "verify nothing": Case("verify", ("--chapter", "--all")),
    "verify a name and all": Case("verify tiny/line --all", ("tiny/line", "--all", "leave one out")),
    "verify no match": Case("verify nothing/*", ("'nothing/*'", "dljax list")),
    "verify no such recipe": Case("verify tiny/lime", ("'tiny/lime'", "did you mean 'tiny/line'")),
    "verify no such chapter": Case("verify --chapter 77", ("chapter 77", "dljax list")),
    "verify no such row": Case("verify --row 77.7", ("row 77.7", "dljax list")),
    "verify zero seeds": Case("verify tiny/line --seeds 0", ("--seeds", ">= 1", "got 0")),
    "verify what nothing reports": Case("verify tiny/faulty --quiet", ("'unheard'", "error")),
    "verify without a table": Case(_no_results, ("README.md", "<!-- results -->", "add them")),
    "list no such chapter": Case("list --chapter 77", ("chapter 77",)),
    "sweep nothing": Case("sweep tiny/line", ("nothing varies", "--seeds 4")),
    "sweep a misspelt option": Case("sweep tiny/line --learnin-rate 1,2", ("--learnin-rate", "did you mean --learning-rate")),
    "sweep text": Case("sweep tiny/line --learning-rate 0.1,fast", ("--learning-rate", "a number", "'fast'")),
    "sweep a negative rate": Case("sweep tiny/line --learning-rate 0.1,-1.0", ("learning_rate", "(0, inf", "-1.0")),
    "sweep a value twice": Case("sweep tiny/line --learning-rate 0.1,0.1", ("--learning-rate", "same value twice", "0.1,0.1")),
    "sweep a flag": Case("sweep tiny/line --halve yes,no", ("--halve", "true,false", "'yes'")),
    "sweep by magic": Case("sweep tiny/line --learning-rate 0.1,0.2 --batching magic", ("batching", "'auto'", "'magic'")),
    # export, bench
    "export nothing": Case("export", ("give the folder of a run",)),
    "export no run": Case("export nowhere", ("'nowhere'", "dljax runs")),
    "export no such function": Case(lambda place: f"export {place.run()} --function dream", ("'dream'", "predict")),
    "export a member of a single run": Case(lambda place: f"export {place.run()} --member 3", ("one run", "leave member out")),
    "bench outside a checkout": Case(_no_benchmarks, ("no benchmarks/", "checkout")),
}


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_gives_one_message_with_the_value_and_the_remedy(name, dljax, workplace, monkeypatch, request):
    case = CASES[name]
    args = case.args if isinstance(case.args, str) else case.args(Place(workplace, monkeypatch, request))
    before = _contents(workplace)
    called = dljax(*args.split())
    assert called.status == case.status, called.err
    messages = re.split(r"^dljax(?=[ :])", called.err, flags=re.MULTILINE)[1:]
    assert len(messages) == 1, called.err
    assert all(part in messages[0] for part in case.says), called.err
    assert "Traceback" not in called.err
    assert before.items() <= _contents(workplace).items(), "something that was there has changed"
    if case.status == 2:
        left = sorted(str(path) for path in workplace.glob("runs/*/*"))
        assert not left, f"a folder is left behind: {left}"


def test_there_are_at_least_forty_mistakes():
    assert len(CASES) >= 40


def _contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock" and "cache" not in path.parts)
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _bad_options() -> list[tuple[str, str, str]]:
    """Of every recipe that ships: counts of zero (but of pixels to shift by, and of a remainder), and rates that are negative or infinite."""
    counts = [
        (name, option, "0")
        for name, recipe in recipes.RECIPES.items()
        for option, value in recipe.options.items()
        if type(value) is int and value > 0 and option not in ("shift", "held_out")
    ]
    rates = [
        (name, "learning_rate", value)
        for name, recipe in recipes.RECIPES.items()
        if "learning_rate" in recipe.options
        for value in ("-0.1", "0", "inf")
    ]
    return counts + rates


@pytest.mark.parametrize(("name", "option", "value"), _bad_options())
def test_every_recipe_refuses_options_that_make_no_sense(name, option, value, dljax, workplace):
    short = () if option == "steps" else ("--steps", "1")  # should it be accepted after all
    called = dljax("train", name, f"--{option.replace('_', '-')}", value, *short)
    if "is missing" in called.err:
        pytest.skip(f"the data of {name} are not at hand")
    assert called.status == 2
    assert re.search(rf"{option}s?\b|length", called.err), called.err
    assert f"got {value}" in called.err or f"got {float(value)}" in called.err or f"{option}={value}" in called.err, called.err
    assert not list(workplace.glob("runs/*/*"))
