"""Makes foundations.npz: values and gradients of PyTorch's activations, losses and normalisation layers, in float64.

Run with the extra `oracles`: python tests/golden/make_foundations.py
"""

from pathlib import Path

import numpy as np


def activations() -> dict[str, np.ndarray]:
    """`activation/x` [21, 8], and for each activation `activation/NAME/y` and `/dx`, the gradient along `activation/cotangent`."""
    import torch
    from torch.nn import functional as F

    rng = np.random.default_rng(0)
    # Far into the tails, too.
    x = np.concatenate([rng.uniform(-6.9, 6.9, (20, 8)), [[-1e4, -100, -30, -10, 10, 30, 100, 1e4]]])
    cotangent = rng.normal(size=x.shape)
    # F.hardsigmoid's gradient is 1/6 in float32 only.
    names = {
        "identity": lambda x: x * 1,
        "step": lambda x: torch.heaviside(x, torch.ones_like(x)).detach() + 0 * x,
        "sigmoid": torch.sigmoid, "log_sigmoid": F.logsigmoid, "hard_sigmoid": lambda x: torch.clamp(x + 3, 0, 6) / 6, "tanh": torch.tanh, "hard_tanh": F.hardtanh,
        "soft_sign": F.softsign, "relu": F.relu, "relu6": F.relu6, "leaky_relu": F.leaky_relu, "elu": F.elu, "celu": F.celu, "selu": F.selu,
        "gelu": lambda x: F.gelu(x, approximate="tanh"), "gelu_exact": F.gelu, "silu": F.silu, "hard_silu": F.hardswish, "mish": F.mish,
        "softplus": lambda x: F.softplus(x, threshold=1e9) if x.abs().max() < 700 else torch.logaddexp(x, torch.zeros_like(x)),
        "hard_shrink": F.hardshrink, "soft_shrink": F.softshrink, "tanh_shrink": F.tanhshrink,
        "squared_relu": lambda x: F.relu(x) ** 2, "gaussian": lambda x: torch.exp(-(x**2)),
        "squareplus": lambda x: (x + torch.sqrt(x**2 + 4)) / 2,
        "sparse_sigmoid": lambda x: torch.clamp((x + 1) / 2, 0, 1),
        "sparse_plus": lambda x: torch.where(x <= -1, 0 * x, torch.where(x >= 1, x, (x + 1) ** 2 / 4)),
        "softmax": lambda x: F.softmax(x, -1), "log_softmax": lambda x: F.log_softmax(x, -1),
    }  # fmt: skip
    values = {"activation/x": x, "activation/cotangent": cotangent}
    for name, function in names.items():
        inputs = torch.tensor(x, requires_grad=True)
        y = function(inputs)
        (dx,) = torch.autograd.grad(y, inputs, torch.tensor(cotangent))
        values |= {f"activation/{name}/y": y.detach().numpy(), f"activation/{name}/dx": dx.numpy()}
    return values


