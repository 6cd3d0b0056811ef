"""Options of the command line from signatures and docstrings: tyro parses, and every mistake becomes one message with its remedy."""

import contextlib
import inspect
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, make_dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from dljax.cli.status import UsageError

POSITIONAL = "positional"
"""`Annotated[str, POSITIONAL]` marks a parameter of a command as one that is given without its name."""


def parse(prog: str, args: Sequence[str], *parts: Callable[..., Any], about: str = "") -> list[dict[str, Any]]:
    """The keyword arguments of each part, from a command line.

    The parameters of all parts become the options of one command; a name that several parts have belongs to the first of them. `--help`
    prints them and ends the command.

    Args:
      prog: the command, for messages.
      args: what follows it.
      parts: functions or dataclasses whose parameters have defaults and annotations; the section `Args:` of a docstring is the help.
      about: what `--help` says first; by default the first line of the first part's docstring.
    Raises:
      UsageError: no such option, or a value that does not fit.

    >>> def draw(*, width: int = 3, color: str = "red"): ...
    >>> parse("draw", ["--width", "5"], draw)
    [{'width': 5, 'color': 'red'}]
    >>> parse("draw", ["--widht", "5"], draw)
    Traceback (most recent call last):
    dljax.cli.status.UsageError: draw: no option --widht; did you mean --width?
    """
    owners: dict[str, int] = {}
    merged: dict[str, inspect.Parameter] = {}
    helps: dict[str, str] = {}
    for index, part in enumerate(parts):
        hints = get_type_hints(part.__init__ if inspect.isclass(part) else part, include_extras=True)
        for name, parameter in inspect.signature(part).parameters.items():
            if name not in merged:
                owners[name] = index
                merged[name] = parameter.replace(annotation=hints.get(name, type(parameter.default)))
                helps[name] = descriptions(part.__doc__).get(name, "")
    _check_names(prog, args, merged)
    first_line = (inspect.getdoc(parts[0]) or "").partition("\n")[0]
    # Nothing to parse is no reason to wait a fifth of a second for tyro.
    values = _parsed(prog, args, merged, helps, about or first_line) if args else {name: parameter.default for name, parameter in merged.items()}
    result: list[dict[str, Any]] = [{} for _ in parts]
    for name, value in values.items():
        if isinstance(value, float) and math.isnan(value):
            raise UsageError(f"{prog}: {_option(name)} must be a number, got nan; for example {_option(name)} {merged[name].default}")
        result[owners[name]][name] = value
    return result


def descriptions(doc: str | None) -> dict[str, str]:
    """What the section `Args:` or `Attributes:` of a docstring says of each name.

    >>> descriptions('''Draw.
    ...
    ... Args:
    ...   width, height: in pixels,
    ...     at least 1.
    ... Returns:
    ...   nothing: at all.
    ... ''')
    {'width': 'in pixels, at least 1.', 'height': 'in pixels, at least 1.'}
    """
    found: dict[str, str] = {}
    names: list[str] = []
    inside, margin = False, ""
    for line in inspect.cleandoc(doc or "").splitlines():
        if line.strip() and not line.startswith(" "):
            inside, margin = line.strip() in ("Args:", "Attributes:"), ""
            continue
        entry = re.match(r"( +)([\w, ]+): +(.*)", line) if inside else None
        if entry and entry[1] == (margin or entry[1]):
            margin, names = entry[1], [name.strip() for name in entry[2].split(",")]
            found.update(dict.fromkeys(names, entry[3].strip()))
        elif inside and line.strip():
            found.update({name: f"{found[name]} {line.strip()}" for name in names})
    return found


def words(annotation: Any) -> str:
    """What a value of a type is, in words.

    >>> words(int | None), words(tuple[float, ...]), words(Literal["a", "b"])
    ('a whole number', 'numbers separated by spaces', 'one of a, b')
    """
    kind = _plain(annotation)
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if get_origin(kind) in (tuple, list, Sequence):
        return {int: "whole numbers", float: "numbers"}.get(get_args(kind)[0], "values") + " separated by spaces"
    return {int: "a whole number", float: "a number", bool: "given without a value", Path: "a path"}.get(kind, "a text")


