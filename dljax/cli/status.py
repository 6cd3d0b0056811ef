"""Exit statuses, and how an error becomes one clear message and a status."""

import sys
import traceback

DONE, MISSED, USAGE, NONFINITE, INTERNAL, INTERRUPTED, BROKEN_PIPE = 0, 1, 2, 3, 70, 130, 141


class UsageError(ValueError):
    """Something asked for that cannot be done: the message names the value and the remedy."""


def explain(error: BaseException, *, debug: bool = False) -> int:
    """Print an error as one message on stderr and return the exit status that it stands for.

    Args:
      debug: whether to print the traceback first.

    >>> explain(UsageError("no"))
    2
    """
    if debug:
        traceback.print_exception(error)
    status = _status(error)
    message = " ".join(str(error).split()) if status == INTERNAL else str(error).strip()
    if "RESOURCE_EXHAUSTED" in message:
        status, message = (
            USAGE,
            f"the device has not enough memory ({message.splitlines()[0][:200]}); use a smaller batch or model, or shard it with --mesh",
        )
    elif status == INTERNAL:
        message = f"internal error, please report it with the traceback that --debug shows: {type(error).__name__}: {message}"
    elif isinstance(error, KeyError) or not message:
        message = f"{type(error).__name__}: {message}"
    elif isinstance(error, OSError) and error.filename is not None:
        message = f"{error.filename}: {error.strerror or message}"
    elif not debug and not _is_ours(error):
        message += " (--debug shows where)"
    print(message if message.startswith("dljax ") else f"dljax: {message}", file=sys.stderr)
    return status


def _status(error: BaseException) -> int:
    if isinstance(error, FloatingPointError):
        return NONFINITE
    if isinstance(error, ValueError | TypeError | OSError | ImportError):
        return USAGE
    is_own_kind = type(error).__module__.startswith("dljax.")
    return USAGE if is_own_kind else INTERNAL


def _is_ours(error: BaseException) -> bool:
    """Whether dljax raised it, so that its message speaks of what the user gave."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return type(error).__module__.startswith("dljax.") or not frames or frames[-1][0].f_globals.get("__name__", "").startswith("dljax")
