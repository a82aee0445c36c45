#!/usr/bin/env python3
"""Write the fixture `tests/data/llama-random`: a random Llama and the reference logits for it.

    python3 kvq-host/tests/parity/make_llama_fixture.py

Grouped-query attention (4 heads on 2 KV heads), rotary positions, SiLU, an untied head. The
reference is transformers' own implementation, eager attention, f32, on the CPU.

Needs: torch, transformers, safetensors.
"""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fixture import DATA, randomize, write_fixture


def main() -> None:
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        hidden_act="silu",
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        initializer_range=0.1,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="eager",
    )
    torch.manual_seed(2)
    model = LlamaForCausalLM(config)
    randomize(model, gain_std=0.2, bias_std=0.1)
    write_fixture(model, DATA / "llama-random", n_tokens=24)


if __name__ == "__main__":
    main()
