#!/usr/bin/env python3
"""Write the fixtures `tests/data/qwen2-random` and `qwen3-random`: random models and their reference logits.

    python3 kvq-host/tests/parity/make_qwen_fixtures.py

Qwen2 adds a bias to queries, keys and values, here with 4 heads on 2 KV heads and a tied head. Qwen3
normalizes each query and key head instead, here with heads of 24 that are not hidden/heads and with an
untied head. The reference is transformers' own implementation, eager attention, f32, on the CPU.

Needs: torch, transformers, safetensors.
"""

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from fixture import DATA, randomize, write_fixture

COMMON = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    "use_sliding_window": False,
    "initializer_range": 0.1,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "attn_implementation": "eager",
}


def main() -> None:
    torch.manual_seed(3)
    model = Qwen2ForCausalLM(Qwen2Config(**COMMON, tie_word_embeddings=True))
    randomize(model, gain_std=0.2, bias_std=0.3)
    write_fixture(model, DATA / "qwen2-random", n_tokens=24)
    torch.manual_seed(4)
    model = Qwen3ForCausalLM(Qwen3Config(**COMMON, head_dim=24, tie_word_embeddings=False))
    randomize(model, gain_std=0.2, bias_std=0.1)
    write_fixture(model, DATA / "qwen3-random", n_tokens=24)


if __name__ == "__main__":
    main()
