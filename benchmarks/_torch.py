"""Peers in PyTorch: the same models of stock modules, trained by the loop of its tutorials, eager or compiled."""

import os
import platform
import subprocess
from pathlib import Path

import numpy as np
from _harness import CannotRunError


def full_speed_mkl(folder: Path) -> dict[str, str]:
    """PyTorch's matrix library (Intel MKL) takes slow paths on a processor that is not Intel's. This makes the function that asks say yes."""
    if platform.system() != "Linux" or "GenuineIntel" in Path("/proc/cpuinfo").read_text():
        raise CannotRunError("the matrix library runs at full speed on this processor as it is")
    library = folder / "libmkl_at_full_speed.so"
    if not library.exists():
        compiler = os.environ.get("CC", "cc")
        try:
            code = "int mkl_serv_intel_cpu_true(void) { return 1; }"
            subprocess.run([compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", library], input=code, text=True, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise CannotRunError("no C compiler to build the library that lifts the matrix library's limit") from error
    return {"LD_PRELOAD": str(library)}


def mlp(widths, num_inputs=784):
    from torch import nn

    sizes = [num_inputs, *widths]
    hidden = [layer for a, b in zip(sizes, widths, strict=False) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(sizes[-1], 10))


def cnn(widths, hidden):
    from torch import nn

    sizes = [1, *widths]
    convolutions = [layer for a, b in zip(sizes, widths, strict=False) for layer in (nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))]
    side = 28 // 2 ** len(widths)
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(side * side * widths[-1], hidden), nn.ReLU(), nn.Linear(hidden, 10))


def resnet(stages, width, is_bottleneck=False):
    from torch import nn

    def conv(a, b, size, stride=1):
        return nn.Conv2d(a, b, size, stride, size // 2, bias=False), nn.BatchNorm2d(b)

    class Block(nn.Module):
        def __init__(self, a, width, stride):
            super().__init__()
            out = width * (4 if is_bottleneck else 1)
            parts = [(a, width, 1), (width, width, 3, stride), (width, out, 1)] if is_bottleneck else [(a, out, 3, stride), (out, out, 3)]
            layers = [layer for part in parts for layer in (*conv(*part), nn.ReLU())]
            self.branch = nn.Sequential(*layers[:-1])
            self.shortcut = nn.Sequential(*conv(a, out, 1, stride)) if stride > 1 or a != out else nn.Identity()

        def forward(self, x):
            return (self.shortcut(x) + self.branch(x)).relu()

    stem = [*conv(3, width, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)] if is_bottleneck else [*conv(1, width, 3), nn.ReLU()]
    blocks, channels = [], width
    for stage, number in enumerate(stages):
        for block in range(number):
            blocks.append(Block(channels, width * 2**stage, 2 if stage > 0 and block == 0 else 1))
            channels = width * 2**stage * (4 if is_bottleneck else 1)
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def unet(widths, classes):
    import torch
    from torch import nn

    def twice(a, b):
        return nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.Conv2d(b, b, 3, padding=1), nn.ReLU())

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            sizes = [1, *widths]
            self.down = nn.ModuleList(twice(a, b) for a, b in zip(sizes, widths, strict=False))
            wider = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
            self.up = nn.ModuleList(twice(2 * b, b) for _, b in wider)
            self.head = nn.Conv2d(widths[0], classes, 1)
            self.enlarge = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in wider)
            self.halve = nn.MaxPool2d(2)

        def forward(self, x):
            halved = []
            for layers in self.down[:-1]:
                halved.append(layers(x))
                x = self.halve(halved[-1])
            x = self.down[-1](x)
            for enlarge, layers in zip(self.enlarge, self.up, strict=True):
                x = layers(torch.cat([halved.pop(), enlarge(x)], 1))
            return self.head(x).movedim(1, -1)

    return UNet()