def losses() -> dict[str, np.ndarray]:
    """`loss/NAME/arg0` ..., `value` [B], and the gradients of its sum, `grad0` ..., of those that are floating."""
    import torch
    from torch.nn import functional as F

    rng = np.random.default_rng(1)
    a, b, c = rng.normal(size=(3, 6, 5))
    a[-1], b[-1] = 1e4 * a[-1], 1e4 * b[-1]  # the extremes belong to it
    near = rng.normal(size=(2, 6, 5))
    binary, labels = rng.integers(0, 2, (6, 5)).astype(float), rng.integers(0, 5, 6)
    p, t = (np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in near)
    t[0] = [0, 0.25, 0, 0.75, 0]
    sign, same = 2 * binary - 1, np.array([1.0, 0, 1, 0, 1, 0])
    lengths, num_labels = torch.tensor([7, 5, 7]), torch.tensor([3, 2, 0])
    frames, spelled = rng.normal(size=(3, 7, 4)), np.array([[1, 1, 3], [2, 3, 1], [1, 1, 1]])

    def focal(x, y, gamma=2.0, alpha=0.25):  # torchvision.ops.sigmoid_focal_loss
        prob, ce = torch.sigmoid(x), F.binary_cross_entropy_with_logits(x, y, reduction="none")
        p_t = prob * y + (1 - prob) * (1 - y)
        return (alpha * y + (1 - alpha) * (1 - y)) * ce * (1 - p_t) ** gamma

    def multiclass_focal(x, y):
        log_p = F.log_softmax(x, -1)[torch.arange(len(y)), y]
        return -((1 - log_p.exp()) ** 2) * log_p

    def crammer_singer(x, y):
        others = x.masked_fill(F.one_hot(y, 5).bool(), -np.inf)
        return F.relu(1 + others.max(-1).values - x[torch.arange(len(y)), y])

    def js(p, t):
        m = torch.log((p + t) / 2)
        return (F.kl_div(m, p, reduction="none") + F.kl_div(m, t, reduction="none")).sum(-1) / 2

    def contrastive(u, v, y):
        d = F.pairwise_distance(u, v, eps=0)
        return (y * d**2 + (1 - y) * F.relu(1 - d) ** 2) / 2

    def info_nce(q, k):
        return F.cross_entropy(F.normalize(q) @ F.normalize(k).T / 0.1, torch.arange(len(q)), reduction="none")

    def nt_xent(u, v):
        views = F.normalize(torch.cat([u, v]))
        scores = (views @ views.T / 0.5).masked_fill(torch.eye(12, dtype=torch.bool), -np.inf)
        each = F.cross_entropy(scores, torch.cat([torch.arange(6, 12), torch.arange(6)]), reduction="none")
        return (each[:6] + each[6:]) / 2

    def ctc(logits, labels):
        return F.ctc_loss(F.log_softmax(logits, -1).transpose(0, 1), labels, lengths, num_labels, reduction="none")

    none = {"reduction": "none"}
    cases = {
        "squared_error": (lambda x, y: F.mse_loss(x, y, **none), a, b),
        "absolute_error": (lambda x, y: F.l1_loss(x, y, **none), a, b),
        "huber_loss": (lambda x, y: F.huber_loss(x, y, delta=0.7, **none), a, b),
        "logistic_loss": (lambda x, y: torch.logaddexp(-x * y, torch.zeros_like(x)), a, sign),
        "sigmoid_binary_cross_entropy": (lambda x, y: F.binary_cross_entropy_with_logits(x, y, **none), a, binary),
        "softmax_cross_entropy": (lambda x, y: F.cross_entropy(x, y.detach(), **none), a, t),
        "hinge_loss": (lambda x, y: F.relu(1 - x * y), a, sign),
        "multiclass_hinge_loss": (crammer_singer, a, labels),
        "weston_watkins": (lambda x, y: 5 * F.multi_margin_loss(x, y, margin=0.8, **none), a, labels),
        "sigmoid_focal_loss": (focal, near[0], binary),
        "focal_loss": (multiclass_focal, near[0], labels),
        "kl_divergence": (lambda x, y: F.kl_div(x, y, **none).sum(-1), np.log(p), t),
        "js_divergence": (js, p, t),
        "cosine_distance": (lambda x, y: 1 - F.cosine_similarity(x, y), a, b),
        "triplet_loss": (lambda x, y, z: F.triplet_margin_loss(x, y, z, margin=1.3, eps=0, **none), a, b, c),
        "contrastive_loss": (contrastive, near[0] / 3, near[1] / 3, same),
        "info_nce": (info_nce, a, b),
        "nt_xent": (nt_xent, a, b),
        "ctc_loss": (ctc, frames, spelled),
    }
    values = {"loss/ctc_loss/lengths": lengths.numpy(), "loss/ctc_loss/num_labels": num_labels.numpy()}
    for name, (function, *arrays) in cases.items():
        inputs = [torch.tensor(array, requires_grad=array.dtype == np.float64) for array in arrays]
        value = function(*inputs)
        floating = [number for number, array in enumerate(arrays) if array.dtype == np.float64 and array is not binary and array is not same]
        grads = torch.autograd.grad(value.sum(), [inputs[number] for number in floating], allow_unused=True)
        values[f"loss/{name}/value"] = value.detach().numpy()
        values |= {f"loss/{name}/arg{number}": array for number, array in enumerate(arrays)}
        values |= {f"loss/{name}/grad{number}": grad.numpy() for number, grad in zip(floating, grads, strict=True) if grad is not None}
    return values


