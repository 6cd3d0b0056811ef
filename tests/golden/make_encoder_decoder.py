"""Makes encoder_decoder.npz: small T5s and Marians (the original Transformer) of transformers, in float64: weights, logits, gradients, texts.

Run with the extra `oracles`: python tests/golden/make_encoder_decoder.py
"""

import json
from pathlib import Path

import numpy as np

MARIAN = {
    "model_type": "marian", "encoder_layers": 2, "decoder_layers": 2, "activation_function": "relu", "scale_embedding": True, "pad_token_id": 0,
    "max_position_embeddings": 40, "forced_eos_token_id": None, "init_std": 0.3,
}  # fmt: skip
CASES = {
    "t5": {"model_type": "t5", "vocab_size": 17, "d_model": 8, "d_kv": 3, "d_ff": 10, "num_layers": 2, "num_heads": 3},
    "t5 1.1": {
        "model_type": "t5", "vocab_size": 15, "d_model": 7, "d_kv": 4, "d_ff": 9, "num_layers": 1, "num_decoder_layers": 2, "num_heads": 2,
        "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 5,
    },
    "t5, gated and tied": {
        "model_type": "t5", "vocab_size": 13, "d_model": 6, "d_kv": 7, "d_ff": 11, "num_layers": 3, "num_decoder_layers": 1, "num_heads": 1,
        "feed_forward_proj": "gated-silu", "relative_attention_num_buckets": 6, "relative_attention_max_distance": 5, "layer_norm_epsilon": 1e-2,
    },
    "marian": {
        **MARIAN, "vocab_size": 16, "d_model": 8, "encoder_ffn_dim": 10, "decoder_ffn_dim": 10, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
    },
    "marian, one head": {
        **MARIAN, "vocab_size": 11, "d_model": 6, "encoder_ffn_dim": 7, "decoder_ffn_dim": 7, "encoder_attention_heads": 1,
        "decoder_attention_heads": 1, "encoder_layers": 1, "decoder_layers": 1,
    },
}  # fmt: skip
KEPT = ("t5", "t5 1.1", "marian")
LENGTHS = (9, 1, 5)
START, STOP = 1, 3
MAX_TOKENS = 8


def model_of(case: str):
    """A model of transformers with random weights, large enough that everything in it matters."""
    import torch
    import transformers

    torch.manual_seed(list(CASES).index(case))
    fields = {**CASES[case], "decoder_start_token_id": START, "eos_token_id": STOP}
    is_t5 = fields.pop("model_type") == "t5"
    config = (transformers.T5Config if is_t5 else transformers.MarianConfig)(**fields)
    model = (transformers.T5ForConditionalGeneration if is_t5 else transformers.MarianMTModel)(config).double().eval()
    if not fields.get("tie_word_embeddings", True):
        model.lm_head.weight = torch.nn.Parameter(torch.randn(config.vocab_size, config.d_model).double())
    with torch.no_grad():
        for label, parameter in model.named_parameters():
            if label.endswith("bias") or "norm" in label:
                parameter.add_(0.2 * torch.randn(parameter.shape, dtype=torch.float64))
            if "relative" in label:
                parameter.mul_(5)
    return model, {**config.to_dict(), "architectures": [type(model).__name__], "tie_word_embeddings": fields.get("tie_word_embeddings", True)}


def reference(case: str) -> dict[str, np.ndarray]:
    """Arrays named `weight/...`, `grad/...`, and `config`, `source`, `mask`, `inputs`, `direction`, `logits`, `greedy`, `beam`, `scores`."""
    import torch

    model, config = model_of(case)
    batch, longest = len(LENGTHS), max(LENGTHS)
    # Marian's embedding of the padding has no gradient in torch: it is in no text.
    source, inputs = torch.randint(1, config["vocab_size"], (batch, longest)), torch.randint(1, config["vocab_size"], (batch, 7))
    mask = torch.arange(longest)[None] < torch.tensor(LENGTHS)[:, None]
    logits = model(input_ids=source, attention_mask=mask.long(), decoder_input_ids=inputs).logits
    direction = torch.randn(logits.shape, dtype=torch.float64)
    (direction * logits).sum().backward()
    arrays = {"source": source, "mask": mask, "inputs": inputs, "direction": direction, "logits": logits}
    for label, parameter in model.named_parameters():
        if parameter.requires_grad:
            arrays[f"weight/{label}"], arrays[f"grad/{label}"] = parameter, parameter.grad
    # The cache of transformers 5 takes the decoder to have as many layers as the encoder.
    options = {"use_cache": False, "max_new_tokens": MAX_TOKENS, "do_sample": False, "attention_mask": mask.long(), "pad_token_id": 0, "eos_token_id": STOP}
    arrays["greedy"] = model.generate(source, num_beams=1, **options)[:, 1:]
    found = model.generate(source, **options, num_beams=4, num_return_sequences=4, output_scores=True, return_dict_in_generate=True)
    arrays["beam"] = found.sequences[:, 1:].reshape(batch, 4, -1)
    arrays["scores"] = found.sequences_scores.reshape(batch, 4)
    kept = {name: array.detach().numpy() for name, array in arrays.items()}
    for name in ("greedy", "beam"):
        # Beam search fills with the stop token where the padding is 0.
        kept[name] = np.where(np.cumsum(kept[name] == STOP, -1) - (kept[name] == STOP) > 0, 0, kept[name])
        kept[name] = np.pad(kept[name], [*[(0, 0)] * (kept[name].ndim - 1), (0, MAX_TOKENS - kept[name].shape[-1])])
    return {"config": np.array(json.dumps(config)), **kept}


if __name__ == "__main__":
    arrays = {f"{case}/{name}": array for case in KEPT for name, array in reference(case).items()}
    np.savez_compressed(Path(__file__).with_name("encoder_decoder.npz"), **arrays)
