"""PyTorch's networks beside ours: weights copied by name, and values, gradients and statistics compared in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from dljax.models import Weight, export_weights, import_weights


def of_their_names(module):
    """The weights of a torch module whose parts are called as ours are: only the words for a layer's own tensors differ."""
    import torch

    weights = []
    for prefix, layer in module.named_modules():
        path = prefix.replace(".", "/")
        words = {"weight": ("kernel", "same"), "bias": ("bias", "same")}
        if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
            # A transposed convolution's [I, O, H, W] is [H, W, O, I] here, as `transpose_kernel` has it.
            words["weight"] = ("kernel", "convolution")
        elif isinstance(layer, torch.nn.Linear):
            words["weight"] = ("kernel", "transposed")
        else:
            words["weight"] = ("scale", "same")
        weights += [Weight(f"{prefix}.{name}", f"{path}/{words[name][0]}", words[name][1]) for name, _ in layer.named_parameters(recurse=False)]
        if isinstance(layer, torch.nn.BatchNorm2d):
            weights += [Weight(f"{prefix}.running_{name}", f"batch_stats/{path}/{name}") for name in ("mean", "var")]
            weights.append(Weight(f"{prefix}.num_batches_tracked", ""))
    return weights


def roughened(module):
    """Every parameter and statistic drawn anew, so that no two layers are alike and no scale is one."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.dtype.is_floating_point:
                noise = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
                if tensor.ndim > 1:
                    tensor.copy_((noise - 0.5) * 3.4 / np.sqrt(max(tensor[0].numel(), 1)))
                else:
                    tensor.copy_(0.5 + noise if name.endswith(("weight", "running_var", "gamma", "layer_scale_parameter")) else noise - 0.5)
    return module


def assert_equal_to_torch(model, module, x, weights=None, *, logits=lambda outputs: outputs, has_modes=True, tolerance=1e-9):
    """Outputs in both modes, gradients of Σ sin(outputs) in training mode and new statistics are those of the torch module, in float64.

    Args:
      model: ours; `module`: theirs, in double precision.
      x: pictures [B, H, W, C].
      weights: (name, path, layout) of each tensor, by default `of_their_names`.
      logits: what of the torch module's outputs is meant.
      has_modes: whether `train` changes anything.
    """
    import torch

    with jax.enable_x64(True):
        x = jnp.asarray(x, jnp.float64)
        module = roughened(module.double())
        weights = of_their_names(module) if weights is None else weights
        variables = import_weights(module.state_dict(), weights, jax.eval_shape(model.init, jax.random.key(0), x))
        options = {"train": True} if has_modes else {}

        @jax.jit
        def ours(variables, x):
            def loss(params, x):
                outputs, changed = model.apply(variables | {"params": params}, x, **options, mutable=["batch_stats"])
                return jnp.sin(outputs).sum(), (outputs, changed)

            gradients, (outputs, changed) = jax.grad(loss, (0, 1), has_aux=True)(variables["params"], x)
            return model.apply(variables, x) if has_modes else outputs, outputs, gradients, changed

        evaluated, trained, (gradients, into_x), changed = ours(variables, x)

        their_x = torch.tensor(np.asarray(x).transpose(0, 3, 1, 2), requires_grad=True)

        def last(tensor):
            return tensor.detach().movedim(1, -1).numpy()

        def close(ours, theirs, what, floor=1e-12):
            scale = max(np.abs(theirs).max(), floor)
            np.testing.assert_allclose(np.asarray(ours) / scale, theirs / scale, atol=tolerance, rtol=0, err_msg=what)

        close(evaluated, last(logits(module.eval()(their_x))), "outputs in evaluation")
        before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        outputs = logits(module.train()(their_x))
        close(trained, last(outputs), "outputs in training")
        outputs.sin().sum().backward()
        close(into_x, last(their_x.grad), "gradient of the pictures")
        found = export_weights({"params": gradients}, [weight for weight in weights if not weight[1].startswith("batch_stats/")])
        # A bias in front of a batch norm has no gradient but rounding.
        floor = 1e-3 * max(float(parameter.grad.abs().max()) for parameter in module.parameters())
        for name, parameter in module.named_parameters():
            close(found[name], parameter.grad.numpy(), f"gradient of {name}", floor)
        if not changed.get("batch_stats"):
            return
        statistics = export_weights({"params": {}} | changed, [weight for weight in weights if weight[1].startswith("batch_stats/")])
        for name, value in statistics.items():
            theirs = module.state_dict()[name].numpy()
            if name.endswith("running_mean"):
                close(value, theirs, name)
            else:  # PyTorch keeps the variance of a sample, ours is n - 1 over n times as large; n is the same for a layer's picture
                batch = (theirs - 0.9 * before[name].numpy()) / 0.1
                ratio = (np.asarray(value) - 0.9 * before[name].numpy()) / 0.1 / batch
                np.testing.assert_allclose(ratio, np.broadcast_to(ratio.flat[0], ratio.shape), rtol=1e-6, err_msg=name)
                assert 0 < ratio.flat[0] < 1