def _plain(annotation: Any) -> Any:
    """The type behind `Annotated` and `| None`."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    others = [kind for kind in get_args(annotation) if kind is not type(None)]
    return _plain(others[0]) if type(None) in get_args(annotation) and len(others) == 1 else annotation


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _check_names(prog: str, args: Sequence[str], parameters: Mapping[str, inspect.Parameter]) -> None:
    named = {name: parameter for name, parameter in parameters.items() if POSITIONAL not in getattr(parameter.annotation, "__metadata__", ())}
    known = [_option(name) for name in named]
    off = [f"--no-{option[2:]}" for option, parameter in zip(known, named.values(), strict=True) if parameter.default is True]
    for arg in args:
        given = arg.partition("=")[0].replace("_", "-")
        if not given.startswith("--") or given in (*known, *off, "--help"):
            continue
        close = get_close_matches(given, [*known, *off], n=1, cutoff=0.6)
        remedy = f"did you mean {close[0]}?" if close else f"its options are {', '.join(known)}"
        raise UsageError(f"{prog}: no option {arg.partition('=')[0]}; {remedy}")


def _parsed(prog: str, args: Sequence[str], parameters: Mapping[str, inspect.Parameter], helps: Mapping[str, str], about: str) -> dict[str, Any]:
    import tyro

    def annotated(name: str, parameter: inspect.Parameter) -> Any:
        is_positional = POSITIONAL in getattr(parameter.annotation, "__metadata__", ())
        kind = _plain(parameter.annotation)
        is_optional = parameter.default is None and kind in (int, float, str, Path)
        metavar = name.upper() if is_positional else kind.__name__.upper() if is_optional else None
        hint = "" if parameter.default is None or parameter.default is False or parameter.default in ("", ()) else None
        described = tyro.conf.arg(help=helps[name] or None, help_behavior_hint=hint, metavar=metavar)
        markers: list[Any] = [described, *([tyro.conf.Positional] if is_positional else [])]
        if parameter.default is False:
            markers.append(tyro.conf.FlagCreatePairsOff)
        return Annotated[parameter.annotation, *markers]

    fields = [(name, annotated(name, parameter), field(default_factory=partial(_same, parameter.default))) for name, parameter in parameters.items()]
    options = make_dataclass("Options", fields)
    shown = io.StringIO()
    try:
        with contextlib.redirect_stderr(shown):
            return dict(vars(tyro.cli(options, prog=prog, description=about, args=list(args))))
    except SystemExit as exit_:
        if not exit_.code:
            raise
    raise UsageError(_mistake(prog, args, parameters, shown.getvalue()))


def _same(value: Any) -> Any:
    return value


def _mistake(prog: str, args: Sequence[str], parameters: Mapping[str, inspect.Parameter], shown: str) -> str:
    """What tyro explains in a box, as one line."""
    extra = re.search(r"Unrecognized options: (.*?)[ │|]*$", shown, re.MULTILINE)
    if extra:
        return f"{prog}: {extra[1]!r} is not expected here; give options as --name value (`{prog} --help` lists them)"
    options = {_option(name): name for name in parameters}
    blamed = [options[given] for given in re.findall(r"--[a-z][\w-]*", shown) if given in options]
    if not blamed:
        return f"{prog}: the options do not fit: {' '.join(args)!r}; see `{prog} --help`"
    name = blamed[0]
    kind = parameters[name].annotation
    given = _given(args, _option(name))
    default = parameters[name].default
    example = f"; for example {_option(name)} {_example(default)}" if default not in (None, "", ()) and not isinstance(default, bool) else ""
    if not given:
        return f"{prog}: {_option(name)} needs a value, {words(kind)}{example}"
    return f"{prog}: {_option(name)} must be {words(kind)}, got {given!r}{example}"


def _example(default: Any) -> str:
    return " ".join(map(str, default)) if isinstance(default, tuple | list) else str(default)


def _given(args: Sequence[str], option: str) -> str:
    """What follows an option, up to the next one."""
    for place, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name.replace("_", "-") == option:
            rest = [value] if equals else []
            for following in args[place + 1 :]:
                if following.startswith("--"):
                    break
                rest.append(following)
            return " ".join(rest)
    return ""