def lstm(vocab_size, width):
    from torch import nn

    class LSTM(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(vocab_size, width), nn.Linear(width, vocab_size)
            self.rnn = nn.LSTM(width, width, batch_first=True)
            # One bias a gate, as everybody else: with both, Adam would move their sum twice as far.
            self.rnn.bias_ih_l0.requires_grad_(False).zero_()

        def forward(self, tokens):
            return self.head(self.rnn(self.embed(tokens))[0])

    return LSTM()


def gpt(vocab_size, context, num_layers, num_heads, width):
    import torch
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, h):
            batch, length, _ = h.shape
            parts = self.qkv(self.attention_norm(h)).view(batch, length, 3, num_heads, width // num_heads).permute(2, 0, 3, 1, 4)
            read = functional.scaled_dot_product_attention(*parts, is_causal=True)
            h = h + self.out(read.transpose(1, 2).reshape(batch, length, width))
            return h + self.down(functional.gelu(self.up(self.mlp_norm(h)), approximate="tanh"))

    class GPT(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(vocab_size, width)
            self.positions = nn.Parameter(torch.zeros(context, width))
            self.blocks = nn.ModuleList(Block() for _ in range(num_layers))
            self.norm = nn.LayerNorm(width)

        def forward(self, tokens):
            h = self.embed(tokens) + self.positions[: tokens.shape[1]]
            for block in self.blocks:
                h = block(h)
            return functional.linear(self.norm(h), self.embed.weight)

    return GPT()


def load(module, kernel, bias=None):
    """A JAX layer's weights into a torch module: dense, convolution, norm or embedding."""
    import torch

    kernel = np.asarray(kernel)
    axes = {2: (1, 0), 4: (3, 2, 0, 1)}.get(kernel.ndim) if not isinstance(module, torch.nn.Embedding) else None
    with torch.no_grad():
        module.weight.copy_(torch.tensor(kernel if axes is None else kernel.transpose(axes)))
        if bias is not None:
            module.bias.copy_(torch.tensor(np.asarray(bias)))


def in_order(params):
    """The layers of a linen ResNet in the order of execution: stem, blocks, head; of a block its shortcut last."""

    def place(name):
        kind, _, number = name.rpartition("_")
        return {"Conv": 0, "BatchNorm": 0, "Block": 1, "Dense": 2}[kind.lstrip("_")], int(number), kind == "BatchNorm"

    for name in sorted(params, key=place):
        if "Block" in name:
            yield from in_order(params[name])
        else:
            yield params[name]


def model_with_weights(work):
    """The task's model with the initial weights that all start from."""
    import torch

    options, params = work.options, work.arrays()["variables"]["params"]
    if options["model"] in ("mlp", "cnn"):
        if options["model"] == "mlp":
            model = mlp(options["widths"], len(params["Dense_0"]["kernel"]))
        else:
            model = cnn(options["widths"], options["hidden"])
            # JAX flattens [H, W, C], torch [C, H, W].
            kernel, channels = params["Dense_0"]["kernel"], options["widths"][-1]
            side = 28 // 2 ** len(options["widths"])
            params["Dense_0"]["kernel"] = kernel.reshape(side, side, channels, -1).transpose(2, 0, 1, 3).reshape(kernel.shape)
        layers = [layer for layer in model if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)]
        for layer, weights in zip(layers, [params[name] for name in sorted(params)], strict=True):
            load(layer, **weights)
        return model
    if options["model"] == "resnet":
        model = resnet(options["stages"], options["width"], options.get("is_bottleneck", False))
        layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d | torch.nn.BatchNorm2d | torch.nn.Linear)]
        for layer, weights in zip(layers, in_order(params), strict=True):
            load(layer, weights.get("kernel", weights.get("scale")), weights.get("bias"))
        return model
    if options["model"] == "unet":
        model = unet(options["widths"], options["classes"])
        for kind, name in ((torch.nn.Conv2d, "Conv"), (torch.nn.ConvTranspose2d, "ConvTranspose")):
            for number, layer in enumerate(layer for layer in model.modules() if isinstance(layer, kind)):
                weights = params[f"{name}_{number}"]
                # What is transposed in torch is a convolution's gradient: the window the other way round, channels swapped.
                kernel = weights["kernel"] if name == "Conv" else np.flip(weights["kernel"], (0, 1)).swapaxes(2, 3).copy()
                load(layer, kernel, weights["bias"])
        return model
    vocab_size = len(params["embed"]["embedding"])
    if options["model"] == "lstm":
        model, cell = lstm(vocab_size, options["width"]), params["cell"]
        load(model.embed, params["embed"]["embedding"])
        load(model.head, **params["head"])
        with torch.no_grad():
            model.rnn.weight_ih_l0.copy_(torch.tensor(np.concatenate([cell[f"i{gate}"]["kernel"] for gate in "ifgo"], 1).T))
            model.rnn.weight_hh_l0.copy_(torch.tensor(np.concatenate([cell[f"h{gate}"]["kernel"] for gate in "ifgo"], 1).T))
            model.rnn.bias_hh_l0.copy_(torch.tensor(np.concatenate([cell[f"h{gate}"]["bias"] for gate in "ifgo"])))
        return model
    model = gpt(vocab_size, len(params["positions"]), options["num_layers"], options["num_heads"], options["width"])
    load(model.embed, params["embed"]["embedding"])
    load(model.norm, params["decoder"]["norm"]["scale"], params["decoder"]["norm"]["bias"])
    with torch.no_grad():
        model.positions.copy_(torch.tensor(params["positions"]))
    layers = params["decoder"]["layers"]
    attention, feed_forward = layers["attention"], layers["feed_forward"]
    joint = {leaf: np.concatenate([attention[name][leaf] for name in ("query", "key", "value")], -1) for leaf in ("kernel", "bias")}
    for number, block in enumerate(model.blocks):
        for layer, weights in (
            (block.up, feed_forward["up"]), (block.down, feed_forward["down"]), (block.qkv, joint), (block.out, attention["out"]),
        ):  # fmt: skip
            load(layer, weights["kernel"][number], weights["bias"][number])
        for layer, weights in ((block.attention_norm, layers["attention_norm"]), (block.mlp_norm, layers["feed_forward_norm"])):
            load(layer, weights["scale"][number], weights["bias"][number])
    return model


