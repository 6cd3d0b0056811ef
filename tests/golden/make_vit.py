"""Makes vit.npz: small ViTs of transformers: weights, logits and gradients, in float64.

Run with the extra `oracles`: python tests/golden/make_vit.py
"""

import json
from pathlib import Path

import numpy as np

CASES = {
    "vit": {
        "image_size": 12, "patch_size": 4, "num_channels": 3, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3,
        "intermediate_size": 17, "num_labels": 5,
    },
    "vit, oblong": {
        "image_size": [6, 8], "patch_size": [3, 2], "num_channels": 1, "hidden_size": 10, "num_hidden_layers": 3, "num_attention_heads": 2,
        "intermediate_size": 7, "num_labels": 3, "hidden_act": "gelu_new", "layer_norm_eps": 1e-2,
    },
}  # fmt: skip
KEPT = ("vit",)


def model_of(case: str):
    """A model of transformers with random weights, large enough that everything in it matters."""
    import torch
    import transformers

    torch.manual_seed(list(CASES).index(case))
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**CASES[case], initializer_range=0.4)).double().eval()
    with torch.no_grad():
        for label, parameter in model.named_parameters():
            if label.endswith("bias") or "norm" in label:
                parameter.add_(0.2 * torch.randn(parameter.shape, dtype=torch.float64))
    return model


def reference(case: str) -> dict[str, np.ndarray]:
    """Arrays named `weight/...`, `grad/...`, and `config`, `x`, `direction`, `logits`; pictures have their channels last."""
    import torch

    model = model_of(case)
    sides, channels = CASES[case]["image_size"], CASES[case]["num_channels"]
    x = torch.randn((4, channels, *([sides] * 2 if isinstance(sides, int) else sides)), dtype=torch.float64)
    logits = model(x).logits
    direction = torch.randn(logits.shape, dtype=torch.float64)
    (direction * logits).sum().backward()
    arrays = {"x": x.permute(0, 2, 3, 1), "direction": direction, "logits": logits}
    for label, parameter in model.named_parameters():
        arrays[f"weight/{label}"], arrays[f"grad/{label}"] = parameter, parameter.grad
    config = {**model.config.to_dict(), "architectures": ["ViTForImageClassification"]}
    return {"config": np.array(json.dumps(config)), **{name: array.detach().numpy() for name, array in arrays.items()}}


if __name__ == "__main__":
    arrays = {f"{case}/{name}": array for case in KEPT for name, array in reference(case).items()}
    np.savez_compressed(Path(__file__).with_name("vit.npz"), **arrays)
