"""Values of PyTorch that the tests of separable convolution, adaptive pooling and residual networks compare with: run this script where torch is."""

import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

# name -> (spatial size, output size)
ADAPTIVE = {"line": ((11,), (4,)), "plane": ((7, 9), (3, 4)), "more": ((3, 4), (5, 2)), "solid": ((4, 5, 6), (2, 3, 1))}


def main() -> None:
    rng = np.random.default_rng(0)
    values = {}

    def last(tensor):
        return tensor.detach().movedim(1, -1).numpy()

    for name, (size, out) in ADAPTIVE.items():
        # Few distinct values: most windows have ties.
        x = torch.tensor(rng.integers(0, 4, size=(2, 3, *size)).astype(float), requires_grad=True)
        for kind in ("max", "avg"):
            y = getattr(functional, f"adaptive_{kind}_pool{len(size)}d")(x, out)
            cotangent = torch.tensor(rng.normal(size=tuple(y.shape)))
            (dx,) = torch.autograd.grad(y, x, cotangent)
            values |= {f"adaptive/{name}/{kind}/{key}": last(v) for key, v in (("x", x), ("y", y), ("cotangent", cotangent), ("dx", dx))}
    for rank, size in enumerate([(11,), (9, 8), (5, 6, 4)], 1):
        convolve = getattr(functional, f"conv{rank}d")
        x, depthwise, pointwise, bias = (
            torch.tensor(rng.normal(size=shape), requires_grad=True)
            for shape in ((2, 3, *size), (6, 1, *(3,) * rank), (4, 6, *(1,) * rank), (4,))
        )
        y = convolve(convolve(x, depthwise, stride=2, padding=1, groups=3), pointwise, bias)
        cotangent = torch.tensor(rng.normal(size=tuple(y.shape)))
        gradients = torch.autograd.grad(y, (x, depthwise, pointwise, bias), cotangent)
        for key, tensor in zip(("depthwise", "pointwise", "ddepthwise", "dpointwise"), (depthwise, pointwise, *gradients[1:3]), strict=True):
            values[f"separable/{rank}/{key}"] = np.moveaxis(tensor.detach().numpy(), (1, 0), (-2, -1))  # [O, I, *window] to [*window, I, O]
        values |= {f"separable/{rank}/{key}": last(v) for key, v in (("x", x), ("y", y), ("cotangent", cotangent), ("dx", gradients[0]))}
        values |= {f"separable/{rank}/bias": bias.detach().numpy(), f"separable/{rank}/dbias": gradients[3].numpy()}
    sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
    from test_resnet import GOLDEN_OPTIONS, torchvisions
    from torch_copy import roughened

    module = roughened(torchvisions(**GOLDEN_OPTIONS))
    x = torch.tensor(rng.normal(size=(3, 3, 13, 12)), dtype=torch.float32)
    values |= {f"resnet/tensors/{name}": tensor.numpy().copy() for name, tensor in module.state_dict().items() if tensor.ndim}
    values |= {"resnet/x": last(x), "resnet/evaluated": module.eval()(x).detach().numpy(), "resnet/trained": module.train()(x).detach().numpy()}
    np.savez_compressed(Path(__file__).with_name("convolutional.npz"), **values)


if __name__ == "__main__":
    main()
