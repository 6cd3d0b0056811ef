"""Molecules as graphs: atoms and bonds read from SMILES by rdkit."""

from collections.abc import Sequence
from typing import Any

import jraph
import numpy as np

_SYMBOLS = ("C", "N", "O", "F", "S", "Cl", "Br", "I", "P", "B", "Si", "Na", "K")
_DEGREES, _HYDROGENS, _CHARGES = range(6), range(5), (-1, 0, 1)
_HYBRIDISATIONS = ("SP", "SP2", "SP3")
_BONDS = ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC")
_STEREO = ("STEREOZ", "STEREOE")

ATOM_FEATURES = (
    *(f"is {symbol}" for symbol in (*_SYMBOLS, "another element")),
    *(f"has {num} neighbours" for num in (*_DEGREES, "more")),
    *(f"has {num} hydrogens" for num in (*_HYDROGENS, "more")),
    *(f"has charge {charge}" for charge in (*_CHARGES, "beyond")),
    *(f"is {kind}" for kind in (*_HYBRIDISATIONS, "otherwise hybridised")),
    "is aromatic", "is in a ring", "mass in 100 u",
)  # fmt: skip
"""What the numbers of an atom say."""

BOND_FEATURES = (*(f"is {kind.lower()}" for kind in (*_BONDS, "OTHER")), "is conjugated", "is in a ring", "is Z", "is E")
"""What the numbers of a bond say."""


def smiles_to_graph(smiles: str) -> jraph.GraphsTuple:
    """A molecule's atoms and bonds as a graph of NumPy arrays. Hydrogens are counted, not drawn.

    Args:
      smiles: the molecule's structure, such as "CCO" for ethanol.
    Returns:
      One graph: `nodes` float32 [N, D], as `ATOM_FEATURES` says, in the order of the SMILES; `edges` float32 [E, D'], as `BOND_FEATURES` says, each
      bond in both directions and sorted by receiver. `globals` is None.
    Raises:
      ValueError: no SMILES, with rdkit's reason; or a molecule without atoms. TypeError: no string. ModuleNotFoundError: rdkit is not installed.
    Source: the features of Gilmer et al. (2017), Neural message passing for quantum chemistry, table 1, and of MoleculeNet, as far as they need no
      coordinates.

    >>> graph = smiles_to_graph("CCO")
    >>> graph.senders.tolist(), graph.receivers.tolist(), graph.nodes.shape == (3, len(ATOM_FEATURES))
    ([1, 0, 2, 1], [0, 1, 1, 2], True)
    >>> [ATOM_FEATURES[i] for i in graph.nodes[2, :-1].nonzero()[0]]
    ['is O', 'has 1 neighbours', 'has 1 hydrogens', 'has charge 0', 'is SP3']
    """
    molecule = _molecule(smiles)
    nodes = np.array([_atom_features(atom) for atom in molecule.GetAtoms()], np.float32)
    bonds = list(molecule.GetBonds())
    ends = np.array([(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in bonds], np.int32).reshape(-1, 2)
    senders, receivers = np.concatenate([ends, ends[:, ::-1]]).T
    edges = np.array([_bond_features(bond) for bond in bonds], np.float32).reshape(-1, len(BOND_FEATURES))
    order = np.lexsort((senders, receivers))
    return jraph.GraphsTuple(
        nodes=nodes,
        edges=np.concatenate([edges, edges])[order],
        senders=senders[order],
        receivers=receivers[order],
        globals=None,
        n_node=np.array([len(nodes)], np.int32),
        n_edge=np.array([len(order)], np.int32),
    )


def _molecule(smiles: Any) -> Any:
    if not isinstance(smiles, str):
        raise TypeError(f"smiles_to_graph: smiles must be a string, got {type(smiles).__name__}")
    try:
        from rdkit import Chem, rdBase
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("smiles_to_graph: molecules are read by rdkit, which is not installed; `pip install 'dljax[chem]'`") from error
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles, sanitize=False)
        problems = [] if molecule is None else [problem.Message() for problem in Chem.DetectChemistryProblems(molecule)]
        if molecule is None or problems:
            raise ValueError(f"smiles_to_graph: smiles {smiles!r} is no molecule: {'; '.join(problems) or 'its syntax cannot be read'}")
        Chem.SanitizeMol(molecule)
        Chem.AssignStereochemistry(molecule, cleanIt=True)
    if not molecule.GetNumAtoms():
        raise ValueError(f"smiles_to_graph: smiles {smiles!r} has no atoms")
    return molecule


def _atom_features(atom: Any) -> list[float]:
    return [
        *_one_hot(atom.GetSymbol(), _SYMBOLS),
        *_one_hot(atom.GetDegree(), _DEGREES),
        *_one_hot(atom.GetTotalNumHs(), _HYDROGENS),
        *_one_hot(atom.GetFormalCharge(), _CHARGES),
        *_one_hot(str(atom.GetHybridization()), _HYBRIDISATIONS),
        float(atom.GetIsAromatic()),
        float(atom.IsInRing()),
        atom.GetMass() / 100,
    ]


def _bond_features(bond: Any) -> list[float]:
    stereo = str(bond.GetStereo())
    kind = _one_hot(str(bond.GetBondType()), _BONDS)
    return [*kind, float(bond.GetIsConjugated()), float(bond.IsInRing()), *(float(stereo == name) for name in _STEREO)]


def _one_hot(value: Any, known: Sequence[Any]) -> list[float]:
    """1 at the value's place, the last place for all that are not known."""
    return [float(value == other) for other in known] + [float(value not in known)]
