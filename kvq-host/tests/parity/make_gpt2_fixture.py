#!/usr/bin/env python3
"""Write the fixture `tests/data/gpt2-random`: a random GPT-2 and the reference logits for it.

    python3 kvq-host/tests/parity/make_gpt2_fixture.py

The weights are drawn wider than GPT-2's initialization, and biases and layer-norm gains are random
too, so that a parameter that is dropped, transposed or applied twice moves the logits visibly.
The reference is transformers' own implementation, eager attention, f32, on the CPU.

Needs: torch, transformers, safetensors.
"""

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from fixture import DATA, randomize, write_fixture


def main() -> None:
    config = GPT2Config(
        vocab_size=97,
        n_positions=64,
        n_embd=64,
        n_layer=2,
        n_head=4,
        activation_function="gelu_new",
        initializer_range=0.1,
        attn_pdrop=0.0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        attn_implementation="eager",
    )
    torch.manual_seed(1)
    model = GPT2LMHeadModel(config)
    randomize(model, gain_std=0.2, bias_std=0.1)
    write_fixture(model, DATA / "gpt2-random", n_tokens=24)


if __name__ == "__main__":
    main()
