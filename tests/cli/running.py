"""Commands in a process of their own, and what they leave in a run folder."""

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
WITH_TINY = (
    f"import sys; sys.path.insert(0, {str(HERE)!r}); import tiny_recipes; tiny_recipes.register(); from dljax.cli import main; sys.exit(main())"
)


def in_process(*args: str, code: str = WITH_TINY, **kwargs) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", code, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs)


def result(folder: str) -> dict:
    return json.loads(Path(folder, "result.json").read_text())


def rows(folder: str, name: str = "metrics.jsonl") -> list[dict]:
    return [json.loads(line) for line in Path(folder, name).read_text().splitlines()]
