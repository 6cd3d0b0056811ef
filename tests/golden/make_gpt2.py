"""Makes gpt2.npz: the weights, logits, loss and gradients of a small GPT-2 of transformers, in float64.

Run with the extra `oracles`: python tests/golden/make_gpt2.py
"""

from pathlib import Path

import numpy as np

SIZES = {"vocab_size": 17, "context": 12, "num_layers": 2, "num_heads": 2, "width": 8}


def reference() -> dict[str, np.ndarray]:
    """Arrays named `weight/...`, `grad/...`, and `tokens`, `logits`, `loss`."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=SIZES["vocab_size"],
        n_positions=SIZES["context"],
        n_layer=SIZES["num_layers"],
        n_head=SIZES["num_heads"],
        n_embd=SIZES["width"],
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        # Large enough that attention and the nonlinearity matter.
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or ".ln_" in name:
                parameter.add_(0.2 * torch.randn(parameter.shape, dtype=torch.float64))
    tokens = torch.randint(0, SIZES["vocab_size"], (2, SIZES["context"] - 2))
    # transformers shifts the labels itself: the loss is the mean over the next tokens.
    output = model(tokens, labels=tokens)
    output.loss.backward()
    arrays = {"tokens": tokens, "logits": output.logits, "loss": output.loss}
    for name, parameter in model.named_parameters():
        arrays[f"weight/{name}"] = parameter
        arrays[f"grad/{name}"] = parameter.grad
    return {name: array.detach().numpy() for name, array in arrays.items()}


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).with_name("gpt2.npz"), **reference())
