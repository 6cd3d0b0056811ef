"""Texts from a GPT-2 beside transformers: tokens a second, on the same weights, the likeliest token at each time.

A step is one whole call: prompts are read and tokens written, with a cache of keys and values. What is compared as the loss is the mean of the tokens
that were written, which agrees where all of them do. transformers is called as its users do, and with a static cache, which it compiles; "at full
speed" has the limit of PyTorch's matrix library on AMD processors lifted.
"""

import math

import _torch
from _harness import Contestant, Task, Work, main


def model_of(options):
    from dljax.models.gpt import GPT

    context = options["prompt"] + options["new"]
    return GPT(options["vocab_size"], context, options["num_layers"], options["num_heads"], options["width"])


def prepare(work: Work):
    """Weights as GPT-2's begin, but larger, so that what follows depends on what was read; and prompts."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model_of(work.options).init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            np.float32(1 if path[-1].key == "scale" else 0.05) * rng.normal(path[-1].key == "scale", 0.5, leaf.shape).astype(np.float32)
        ),
        shapes["params"],
    )
    prompt = rng.integers(0, work.options["vocab_size"], (work.options["batch_size"], work.options["prompt"]))
    return {"params": params, "prompt": prompt.astype(np.int32)}


def ours(work: Work):
    from functools import partial

    import jax
    import jax.numpy as jnp

    from dljax.models.generation import generate

    arrays = jax.tree.map(jnp.asarray, work.arrays())
    write = jax.jit(partial(generate, model_of(work.options), max_tokens=work.options["new"]))

    def run(steps):
        return [float(jax.block_until_ready(write({"params": arrays["params"]}, arrays["prompt"]).tokens).mean()) for _ in range(steps)]

    return run


def transformers(**options):
    """A contestant that calls `generate` with these options."""

    def build(work: Work):
        import torch
        from transformers import GPT2Config, GPT2LMHeadModel

        from dljax.models.gpt_weights import gpt_weights
        from dljax.models.weights import export_weights

        torch.set_num_threads(work.threads)
        arrays, sizes = work.arrays(), work.options
        config = GPT2Config(
            vocab_size=sizes["vocab_size"],
            n_positions=sizes["prompt"] + sizes["new"],
            n_layer=sizes["num_layers"],
            n_head=sizes["num_heads"],
            n_embd=sizes["width"],
            bos_token_id=None,
            eos_token_id=None,
        )
        model = GPT2LMHeadModel(config).eval()
        tensors = export_weights({"params": arrays["params"]}, gpt_weights(model_of(sizes)))
        model.load_state_dict({name: torch.tensor(tensor) for name, tensor in tensors.items()}, strict=False)
        prompt = torch.tensor(arrays["prompt"]).long()
        asked = {"max_new_tokens": sizes["new"], "do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(prompt), **options}

        def run(steps):
            with torch.inference_mode():
                return [float(model.generate(prompt, **asked)[:, prompt.shape[1] :].double().mean()) for _ in range(steps)]

        return run

    return build


GPT2 = {"vocab_size": 50257, "num_layers": 12, "num_heads": 12, "width": 768, "prompt": 64, "new": 64}
SMALL = {"vocab_size": 1000, "num_layers": 2, "num_heads": 4, "width": 128}


def flops(work: Work) -> float:
    """Of the products with matrices: two operations a weight and token."""
    sizes = work.options
    weights = 12 * sizes["num_layers"] * sizes["width"] ** 2
    tokens = sizes["batch_size"] * (sizes["prompt"] + sizes["new"] - 1)
    return 2.0 * (weights * tokens + math.prod((sizes["vocab_size"], sizes["width"], sizes["batch_size"], sizes["new"])))


def task(batch_size: int) -> Task:
    contestants = {
        "dljax": ours,
        "transformers: generate": transformers(),
        "transformers: static cache": Contestant(transformers(cache_implementation="static"), quick=False),
        "transformers at full speed: generate": Contestant(transformers(), env=_torch.full_speed_mkl),
    }
    return Task(
        f"batch {batch_size}", "tokens/s", contestants, prepare, flops, per_step=batch_size * GPT2["new"], tolerance=1e-6,
        options={**GPT2, "batch_size": batch_size}, small=SMALL,
    )  # fmt: skip


TASKS = [task(1), task(8)]

if __name__ == "__main__":
    main(TASKS)
