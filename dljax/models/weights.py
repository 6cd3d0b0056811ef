"""Weights in and out: the tensors of PyTorch and Hugging Face under the names of dljax's trees, and back, bit for bit.

A family says in one list of `Weight` how its tensors are called there, where they stand here, and how they lie in memory.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dljax.core.checks import check_choice
from dljax.core.tree import named_leaves
from dljax.models.tensor_files import read_tensors, write_tensors
from dljax.nn.model import Variables

__all__ = ["Weight", "export_weights", "import_weights", "read_tensors", "write_tensors"]

LAYOUTS = ("same", "transposed", "convolution")


class Weight(NamedTuple):
    """One tensor of a file and its place in our variables.

    Attributes:
      name: its name in the file. Each `{}` is a number that counts from 0, such as a layer's, and a leading axis here: `encoder.layer.{}.norm.weight`
        is stacked to `[L, ...]`.
      path: its path in `params`, or in another collection that then comes first: `blocks/attention/query/kernel`, `batch_stats/bn/mean`.
        Two weights with one path are tied: a file may have both, if they are equal, and the first is written. "": a buffer that a file may hold and
        that is of no use here; it is neither asked for nor written.
      layout: "same"; "transposed", torch's Linear [out, in] here [in, out]; "convolution", torch's [O, I/groups, *window] here
        [*window, I/groups, O].
      part: `(i, n)`, where the file has n of our leaves as one tensor, side by side along the outputs, and this is the i-th of them: queries, keys
        and values of GPT-2, the gates of a recurrent net.

    >>> Weight("encoder.layer.{}.output.dense.weight", "blocks/down/kernel", "transposed").layout
    'transposed'
    """

    name: str
    path: str
    layout: str = "same"
    part: tuple[int, int] = (0, 1)


def import_weights(
    tensors: Mapping[str, Any],
    weights: Sequence[Weight],
    like: Variables,
    *,
    prefixes: Sequence[str] = (),
    ignore: Sequence[str] = (),
    keep: Sequence[str] = (),
    dtype: Any = None,
) -> Variables:
    """Variables of a model, of the tensors of a file.

    Args:
      tensors: `name -> array`, as `read_tensors` gives them.
      weights: what they are called, and where they go.
      like: variables of the model, or their shapes from `jax.eval_shape(model.init, ...)`.
      prefixes: beginnings of names that may be there or not, such as "bert.", in the file as in the list.
      ignore: patterns (`cls.*`) of names in the file that are left out.
      keep: patterns (`head/*`) of paths that stay as they are in `like`: a new head on a trained body.
      dtype: of the floating-point leaves; None keeps each as it is in the file.
    Returns:
      A tree like `like`.
    Raises:
      ValueError: tensors that are missing, too many, of another shape, or tied here and unequal there; all of them in one message, with shapes.
        A 64-bit tensor without JAX's 64 bits.

    >>> like = {"params": {"dense": {"kernel": jnp.zeros((3, 2)), "bias": jnp.zeros(2)}}}
    >>> weights = [Weight("fc.weight", "dense/kernel", "transposed"), Weight("fc.bias", "dense/bias")]
    >>> tensors = {"fc.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "fc.bias": np.zeros(2, np.float32)}
    >>> import_weights(tensors, weights, like)["params"]["dense"]["kernel"].tolist()
    [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
    """
    held: dict[str, tuple[str, np.ndarray]] = {}
    problems = []
    for name, array in tensors.items():
        if not any(fnmatchcase(name, pattern) for pattern in ignore):
            plain = _without(prefixes, name)
            if plain in held:
                problems.append(f"twice: {held[plain][0]} and {name} are one without their prefixes {', '.join(map(repr, prefixes))}")
            held[plain] = (name, np.asarray(array))
    leaves = dict(named_leaves(like))
    groups = _by_path(weights, leaves)
    asked, result = set(), {}
    for path, leaf in leaves.items():
        if _is_in(path, keep):
            if isinstance(leaf, jax.ShapeDtypeStruct):
                raise ValueError(f"import_weights: {path} is to be kept, so like must hold its values, got its shape {leaf.shape} alone")
            result[path] = leaf
        elif path not in groups:
            problems.append(f"unnamed: {path}, shape {tuple(leaf.shape)}")
        else:
            parts: list[np.ndarray] = []
            for index, names, shape in _places(groups[path], tuple(leaf.shape)):
                plain_names = [(weight, name, _without(prefixes, name)) for weight, name in names]
                asked |= {plain for _, _, plain in plain_names}
                found = [(weight, *held[plain]) for weight, _, plain in plain_names if plain in held]
                wrong = _misfits(found, names[0], shape, _at(path, index))
                problems += wrong
                if not wrong:
                    parts.append(_to_ours(found[0][0], found[0][2]))
            if len({part.dtype for part in parts}) > 1:
                problems.append(f"of several types: {groups[path][0].name} is {' and '.join(sorted({str(part.dtype) for part in parts}))}")
            elif not problems:
                result[path] = _as_leaf(np.stack(parts).reshape(leaf.shape) if "{}" in groups[path][0].name else parts[0], path, dtype)
    buffers = [re.compile(re.escape(_without(prefixes, weight.name)).replace(r"\{\}", r"\d+")) for weight in weights if not weight.path]
    problems += [
        f"surplus: {name}, shape {array.shape}"
        for plain, (name, array) in held.items()
        if plain not in asked and not any(buffer.fullmatch(plain) for buffer in buffers)
    ]
    if problems:
        raise ValueError("import_weights: the tensors do not fit the model:\n  " + "\n  ".join(sorted(problems)))
    return jax.tree.unflatten(jax.tree.structure(like), [result[path] for path in leaves])


def export_weights(variables: Variables, weights: Sequence[Weight]) -> dict[str, np.ndarray]:
    """The tensors that a file of the other library holds: the inverse of `import_weights`.

    Args:
      variables: of the model.
      weights: the list that `import_weights` takes.
    Returns:
      `name -> array`, bit for bit what came in; of tied names the first.
    Raises:
      ValueError: a leaf that the list does not name, or a name without a leaf.

    >>> variables = {"params": {"dense": {"kernel": jnp.array([[0.0, 3.0], [1.0, 4.0]])}}}
    >>> export_weights(variables, [Weight("fc.weight", "dense/kernel", "transposed")])["fc.weight"].tolist()
    [[0.0, 1.0], [3.0, 4.0]]
    """
    leaves = dict(named_leaves(variables))
    groups = _by_path(weights, leaves)
    unnamed = [f"{path}, shape {leaf.shape}" for path, leaf in leaves.items() if path not in groups]
    if unnamed:
        raise ValueError("export_weights: weights has no name for:\n  " + "\n  ".join(unnamed))
    parts: dict[str, dict[int, np.ndarray]] = {}
    number = {}
    for path, group in groups.items():
        array = np.asarray(leaves[path])
        for index, names, shape in _places(group, array.shape):
            weight, name = names[0]
            parts.setdefault(name, {})[weight.part[0]] = array[index].transpose(np.argsort(_axes(weight, len(shape))))
            number[name] = weight.part[1], -1 if weight.layout == "same" else 0
    incomplete = [f"{name}: {sorted(found)} of {number[name][0]}" for name, found in parts.items() if len(found) != number[name][0]]
    if incomplete:
        raise ValueError("export_weights: weights names not all parts of:\n  " + "\n  ".join(incomplete))
    return {
        name: found[0] if len(found) == 1 else np.concatenate([found[place] for place in range(len(found))], number[name][1])
        for name, found in parts.items()
    }


def _by_path(weights: Sequence[Weight], leaves: Mapping[str, Any]) -> dict[str, list[Weight]]:
    collections = {path.partition("/")[0] for path in leaves}
    groups: dict[str, list[Weight]] = {}
    for weight in weights:
        check_choice(weight.name, "layout", weight.layout, LAYOUTS)
        if weight.path:
            path = weight.path if weight.path.partition("/")[0] in collections else f"params/{weight.path}"
            groups.setdefault(path, []).append(weight)
    astray = [f"{group[0].name} goes to {path}" for path, group in groups.items() if path not in leaves]
    if astray:
        raise ValueError("weights: the model has no such leaves:\n  " + "\n  ".join(astray) + f"\nit has {', '.join(leaves)}")
    return groups


def _places(group: Sequence[Weight], shape: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], list[tuple[Weight, str]], tuple[int, ...]]]:
    """For each tensor that a leaf is made of: where it stands on the stacked axes, what it may be called, and its shape here."""
    num_stacked = group[0].name.count("{}")
    for index in np.ndindex(shape[:num_stacked]):
        yield index, [(weight, weight.name.format(*index)) for weight in group], shape[num_stacked:]


def _misfits(found: Sequence[tuple[Weight, str, np.ndarray]], first: tuple[Weight, str], shape: tuple[int, ...], where: str) -> list[str]:
    """What is wrong with the tensors found for one place: none, of another shape, or tied and unequal."""
    if not found:
        return [f"missing: {first[1]}, shape {_file_shape(first[0], shape)}, for {where}"]
    wrong = [
        f"misshapen: {name} has shape {array.shape}, {_file_shape(weight, shape)} is expected for {where}"
        for weight, name, array in found
        if array.shape != _file_shape(weight, shape)
    ]
    if wrong:
        return wrong
    ours = [_to_ours(weight, array).tobytes() for weight, _, array in found] if len(found) > 1 else []
    return [
        f"untied: {found[0][1]} and {name} differ, and both are {where}"
        for (_, name, _), numbers in zip(found[1:], ours[1:], strict=True)
        if numbers != ours[0]
    ]


def _axes(weight: Weight, rank: int) -> tuple[int, ...]:
    """The axes of the file in the order in which they stand here."""
    least = {"same": 0, "transposed": 2, "convolution": 3}[weight.layout]
    if rank < least or (weight.layout == "transposed" and rank > 2):
        raise ValueError(f"weights: {weight.name} of rank {rank} cannot be {weight.layout!r}")
    if weight.layout == "same":
        return tuple(range(rank))
    return (*range(2, rank), 1, 0)


def _to_ours(weight: Weight, array: np.ndarray) -> np.ndarray:
    array = array.transpose(_axes(weight, array.ndim))
    place, num_parts = weight.part
    return array if num_parts == 1 else np.split(array, num_parts, -1)[place]


def _file_shape(weight: Weight, shape: tuple[int, ...]) -> tuple[int, ...]:
    if weight.part[1] > 1:
        shape = (*shape[:-1], shape[-1] * weight.part[1])
    return tuple(shape[axis] for axis in np.argsort(_axes(weight, len(shape))))


def _as_leaf(array: np.ndarray, path: str, dtype: Any) -> jax.Array:
    if dtype is not None and jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(dtype)
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        raise ValueError(
            f"import_weights: {path} is {array.dtype}, which JAX would round without its 64 bits; "
            "run under jax.enable_x64(True), or give a dtype such as jnp.float32"
        )
    return jnp.asarray(array)


def _without(prefixes: Sequence[str], name: str) -> str:
    return next((name.removeprefix(prefix) for prefix in prefixes if name.startswith(prefix)), name)


def _is_in(path: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(candidate, pattern) for pattern in patterns for candidate in (path, path.removeprefix("params/")))


def _at(path: str, index: tuple[int, ...]) -> str:
    return f"{path}[{', '.join(map(str, index))}]" if index else path
