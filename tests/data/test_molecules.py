"""Molecules from SMILES: atoms, bonds and rings as a chemist counts them; what is no molecule is refused by name."""

import numpy as np
import pytest

from dljax import data
from dljax.data import ATOM_FEATURES, BOND_FEATURES, smiles_to_graph

pytest.importorskip("rdkit")


def said(features, row):
    return {name for name, value in zip(features, row, strict=True) if value == 1}


def test_7_2_acetic_acid_is_what_its_structure_says():
    graph = smiles_to_graph("CC(=O)O")
    assert [said(ATOM_FEATURES, row) for row in graph.nodes] == [
        {"is C", "has 1 neighbours", "has 3 hydrogens", "has charge 0", "is SP3"},
        {"is C", "has 3 neighbours", "has 0 hydrogens", "has charge 0", "is SP2"},
        {"is O", "has 1 neighbours", "has 0 hydrogens", "has charge 0", "is SP2"},
        {"is O", "has 1 neighbours", "has 1 hydrogens", "has charge 0", "is SP2"},
    ]
    np.testing.assert_allclose(graph.nodes[:, -1], [0.12011, 0.12011, 0.15999, 0.15999])
    bonds = {(int(s), int(r)): said(BOND_FEATURES, row) for s, r, row in zip(graph.senders, graph.receivers, graph.edges, strict=True)}
    single, double = {"is single", "is conjugated"}, {"is double", "is conjugated"}
    assert bonds == {(0, 1): {"is single"}, (1, 0): {"is single"}, (1, 2): double, (2, 1): double, (1, 3): single, (3, 1): single}
    assert (np.diff(graph.receivers) >= 0).all()


def test_benzene_is_a_ring_of_six_alike_and_spelling_does_not_matter():
    kekule, aromatic = smiles_to_graph("C1=CC=CC=C1"), smiles_to_graph("c1ccccc1")
    for one, other in zip(kekule[:4], aromatic[:4], strict=True):
        assert np.shape(one) == np.shape(other)
    np.testing.assert_array_equal(kekule.nodes, np.repeat(aromatic.nodes[:1], 6, 0))
    np.testing.assert_array_equal(kekule.edges, np.repeat(aromatic.edges[:1], 12, 0))
    assert said(BOND_FEATURES, aromatic.edges[0]) == {"is aromatic", "is conjugated", "is in a ring"}


def test_the_two_sides_of_a_double_bond_are_told_apart():
    sides = [said(BOND_FEATURES, smiles_to_graph(smiles).edges.max(0)) for smiles in ("F/C=C/F", "F/C=C\\F")]
    assert "is E" in sides[0]
    assert "is Z" in sides[1]


def test_a_single_atom_and_two_molecules_that_do_not_touch_are_graphs_too():
    assert smiles_to_graph("C").edges.shape == (0, len(BOND_FEATURES))
    salt = smiles_to_graph("[Na+].[Cl-]")
    assert salt.nodes.shape == (2, len(ATOM_FEATURES))
    assert salt.n_edge.tolist() == [0]
    assert {"has charge 1"} <= said(ATOM_FEATURES, salt.nodes[0])
    assert {"has charge -1"} <= said(ATOM_FEATURES, salt.nodes[1])


def test_7_2_every_molecule_of_esol_becomes_a_graph():
    try:
        esol = data.load("esol")
    except FileNotFoundError as error:
        pytest.skip(f"needs data that are not at hand: {error}")
    graphs = [smiles_to_graph(str(smiles)) for smiles in esol["smiles"][::8]]
    for graph in graphs:
        pairs = set(zip(graph.senders.tolist(), graph.receivers.tolist(), strict=True))
        assert pairs == {(receiver, sender) for sender, receiver in pairs}
        # Each atom has one element and one number of neighbours, which the edges bear out.
        degrees = np.bincount(graph.receivers, minlength=len(graph.nodes))
        first = ATOM_FEATURES.index("has 0 neighbours")
        np.testing.assert_array_equal(graph.nodes[:, first : first + 7].argmax(1), degrees)


@pytest.mark.parametrize(
    ("smiles", "error", "message"),
    [
        ("C1CC", ValueError, r"smiles 'C1CC' is no molecule: its syntax cannot be read"),
        ("CC(C)(C)(C)C", ValueError, r"'CC\(C\)\(C\)\(C\)C' is no molecule: Explicit valence for atom # 1 C, 5, is greater than permitted"),
        ("c1cccc1", ValueError, "'c1cccc1' is no molecule: Can't kekulize mol"),
        ("ethanol", ValueError, "'ethanol' is no molecule"),
        ("", ValueError, "smiles '' has no atoms"),
        (None, TypeError, "smiles must be a string, got NoneType"),
    ],
)
def test_7_2_what_is_no_molecule_is_refused_by_name(smiles, error, message, capfd):
    with pytest.raises(error, match=message):
        smiles_to_graph(smiles)
    assert capfd.readouterr().err == ""
