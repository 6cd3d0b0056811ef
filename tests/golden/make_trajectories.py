"""Trajectories of PyTorch's optimisers on a small net: run `python tests/golden/make_trajectories.py` where torch is installed."""

from pathlib import Path

import numpy as np
import torch

METHODS = {
    "sgd": (torch.optim.SGD, {"lr": 0.1}),
    "momentum": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    "nesterov": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "sgd, weight decay": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}),
    "adagrad": (torch.optim.Adagrad, {"lr": 0.1}),
    "adadelta": (torch.optim.Adadelta, {"lr": 1.0, "rho": 0.9, "eps": 1e-6}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 0.01, "alpha": 0.99}),
    "rmsprop, centred, momentum": (torch.optim.RMSprop, {"lr": 0.01, "alpha": 0.99, "centered": True, "momentum": 0.5}),
    "adam": (torch.optim.Adam, {"lr": 0.01}),
    "adam, weight decay": (torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.01}),
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
    "amsgrad": (torch.optim.Adam, {"lr": 0.01, "amsgrad": True, "betas": (0.9, 0.9)}),
    "adamax": (torch.optim.Adamax, {"lr": 0.01}),
    "nadam": (torch.optim.NAdam, {"lr": 0.01}),
}


def main() -> None:
    rng = np.random.default_rng(0)
    start = {"a": rng.normal(size=(3, 5)), "b": rng.normal(size=5), "c": rng.normal(size=(5, 1))}
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(20, 1))
    values = {"x": x, "y": y} | {f"start/{name}": value for name, value in start.items()}
    inputs, targets = torch.tensor(x), torch.tensor(y)
    for method, (build, options) in METHODS.items():
        params = {name: torch.tensor(value, requires_grad=True) for name, value in start.items()}
        solver, losses = build(list(params.values()), **options), []
        for _ in range(100):
            solver.zero_grad()
            loss = ((torch.tanh(inputs @ params["a"] + params["b"]) @ params["c"] - targets) ** 2).mean()
            loss.backward()
            losses.append(loss.item())
            solver.step()
        values[f"{method}/losses"] = np.array(losses)
        values |= {f"{method}/{name}": value.detach().numpy() for name, value in params.items()}
    np.savez_compressed(Path(__file__).with_name("trajectories.npz"), **values)


if __name__ == "__main__":
    main()
