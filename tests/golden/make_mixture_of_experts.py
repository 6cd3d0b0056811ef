"""Makes mixture_of_experts.npz: the expert layers of Mixtral and of Switch Transformers in transformers, with their losses, in float64.

Run with the extra `oracles`: python tests/golden/make_mixture_of_experts.py
"""

from pathlib import Path

import numpy as np

WIDTH, HIDDEN, EXPERTS, CAPACITY = 6, 5, 4, 3


def reference(name: str) -> dict[str, np.ndarray]:
    """Arrays `x` [1, 11, D], `y`, `direction`, `weight/...`, `grad/...`, `grad/x`; of "switch" also `balance` and `z`, its losses."""
    import torch

    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    try:
        layer, losses = {"mixtral": _mixtral, "switch": _switch}[name]()
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(torch.randn(parameter.shape))
        x = torch.randn((1, 11, WIDTH), requires_grad=True)
        y = layer(x)
        direction = torch.randn(y.shape)
        (direction * y).sum().backward()
        arrays = {"x": x, "y": y, "direction": direction, "grad/x": x.grad, **losses(x)}
        for label, parameter in layer.named_parameters():
            arrays[f"weight/{label}"] = parameter
            arrays[f"grad/{label}"] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        return {label: array.detach().numpy() for label, array in arrays.items()}
    finally:
        torch.set_default_dtype(torch.float32)


def _mixtral():
    from transformers.models.mixtral import modeling_mixtral as library

    config = library.MixtralConfig(hidden_size=WIDTH, intermediate_size=HIDDEN, num_local_experts=EXPERTS, num_experts_per_tok=2, router_jitter_noise=0.0)
    return library.MixtralSparseMoeBlock(config), lambda x: {}


def _switch():
    import torch
    from transformers.models.switch_transformers import modeling_switch_transformers as library

    sizes = {"d_model": WIDTH, "d_ff": HIDDEN, "num_experts": EXPERTS, "expert_capacity": CAPACITY, "dropout_rate": 0.0, "router_jitter_noise": 0.0}
    layer = library.SwitchTransformersSparseMLP(library.SwitchTransformersConfig(**sizes))
    layer.router.dtype = torch.float64

    def losses(x):
        logits = layer.router.classifier(x)
        chosen = logits.argmax(-1)
        # The function of the library takes a mean in float32.
        return {"balance": library.load_balancing_loss_func(logits.softmax(-1), chosen), "z": library.router_z_loss_func(logits)}

    return layer, losses


if __name__ == "__main__":
    arrays = {f"{name}/{label}": array for name in ("mixtral", "switch") for label, array in reference(name).items()}
    np.savez_compressed(Path(__file__).with_name("mixture_of_experts.npz"), **arrays)
