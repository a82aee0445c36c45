#!/usr/bin/env python3
"""Write the fixture `tests/data/gemma3-random`: a random Gemma 3 and the reference logits for it.

    python3 kvq-host/tests/parity/make_gemma3_fixture.py

Heads of 256, one layer that sees 8 tokens and one that sees all, rotations of two bases of which the
second is scaled, a query scale that is not that of the head size, norms before and after each half with
gains stored less one, GELU, and scaled, tied embeddings. The reference is transformers' own
implementation, eager attention, f32, on the CPU.

Needs: torch, transformers, safetensors.
"""

import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from fixture import DATA, randomize, write_fixture


def main() -> None:
    config = Gemma3TextConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=256,
        hidden_activation="gelu_pytorch_tanh",
        max_position_embeddings=64,
        rms_norm_eps=1e-6,
        query_pre_attn_scalar=168,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
        },
        initializer_range=0.1,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="eager",
    )
    torch.manual_seed(5)
    model = Gemma3ForCausalLM(config)
    randomize(model, gain_std=0.2, bias_std=0.1)
    with torch.no_grad():
        # Gains are stored less one.
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.sub_(1.0)
    write_fixture(model, DATA / "gemma3-random", n_tokens=24)


if __name__ == "__main__":
    main()
