"""Parsers of small tables that come with scikit-learn."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def parse_breast_cancer(files: Mapping[str, bytes]) -> dict[str, Any]:
    """scikit-learn's 569 fine-needle aspirates of breast masses: x float64 [569, 30], measurements of the cell nuclei, y int32 [569], 1 for benign.

    The columns are the mean, the standard error and the worst of ten measurements, ten by ten.
    Source: Street, Wolberg and Mangasarian (1993), Nuclear feature extraction for breast tumor diagnosis.
    """
    return _table("breast-cancer", "breast_cancer.csv", 569, 30)


def parse_iris(files: Mapping[str, bytes]) -> dict[str, Any]:
    """scikit-learn's 150 iris flowers: x float64 [150, 4], length and width of sepal and petal, cm, y int32 [150], the species.

    Source: Fisher (1936), The use of multiple measurements in taxonomic problems.
    """
    return _table("iris", "iris.csv", 150, 4)


def _table(name: str, file: str, num_rows: int, num_columns: int) -> dict[str, Any]:
    # Not through sklearn.datasets: importing it takes seconds.
    package = importlib.util.find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise FileNotFoundError(f"{name}: it comes with scikit-learn, which is not installed; `pip install scikit-learn`")
    text = Path(package.submodule_search_locations[0], "datasets", "data", file).read_text()
    table = np.loadtxt(text.splitlines()[1:], np.float64, delimiter=",")
    if table.shape != (num_rows, num_columns + 1):
        raise ValueError(f"{name}: scikit-learn's {file} should be [{num_rows}, {num_columns + 1}], got {list(table.shape)}")
    return {"x": table[:, :-1], "y": table[:, -1].astype(np.int32)}
