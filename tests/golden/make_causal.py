"""Makes causal.npz: small GPT-2s and Llamas of transformers: weights, logits, gradients and what they write, in float64.

Run with the extra `oracles`: python tests/golden/make_causal.py
"""

import json
from pathlib import Path

import numpy as np

LLAMA = {"model_type": "llama", "num_hidden_layers": 2, "max_position_embeddings": 40, "rms_norm_eps": 1e-5}
CASES = {
    "gpt2": {"model_type": "gpt2", "vocab_size": 17, "n_positions": 40, "n_embd": 12, "n_layer": 2, "n_head": 3},
    "gpt2, a head of its own": {
        "model_type": "gpt2", "vocab_size": 11, "n_positions": 23, "n_embd": 10, "n_layer": 3, "n_head": 2, "n_inner": 7,
        "activation_function": "gelu", "layer_norm_epsilon": 1e-3, "tie_word_embeddings": False,
    },
    "llama, grouped": {**LLAMA, "vocab_size": 19, "hidden_size": 16, "intermediate_size": 21, "num_attention_heads": 4, "num_key_value_heads": 2},
    "llama 3, tied, biased": {
        **LLAMA, "vocab_size": 13, "hidden_size": 12, "intermediate_size": 9, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 6,
        "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True,
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 100.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    },
    "llama, stretched": {
        **LLAMA, "vocab_size": 12, "hidden_size": 12, "intermediate_size": 8, "num_attention_heads": 2, "num_key_value_heads": 2,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.5},
    },
}  # fmt: skip
KEPT = ("gpt2", "llama, grouped")
LENGTHS = (6, 1, 4)
MAX_TOKENS = 9
STOP = 3


def reference(case: str) -> dict[str, np.ndarray]:
    """Arrays named `weight/...`, `grad/...`, and `config`, `tokens`, `mask`, `direction`, `logits`, `greedy`, `beam`, `scores`."""
    import torch
    import transformers

    torch.manual_seed(list(CASES).index(case))
    fields = dict(CASES[case])
    is_gpt = fields.pop("model_type") == "gpt2"
    kind, architecture = (transformers.GPT2Config, "GPT2LMHeadModel") if is_gpt else (transformers.LlamaConfig, "LlamaForCausalLM")
    no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0} if is_gpt else {}
    # Large enough that attention and the nonlinearity matter.
    config = kind(**fields, **no_dropout, initializer_range=0.4, bos_token_id=None, eos_token_id=None)
    model = getattr(transformers, architecture)(config).double().eval()
    with torch.no_grad():
        for label, parameter in model.named_parameters():
            if label.endswith("bias") or "norm" in label or ".ln_" in label:
                parameter.add_(0.2 * torch.randn(parameter.shape, dtype=torch.float64))
    batch, longest = len(LENGTHS), max(LENGTHS)
    tokens = torch.randint(0, config.vocab_size, (batch, longest))
    mask = torch.arange(longest)[None] < torch.tensor(LENGTHS)[:, None]
    logits = model(tokens, attention_mask=mask.long()).logits
    direction = torch.randn(logits.shape, dtype=torch.float64)
    (direction * logits * mask[..., None]).sum().backward()
    arrays = {"tokens": tokens, "mask": mask, "direction": direction, "logits": logits}
    for label, parameter in model.named_parameters():
        arrays[f"weight/{label}"], arrays[f"grad/{label}"] = parameter, parameter.grad
    rows = [torch.cat([tokens[row, length:], tokens[row, :length]]) for row, length in enumerate(LENGTHS)]
    options = {"max_new_tokens": MAX_TOKENS, "eos_token_id": STOP, "pad_token_id": 0, "do_sample": False, "attention_mask": mask.flip(1).long()}
    arrays["greedy"] = model.generate(torch.stack(rows), **options)[:, longest:]
    beams = {"num_beams": 4, "num_return_sequences": 4, "output_scores": True, "return_dict_in_generate": True}
    found = model.generate(torch.stack(rows), **options, **beams)
    arrays["beam"] = found.sequences[:, longest:].reshape(batch, 4, -1)
    arrays["scores"] = found.sequences_scores.reshape(batch, 4)
    kept = {name: array.detach().numpy() for name, array in arrays.items()}
    for name in ("greedy", "beam"):
        kept[name] = np.pad(kept[name], [*[(0, 0)] * (kept[name].ndim - 1), (0, MAX_TOKENS - kept[name].shape[-1])])
        # Where the padding is token 0, transformers' beams are padded with the stop token.
        is_stop = kept[name] == STOP
        kept[name] = np.where(is_stop.cumsum(-1) - is_stop > 0, 0, kept[name])
    return {"config": np.array(json.dumps({**config.to_dict(), "architectures": [architecture]})), **kept}


if __name__ == "__main__":
    arrays = {f"{case}/{name}": array for case in KEPT for name, array in reference(case).items()}
    np.savez_compressed(Path(__file__).with_name("causal.npz"), **arrays)