def trained(*, channels_last=False, fused=True, compiled=False):
    """A contestant: the usual loop over batches that are in memory already."""

    def build(work):
        import torch
        from torch.nn import functional

        torch.set_num_threads(work.threads)
        device = torch.device("cuda" if work.size == "gpu" and torch.cuda.is_available() else "cpu")
        model = model_with_weights(work).to(device)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        if channels_last:
            model = model.to(memory_format=layout)
        optimizer = torch.optim.Adam(model.parameters(), work.options["learning_rate"], fused=fused)
        scale, is_half = work.options.get("scale", 1), work.options.get("precision") == "bfloat16"
        stored = work.arrays()["batches"]
        x, y = torch.tensor(stored["x"]).to(device), torch.tensor(stored["y"]).long().to(device)
        is_picture = x.dtype == torch.uint8
        if is_picture:
            x = x.movedim(-1, 2).contiguous()

        def objective(x, y):
            if is_picture:
                if scale > 1:
                    x = x.repeat_interleave(scale, 2).repeat_interleave(scale, 3).expand(-1, 3, -1, -1)
                x = (x.float() / 255).contiguous(memory_format=layout)
            with torch.autocast(device.type, torch.bfloat16, is_half):
                logits = model(x)
            return functional.cross_entropy(logits.float().flatten(0, -2), y.flatten())

        objective = torch.compile(objective) if compiled else objective
        return loop(work, optimizer, objective, lambda number: (x[number % len(x)], y[number % len(y)]))

    return build


def loop(work, optimizer, objective, batch):
    """`run(steps)`: gradient steps on the objective of batch after batch."""
    import torch

    done = 0

    def run(steps):
        nonlocal done
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = objective(*batch(done))
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            done += 1
        return torch.stack(losses).double().view(-1, work.chunk).mean(1).tolist()

    return run


def geometric(work):
    """PyTorch Geometric's GCN, its normalisation cached."""
    import torch
    from torch.nn import functional
    from torch_geometric.nn import GCNConv

    torch.set_num_threads(work.threads)
    x, edges, y, known, weights = graph_tensors(work)
    layers = torch.nn.ModuleList(GCNConv(*weight.shape, bias=False, cached=True) for weight in weights)
    for layer, weight in zip(layers, weights, strict=True):
        load(layer.lin, weight)

    def objective():
        outputs = layers[1](layers[0](x, edges).relu(), edges)
        return functional.cross_entropy(outputs[known], y[known])

    return loop(work, torch.optim.Adam(layers.parameters(), work.options["learning_rate"], fused=True), objective, lambda number: ())


def sparse_matrices(*, features: bool):
    """A contestant: the GCN's formula with the normalised adjacency as a sparse matrix, and the features too if so asked."""

    def build(work):
        import torch
        from torch.nn import functional

        torch.set_num_threads(work.threads)
        x, edges, y, known, weights = graph_tensors(work)
        loops = torch.arange(len(x)).expand(2, -1)
        senders, receivers = torch.cat([edges, loops], 1)
        scale = torch.bincount(receivers, minlength=len(x)).float().rsqrt()
        adjacency = torch.sparse_coo_tensor(torch.stack([receivers, senders]), scale[receivers] * scale[senders], (len(x), len(x))).to_sparse_csr()
        x = x.to_sparse_csr() if features else x
        first, second = (torch.nn.Parameter(torch.tensor(weight)) for weight in weights)

        def objective():
            hidden = (adjacency @ (x @ first)).relu()
            return functional.cross_entropy((adjacency @ (hidden @ second))[known], y[known])

        return loop(work, torch.optim.Adam([first, second], work.options["learning_rate"], fused=True), objective, lambda number: ())

    return build


def graph_tensors(work):
    import torch

    arrays = work.arrays()
    graph = arrays["graph"]
    edges = torch.tensor(np.stack([graph["senders"], graph["receivers"]])).long()
    weights = [arrays["variables"]["params"][f"layers_{layer}"]["kernel"] for layer in range(2)]
    return torch.tensor(graph["nodes"]), edges, torch.tensor(arrays["y"]).long(), torch.tensor(arrays["mask"] > 0), weights
