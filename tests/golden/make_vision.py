"""Values of PyTorch that the tests of convolution, pooling and losses compare with: run `python tests/golden/make_vision.py` where torch is installed."""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

# name -> (spatial size, input channels, window, stride, padding, dilation, groups)
CONVOLUTIONS = {
    "line": ((11,), 2, 3, 2, 1, 1, 1),
    "plane": ((9, 8), 3, 3, 1, 1, 1, 1),
    "plane_of_one_channel": ((9, 8), 1, 5, 1, 2, 1, 1),
    "strided": ((9, 8), 3, 3, 2, 1, 1, 1),
    "dilated": ((9, 8), 3, 3, 1, 0, 2, 1),
    "grouped": ((9, 8), 4, 3, 1, 1, 1, 2),
    "solid": ((5, 6, 7), 2, 3, 2, 1, 1, 1),
}
POOLS = {"halving": (2, 2), "overlapping": (3, 2)}


def main() -> None:
    rng = np.random.default_rng(0)
    values = {}

    def last(tensor):
        return tensor.detach().movedim(1, -1).numpy()

    for name, (size, channels, window, stride, padding, dilation, groups) in CONVOLUTIONS.items():
        x = torch.tensor(rng.normal(size=(2, channels, *size)), requires_grad=True)
        kernel = torch.tensor(rng.normal(size=(4, channels // groups) + (window,) * len(size)), requires_grad=True)
        convolve = getattr(functional, f"conv{len(size)}d")
        y = convolve(x, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups)
        cotangent = torch.tensor(rng.normal(size=tuple(y.shape)))
        dx, dkernel = torch.autograd.grad(y, (x, kernel), cotangent)
        values |= {f"{name}/x": last(x), f"{name}/y": last(y), f"{name}/cotangent": last(cotangent), f"{name}/dx": last(dx)}
        # [O, I, *window] to [*window, I, O].
        values |= {f"{name}/{key}": np.moveaxis(k.detach().numpy(), (1, 0), (-2, -1)) for key, k in (("kernel", kernel), ("dkernel", dkernel))}
    for name, (window, stride) in POOLS.items():
        # Few distinct values: most windows have ties.
        x = torch.tensor(rng.integers(0, 4, size=(2, 3, 9, 8)).astype(float), requires_grad=True)
        for kind in ("max", "avg"):
            y = getattr(functional, f"{kind}_pool2d")(x, window, stride)
            cotangent = torch.tensor(rng.normal(size=tuple(y.shape)))
            (dx,) = torch.autograd.grad(y, x, cotangent)
            values |= {f"{name}/{kind}/{key}": last(v) for key, v in (("x", x), ("y", y), ("cotangent", cotangent), ("dx", dx))}
    for smoothing in (0.0, 0.1):
        logits = torch.tensor(3 * rng.normal(size=(6, 5)), requires_grad=True)
        labels = torch.tensor(rng.integers(0, 5, size=6))
        loss = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
        (dlogits,) = torch.autograd.grad(loss.sum(), logits)
        parts = (("logits", logits), ("labels", labels), ("loss", loss), ("dlogits", dlogits))
        values |= {f"cross_entropy/{smoothing}/{key}": v.detach().numpy() for key, v in parts}
    np.savez_compressed(Path(__file__).with_name("vision.npz"), **values)


if __name__ == "__main__":
    main()
