"""Makes decoding.npz: what transformers' `generate` makes of a small recurrent network, greedily and by beam search.

Run with the extra `oracles`: python tests/golden/make_decoding.py
"""

from pathlib import Path

import numpy as np

VOCABULARY, HIDDEN, MAX_TOKENS, NUM_BEAMS, STOPS, PAD = 11, 8, 9, 4, (3, 7), 1
PENALTIES = (-0.5, 0.0, 1.0, 2.0)
EARLY = (False, True, "never")


def network() -> dict[str, np.ndarray]:
    """h_t = tanh(E[x_t] + W h_{t-1}), logits = U h_t, and prompts padded on the right."""
    rng = np.random.default_rng(3)
    weights = {"embedding": (VOCABULARY, HIDDEN), "recurrent": (HIDDEN, HIDDEN), "output": (HIDDEN, VOCABULARY)}
    arrays = {name: rng.normal(0, 0.9, shape).astype(np.float32) for name, shape in weights.items()}
    lengths = np.array([1, 4, 2, 3, 4, 1])
    prompts = np.where(np.arange(4) < lengths[:, None], rng.integers(0, VOCABULARY, (6, 4)), PAD)
    return {**arrays, "prompts": prompts, "lengths": lengths}


def reference() -> dict[str, np.ndarray]:
    """The network, `greedy` [B, N], and for each kind of search `tokens` [penalties, B, K, N] and `scores` [penalties, B, K]."""
    import torch
    from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import CausalLMOutput

    arrays = network()
    embedding, recurrent, output = (torch.tensor(arrays[name]) for name in ("embedding", "recurrent", "output"))

    class Elman(PreTrainedModel, GenerationMixin):
        config_class = PretrainedConfig

        def __init__(self, config):
            super().__init__(config)
            self.anchor = torch.nn.Parameter(torch.zeros(1))
            self.post_init()

        def forward(self, input_ids, attention_mask=None, **_):
            hidden, logits = torch.zeros(len(input_ids), HIDDEN), []
            for time in range(input_ids.shape[1]):
                hidden = torch.tanh(embedding[input_ids[:, time]] + hidden @ recurrent) * attention_mask[:, time, None]
                logits.append(hidden @ output)
            return CausalLMOutput(logits=torch.stack(logits, 1))

        def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **_):
            return {"input_ids": input_ids, "attention_mask": attention_mask}

    model = Elman(PretrainedConfig(vocab_size=VOCABULARY, is_encoder_decoder=False, num_hidden_layers=1, hidden_size=HIDDEN))
    prompts, lengths = arrays["prompts"], arrays["lengths"]
    left = np.stack([np.roll(prompt, 4 - length) for prompt, length in zip(prompts, lengths, strict=True)])
    given = {"input_ids": torch.tensor(left), "attention_mask": torch.tensor(np.arange(4) >= 4 - lengths[:, None]).long()}
    options = {"max_new_tokens": MAX_TOKENS, "eos_token_id": list(STOPS), "pad_token_id": PAD, "do_sample": False, "use_cache": False}

    def padded(tokens):
        new = tokens[:, 4:].numpy()
        return np.pad(new, ((0, 0), (0, MAX_TOKENS - new.shape[1])), constant_values=PAD)

    arrays["greedy"] = padded(model.generate(**given, **options))
    for early in EARLY:
        tokens, scores = [], []
        for penalty in PENALTIES:
            beams = {"num_beams": NUM_BEAMS, "num_return_sequences": NUM_BEAMS, "length_penalty": penalty, "early_stopping": early}
            found = model.generate(**given, **options, **beams, return_dict_in_generate=True, output_scores=True)
            tokens.append(padded(found.sequences).reshape(len(prompts), NUM_BEAMS, MAX_TOKENS))
            scores.append(found.sequences_scores.numpy().reshape(len(prompts), NUM_BEAMS))
        arrays |= {f"tokens/{early}": np.stack(tokens), f"scores/{early}": np.stack(scores)}
    return arrays


if __name__ == "__main__":
    np.savez_compressed(Path(__file__).with_name("decoding.npz"), **reference())
