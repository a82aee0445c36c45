#!/usr/bin/env python3
"""Write the fixtures `tests/data/llama-random` and `llama3-random`: random Llamas and their reference logits.

    python3 kvq-host/tests/parity/make_llama_fixture.py

Grouped-query attention (4 heads on 2 KV heads), rotary positions, SiLU, an untied head; the second with
the frequencies of Llama 3 scaled for a longer context, and a tied head. The reference is transformers' own implementation, eager attention, f32, on the CPU.

Needs: torch, transformers, safetensors.
"""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fixture import DATA, randomize, write_fixture


COMMON = {
    "vocab_size": 97,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.1,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "attn_implementation": "eager",
}

# Within 16 positions, pair 0 turns 2.5 times (kept), pair 1 0.8 times (on the ramp), the others less (divided).
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 0.3,
    "high_freq_factor": 1.5,
    "original_max_position_embeddings": 16,
}


def main() -> None:
    plain = {"rope_type": "default", "rope_theta": 10000.0}
    torch.manual_seed(2)
    config = LlamaConfig(
        **COMMON, hidden_size=64, intermediate_size=160, head_dim=16, rope_parameters=plain, tie_word_embeddings=False
    )
    model = LlamaForCausalLM(config)
    randomize(model, gain_std=0.2, bias_std=0.1)
    write_fixture(model, DATA / "llama-random", n_tokens=24)
    torch.manual_seed(6)
    config = LlamaConfig(
        **COMMON, hidden_size=64, intermediate_size=96, head_dim=16, rope_parameters=LLAMA3, tie_word_embeddings=True
    )
    model = LlamaForCausalLM(config)
    randomize(model, gain_std=0.2, bias_std=0.1)
    write_fixture(model, DATA / "llama3-random", n_tokens=40)


if __name__ == "__main__":
    main()
