"""Values of PyTorch Geometric that the tests of graph layers compare with: run `python tests/golden/make_graphs.py` where it is installed.

For each layer: its weights in our layout and under our names, its outputs, and the gradient of their weighted sum in the nodes' features.
"""

from pathlib import Path

import numpy as np
import torch
from torch_geometric import nn

# A directed graph of eight nodes; node 7 has no edges, and 5 sends only. Two graphs for pooling: nodes 0-4 and 5-7.
SENDERS = [0, 1, 2, 0, 3, 4, 1, 2, 5, 6, 4]
RECEIVERS = [1, 0, 0, 2, 2, 3, 4, 4, 6, 3, 3]
UNDIRECTED = [(0, 1), (1, 2), (2, 0), (3, 4), (4, 5), (5, 3), (2, 3), (5, 6)]
GRAPH = [0, 0, 0, 0, 0, 1, 1, 1]
DIM, OUT, HEADS, EDGE = 5, 3, 2, 4


def main() -> None:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    edges = torch.tensor([SENDERS, RECEIVERS])
    both = torch.tensor([[*(s for s, _ in UNDIRECTED), *(r for _, r in UNDIRECTED)], [*(r for _, r in UNDIRECTED), *(s for s, _ in UNDIRECTED)]])
    features, weights = torch.randn(len(SENDERS), EDGE), torch.rand(both.shape[1])
    weights = (weights + weights.roll(len(UNDIRECTED))) / 2  # symmetric
    values = {
        "senders": SENDERS, "receivers": RECEIVERS, "edges": features, "graph": GRAPH, "both": both, "weights": weights,
        "cotangent": torch.randn(8, 16),
    }  # fmt: skip
    x = torch.randn(8, DIM, requires_grad=True)
    values["x"] = x

    def keep(name, y, params):
        (gradient,) = torch.autograd.grad((y * values["cotangent"][: y.shape[0], : y.shape[1]]).sum(), x)
        # Copies, for `perturbed` changes weights where they stand.
        values.update({f"{name}/y": y, f"{name}/dx": gradient, **{f"{name}/{path}": value.clone() for path, value in params.items()}})

    def linear(path, layer):
        return {f"{path}/kernel": layer.weight.T} | ({f"{path}/bias": layer.bias} if layer.bias is not None else {})

    for concat in (True, False):
        layer = perturbed(nn.GATConv(DIM, OUT, HEADS, concat=concat))
        vectors = torch.cat([layer.att_src, layer.att_dst])
        keep(f"gat_{concat}", layer(x, edges), {"kernel": layer.lin.weight.T, "attention": vectors, "bias": layer.bias})
    layer = perturbed(nn.GATv2Conv(DIM, OUT, HEADS, edge_dim=EDGE, add_self_loops=False))
    ours = {
        **linear("sender", layer.lin_l),
        **linear("receiver", layer.lin_r),
        **linear("edge", layer.lin_edge),
        "attention": layer.att,
        "bias": layer.bias,
    }
    keep("gatv2_edges", layer(x, edges, features), ours)
    layer = perturbed(nn.GATv2Conv(DIM, OUT, HEADS))
    keep("gatv2", layer(x, edges), {**linear("sender", layer.lin_l), **linear("receiver", layer.lin_r), "attention": layer.att, "bias": layer.bias})
    layer = perturbed(nn.TransformerConv(DIM, OUT, HEADS, edge_dim=EDGE, root_weight=False))
    parts = {"query": layer.lin_query, "key": layer.lin_key, "value": layer.lin_value, "edge": layer.lin_edge}
    keep("transformer", layer(x, edges, features), {key: value for path, part in parts.items() for key, value in linear(path, part).items()})
    for aggregation in ("mean", "sum", "max", "pool"):
        layer = perturbed(nn.SAGEConv(DIM, OUT, aggr="max" if aggregation == "pool" else aggregation, project=aggregation == "pool"))
        ours = {"neighbours/kernel": layer.lin_l.weight.T, "own/kernel": layer.lin_r.weight.T, "own/bias": layer.lin_l.bias}
        keep(f"sage_{aggregation}", layer(x, edges), ours | (linear("pool", layer.lin) if aggregation == "pool" else {}))
    network = torch.nn.Sequential(torch.nn.Linear(DIM, 6), torch.nn.ReLU(), torch.nn.Linear(6, OUT))
    layer = perturbed(nn.GINConv(network, train_eps=True))
    ours = {"layers_0/kernel": network[0].weight.T, "bias": network[0].bias, **linear("layers_1", network[2]), "epsilon": layer.eps[0]}
    keep("gin", layer(x, edges), ours)
    layer = perturbed(nn.GINEConv(network, train_eps=True, edge_dim=EDGE))
    keep("gin_edges", layer(x, edges, features), {**ours, **linear("edge", layer.lin), "epsilon": layer.eps[0]})
    for order in (1, 2, 4):
        layer = perturbed(nn.ChebConv(DIM, OUT, K=order))
        y = layer(x, both, weights, lambda_max=torch.tensor(1.7))
        keep(f"chebyshev_{order}", y, {"kernel": torch.stack([part.weight.T for part in layer.lins]), "bias": layer.bias})
    layer = perturbed(nn.GatedGraphConv(7, num_layers=3))
    with torch.no_grad():
        layer.weight[1:] = layer.weight[0]  # theirs has a matrix for each step
    keep("gated", layer(x, edges), {"kernel": layer.weight[:1], **gru(layer.rnn)})
    network = torch.nn.Sequential(torch.nn.Linear(EDGE, 6), torch.nn.ReLU(), torch.nn.Linear(6, DIM * DIM))
    layer, cell = perturbed(nn.NNConv(DIM, DIM, network, root_weight=False)), torch.nn.GRUCell(DIM, DIM)
    state = x
    for _ in range(2):
        state = cell(layer(state, edges, features), state)
    keep("edge_network", state, {**linear("edge_0", network[0]), **linear("matrix", network[2]), "bias": layer.bias, **gru(cell)})
    layer = perturbed(nn.aggr.Set2Set(DIM, processing_steps=3))
    lstm = layer.lstm
    ours = {}
    for side, kernel in (("i", lstm.weight_ih_l0), ("h", lstm.weight_hh_l0)):
        ours.update({f"cell/{side}{gate}/kernel": part.T for gate, part in zip("ifgo", kernel.chunk(4), strict=True)})
    ours.update({f"cell/h{gate}/bias": part for gate, part in zip("ifgo", (lstm.bias_ih_l0 + lstm.bias_hh_l0).chunk(4), strict=True)})
    keep("set2set", layer(x, torch.tensor(GRAPH)), ours)
    gate, value = torch.nn.Linear(DIM, 1), torch.nn.Linear(DIM, OUT)
    keep("attention_pooling", nn.aggr.AttentionalAggregation(gate, value)(x, torch.tensor(GRAPH)), {**linear("gate", gate), **linear("value", value)})
    arrays = {name: value.detach().numpy() if torch.is_tensor(value) else np.array(value) for name, value in values.items()}
    np.savez_compressed(Path(__file__).with_name("graphs.npz"), **arrays)


def perturbed(layer):
    """With biases that are not zero."""
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.ndim == 1:
                parameter.normal_(std=0.5)
    return layer


def gru(cell):
    return {
        "gru_kernel": cell.weight_ih.T, "gru_bias": cell.bias_ih, "gru_state_kernel": cell.weight_hh.T, "gru_state_bias": cell.bias_hh,
    }  # fmt: skip


if __name__ == "__main__":
    main()