def normalisation() -> dict[str, np.ndarray]:
    """Two training steps and an evaluation of batch norm; the value and gradients of layer, group, instance and RMS norm; weight and spectral norm."""
    import torch
    from torch.nn import functional as F

    rng = np.random.default_rng(2)
    x, cotangent, scale, bias = rng.normal(3, 2, (2, 4, 5, 6)), rng.normal(size=(4, 5, 6)), rng.normal(size=6), rng.normal(size=6)

    def first(array):  # channels first
        return torch.tensor(array).movedim(-1, 1)

    values = {"norm/x": x, "norm/cotangent": cotangent, "norm/scale": scale, "norm/bias": bias}
    layer = torch.nn.BatchNorm1d(6, eps=1e-3, momentum=0.1, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(scale))
        layer.bias.copy_(torch.tensor(bias))
    for number in range(2):
        inputs = first(x[number]).requires_grad_()
        y = layer(inputs)
        grads = torch.autograd.grad(y, [inputs, layer.weight, layer.bias], first(cotangent))
        values[f"norm/batch/y{number}"] = y.detach().movedim(1, -1).numpy()
    values |= {"norm/batch/dx": grads[0].movedim(1, -1).numpy(), "norm/batch/dscale": grads[1].numpy(), "norm/batch/dbias": grads[2].numpy()}
    values |= {"norm/batch/mean": layer.running_mean.numpy().copy(), "norm/batch/var": layer.running_var.numpy().copy()}
    values["norm/batch/eval"] = layer.eval()(first(x[0])).detach().movedim(1, -1).numpy()

    weights = {"weight": torch.tensor(scale), "bias": torch.tensor(bias)}
    cases = {
        "layer": lambda x: F.layer_norm(x, (6,), eps=1e-3, **weights),
        "rms": lambda x: F.rms_norm(x, (6,), weight=weights["weight"], eps=1e-3),
        "group": lambda x: F.group_norm(x.movedim(-1, 1), 3, eps=1e-3, **weights).movedim(1, -1),
        "instance": lambda x: F.instance_norm(x.movedim(-1, 1), eps=1e-3, **weights).movedim(1, -1),
    }
    for name, function in cases.items():
        inputs = torch.tensor(x[0], requires_grad=True)
        y = function(inputs)
        (dx,) = torch.autograd.grad(y, inputs, torch.tensor(cotangent))
        values |= {f"norm/{name}/y": y.detach().numpy(), f"norm/{name}/dx": dx.numpy()}

    kernel, length, rows = rng.normal(size=(6, 4)), rng.uniform(0.5, 2, 4), x[0, 0]
    dense = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(6, 4, bias=False, dtype=torch.float64))
    with torch.no_grad():
        dense.parametrizations.weight.original0.copy_(torch.tensor(length)[:, None])
        dense.parametrizations.weight.original1.copy_(torch.tensor(kernel.T))
    y = dense(torch.tensor(rows))
    y.square().sum().backward()
    values |= {"norm/weight/kernel": kernel, "norm/weight/scale": length, "norm/weight/y": y.detach().numpy()}
    values |= {"norm/weight/dkernel": dense.parametrizations.weight.original1.grad.numpy().T}
    values |= {"norm/weight/dscale": dense.parametrizations.weight.original0.grad.numpy()[:, 0]}

    torch.manual_seed(0)
    dense = torch.nn.Linear(6, 4, bias=False, dtype=torch.float64)
    with torch.no_grad():
        dense.weight.copy_(torch.tensor(kernel.T))
    dense = torch.nn.utils.spectral_norm(dense)
    values["norm/spectral/u"] = dense.weight_u.numpy().copy()
    for number in range(2):
        dense.zero_grad()
        y = dense(torch.tensor(rows))
        y.square().sum().backward()
        values |= {f"norm/spectral/y{number}": y.detach().numpy(), f"norm/spectral/dkernel{number}": dense.weight_orig.grad.numpy().T.copy()}
    return values


def reference() -> dict[str, np.ndarray]:
    """All of it."""
    return activations() | losses() | normalisation()


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).with_name("foundations.npz"), **reference())
