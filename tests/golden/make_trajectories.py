"""Trajectories of PyTorch's optimisers on a small net, and its schedules: run `python tests/golden/make_trajectories.py` where torch is installed."""

from pathlib import Path

import numpy as np
import torch

METHODS = {
    "sgd": (torch.optim.SGD, {"lr": 0.1}),
    "momentum": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9}),
    "nesterov": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "nesterov, weight decay": (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
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
    "sgd, clipped": (torch.optim.SGD, {"lr": 0.1}),
}
CLIP = 0.5

schedulers = torch.optim.lr_scheduler
SCHEDULES = {
    "cosine": lambda solver: schedulers.CosineAnnealingLR(solver, 99, eta_min=0.01),
    "exponential": lambda solver: schedulers.ExponentialLR(solver, 0.95),
    "linear": lambda solver: schedulers.LinearLR(solver, 1.0, 0.1, 60),
    "multi-step": lambda solver: schedulers.MultiStepLR(solver, [30, 80], 0.1),
    "polynomial": lambda solver: schedulers.PolynomialLR(solver, 70, 2.0),
    "step": lambda solver: schedulers.StepLR(solver, 30, 0.5),
    "warm-up, cosine": lambda solver: schedulers.SequentialLR(
        solver, [schedulers.LinearLR(solver, 0.1, 1.0, 10), schedulers.CosineAnnealingLR(solver, 90, eta_min=0.05)], [10]
    ),
}


def rates(build) -> np.ndarray:
    """The learning rates of 100 steps, from 0.5 on."""
    solver, found = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5), []
    schedule = build(solver)
    for _ in range(100):
        found.append(solver.param_groups[0]["lr"])
        solver.step()
        schedule.step()
    return np.array(found)


def main() -> None:
    rng = np.random.default_rng(0)
    start = {"a": rng.normal(size=(3, 5)), "b": rng.normal(size=5), "c": rng.normal(size=(5, 1))}
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(20, 1))
    values = {"x": x, "y": y} | {f"start/{name}": value for name, value in start.items()}
    values |= {f"schedule/{name}": rates(build) for name, build in SCHEDULES.items()}
    inputs, targets = torch.tensor(x), torch.tensor(y)
    for method, (build, options) in METHODS.items():
        params = {name: torch.tensor(value, requires_grad=True) for name, value in start.items()}
        solver, losses = build(list(params.values()), **options), []
        net = torch.nn.ParameterList(params.values())
        averages = {
            "ema": torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)),
            "polyak": torch.optim.swa_utils.AveragedModel(net),
        }
        for _ in range(100):
            solver.zero_grad()
            loss = ((torch.tanh(inputs @ params["a"] + params["b"]) @ params["c"] - targets) ** 2).mean()
            loss.backward()
            losses.append(loss.item())
            if method == "sgd, clipped":
                torch.nn.utils.clip_grad_norm_(list(params.values()), CLIP)
            solver.step()
            if method == "adam":
                for average in averages.values():
                    average.update_parameters(net)
        values[f"{method}/losses"] = np.array(losses)
        values |= {f"{method}/{name}": value.detach().numpy() for name, value in params.items()}
        if method == "adam":
            for kind, average in averages.items():
                values |= {f"{kind}/{name}": value.detach().numpy() for name, value in zip("abc", average.module, strict=True)}
    np.savez_compressed(Path(__file__).with_name("trajectories.npz"), **values)


if __name__ == "__main__":
    main()
