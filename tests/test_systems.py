"""Which tests and recipes show each system of the textbook: SYSTEMS.md, made of their names; `python tests/test_systems.py` writes it anew."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import dljax.recipes  # noqa: F401 (registers them)
from dljax.core import RECIPES

HERE = Path(__file__).parent
TABLE = HERE / "SYSTEMS.md"
SYSTEMS = {
    "2.1": "fully connected nets, forward and backpropagation written out",
    "2.2": "computation graphs: values forward, adjoints backward, operation counts",
    "2.3": "activations and their derivatives",
    "2.4": "losses and their gradients",
    "2.5": "initialisation, signal propagation through depth",
    "2.6": "normalisation",
    "2.7": "gradient check, matrix calculus",
    "3.1": "first-order optimisation, schedules, clipping, averaging",
    "3.2": "line searches",
    "3.3": "second-order optimisation, least squares, natural gradient",
    "3.4": "optimisation without gradients, Hebbian learning",
    "4.1": "penalties and proximal steps",
    "4.2": "dropout, noise, averaging, ensembles, calibration",
    "4.3": "augmentation",
    "4.4": "generalisation: bias and variance, cross-validation, double descent",
    "5.1": "convolution and pooling",
    "5.2": "convolutional networks, continuous depth",
    "5.3": "seeing inside: filters, saliency, Grad-CAM, feature visualisation",
    "6.1": "recurrent nets, backpropagation through time",
    "6.2": "sequence to sequence: attention, decoders",
    "6.3": "embeddings of words",
    "6.4": "language models of characters",
    "7.1": "graphs: matrices, spectrum, random walks",
    "7.2": "graph networks",
    "8.1": "autoencoding Transformers",
    "8.2": "autoregressive Transformers, generation, low-rank adaptation",
    "8.3": "sequence-to-sequence Transformers",
    "8.4": "vision Transformers, mixtures of experts, long context",
    "8.5": "tokenisers",
    "9.1": "adversarial losses",
    "9.2": "remedies for adversarial training",
    "9.3": "adversarial nets of pictures: conditions, codes, other games, judges",
    "10.1": "variational inference",
    "10.2": "variational autoencoders, diffusion",
    "10.3": "normalizing flows of continuous data",
    "10.4": "flows of discrete data: dequantisation, discrete and integer flows, autoregression",
    "10.5": "inference on manifolds",
}
COMPLETE = [row for row in SYSTEMS if row[0] in "234"]


def shown_by() -> dict[str, list[tuple[str, str]]]:
    """Row -> [(file, test)], read from the tests' names: `test_3_3_bfgs_...` shows row 3.3."""
    found = defaultdict(list)
    for path in sorted(HERE.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and (match := re.match(r"test_(\d+)_(\d+)_", node.name)):
                found[f"{match[1]}.{match[2]}"].append((path.relative_to(HERE).as_posix(), node.name))
    return found


def table() -> str:
    """The page, as Markdown."""
    tests = shown_by()
    lines = [
        "# What shows that each system works",
        "",
        "Written by `python tests/test_systems.py` from the names of the tests and the rows of the recipes.",
        "",
    ]
    for row, name in SYSTEMS.items():
        lines += [f"## {row} {name}", ""]
        recipes = sorted(recipe.name for recipe in RECIPES.values() if row in recipe.rows)
        if recipes:
            lines += [f"Recipes: {', '.join(f'`{recipe}`' for recipe in recipes)}", ""]
        for file in sorted({file for file, _ in tests[row]}):
            claims = (re.sub(r"^test_\d+_\d+_", "", test).replace("_", " ") for where, test in tests[row] if where == file)
            lines += [f"[{file}]({file})", "", *(f"- {claim}" for claim in claims), ""]
    return "\n".join(lines)


def test_every_system_of_a_finished_part_is_shown_by_a_test():
    assert [row for row in COMPLETE if not shown_by()[row]] == []


def test_every_row_in_a_name_is_a_system():
    assert sorted(set(shown_by()) - set(SYSTEMS)) == []


def test_the_table_is_that_of_today():
    assert TABLE.read_text() == table(), "run python tests/test_systems.py"


if __name__ == "__main__":
    TABLE.write_text(table())
