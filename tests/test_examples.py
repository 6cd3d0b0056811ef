"""Every example runs, with few steps. What they claim is in their first lines; the nightly script runs them whole."""

import os
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
STEPS = {
    "ch02_backpropagation": 20, "ch02_own_learner": 20, "ch03_second_order": 3, "ch04_augmentation": 2, "ch04_double_descent": 1,
    "ch12_policy_gradient": 2048,
}  # fmt: skip
# Six programs with convolutions; seven with a Transformer; eleven games; five flows.
SLOW = {"ch04_augmentation", "ch08_generation", "ch09_adversarial_remedies", "ch10_flows"}


@pytest.mark.rank_promotion
@pytest.mark.parametrize(
    "path", [pytest.param(path, id=path.stem, marks=pytest.mark.slow if path.stem in SLOW else ()) for path in sorted(EXAMPLES.glob("*.py"))]
)
def test_example_runs(path, monkeypatch):
    monkeypatch.setitem(os.environ, "STEPS", str(STEPS.get(path.stem, 10)))
    runpy.run_path(str(path), run_name="example")


def test_example_of_the_readme_runs():
    text = (EXAMPLES.parent / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    assert len([line for line in code.splitlines() if line.strip()]) <= 16
    exec(compile(code, "README.md", "exec"), {})
