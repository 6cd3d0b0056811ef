"""The command line: `dljax COMMAND ...`. A command is a module of this folder, imported when it is asked for: `dljax --help` imports no jax."""

import importlib
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches

from dljax import __version__
from dljax.cli.status import BROKEN_PIPE, DONE, INTERRUPTED, UsageError, explain

__all__ = ["main"]

_COMMANDS = {
    "list": ("listing", "recipes: what they train, on what, and what they claim"),
    "train": ("train", "train a recipe; every option of the recipe is an option of the command"),
    "resume": ("resume", "go on with a run that was killed or interrupted, or extend it"),
    "sweep": ("sweep", "train a recipe over several values of its options and several seeds"),
    "verify": ("verify", "train recipes and compare them with their targets"),
    "report": ("report", "write the HTML report of a run again, or compare several"),
    "runs": ("runs", "run folders: how far they came and what they reached"),
    "data": ("data", "data sets: list, get, check"),
    "bench": ("bench", "the side-by-side benchmarks of a checkout"),
    "export": ("export", "what a run has learned as StableHLO and safetensors"),
    "doctor": ("doctor", "versions, devices, caches, data, and what to do about what is missing"),
}

_HELP = f"""usage: dljax COMMAND [OPTIONS]

{chr(10).join(f"  {name:8} {what}" for name, (_, what) in _COMMANDS.items())}

  dljax COMMAND --help      the options of a command; `dljax train NAME --help` has those of the recipe
  dljax --version           {__version__}

--debug (or DLJAX_DEBUG=1) shows where an error comes from; --json prints what a table shows as JSON.
Exit status: 0 done, 1 a target was missed, 2 bad usage, 3 not finite, 130 interrupted and saved.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
      argv: what follows `dljax`; the process's own arguments where None.
    Returns:
      The exit status: 0 done, 1 a target was missed, 2 bad usage, 3 not finite, 130 interrupted and saved.

    >>> main(["--version"])
    dljax 0.1.0
    0
    """
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args or os.environ.get("DLJAX_DEBUG", "") not in ("", "0")
    try:
        status = _run(args)
        sys.stdout.flush()
        return status
    except SystemExit as exit_:  # from --help
        return int(exit_.code or DONE)
    except KeyboardInterrupt:
        print("dljax: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Python flushes at exit once more: give it somewhere to write.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Exception as error:
        return explain(error, debug=debug)


def _run(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help", "help"):
        print(_HELP, end="")
        return DONE
    if args[0] == "--version":
        print(f"dljax {__version__}")
        return DONE
    name, *rest = args
    if name not in _COMMANDS:
        close = get_close_matches(name, _COMMANDS, n=1, cutoff=0.5)
        meant = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(_COMMANDS)}"
        raise UsageError(f"no command {name!r}; {meant}")
    if name not in ("train", "resume"):  # there it is an option of its own
        rest = [arg for arg in rest if arg != "--debug"]
    return importlib.import_module(f"dljax.cli.{_COMMANDS[name][0]}").main(rest)
