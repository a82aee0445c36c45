#!/usr/bin/env python3
"""Continue a prompt greedily with the reference implementation, for comparison with `kvq generate`.

    python3 kvq-host/tests/parity/check_builtin.py [MODEL_DIR] [--prompt TEXT] [--tokens N]

Loads the folder (by default the built-in model) with transformers, in float32 with eager attention and
no cache at all, and prints one JSON object: `prompt`, `prompt_ids`, `text`, `ids` (the new tokens) and
`stopped`, whether the end-of-text token ended it early. The same tokens must come (as `new_token_ids`) from

    kvq generate --dense f32 --prompt TEXT --new-tokens N --temperature 0 --seed 0 --json -

except where the two largest logits are closer than float32 rounding: `min_gap` is the smallest
distance between them over the new tokens.

Needs: torch, transformers.
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

BUILTIN = Path(__file__).resolve().parent.parent.parent / "assets" / "builtin"


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", default=BUILTIN, help="model folder")
    parser.add_argument("--prompt", default="Once upon a time, there was a little girl named Lily.")
    parser.add_argument("--tokens", type=int, default=200, help="new tokens")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(args.model / "tokenizer.json"))
    model = GPT2LMHeadModel.from_pretrained(args.model, dtype=torch.float32, attn_implementation="eager").eval()
    prompt_ids = tokenizer.encode(args.prompt, add_special_tokens=False)
    ids, gaps, stopped = [], [], False
    while len(ids) < args.tokens and not stopped:
        best = model(torch.tensor([prompt_ids + ids]), use_cache=False).logits[0, -1].topk(2)
        gaps.append((best.values[0] - best.values[1]).item())
        stopped = best.indices[0].item() == model.config.eos_token_id
        if not stopped:
            ids.append(best.indices[0].item())
    print(
        json.dumps(
            {
                "prompt": args.prompt,
                "prompt_ids": prompt_ids,
                "text": tokenizer.decode(ids, clean_up_tokenization_spaces=False),
                "ids": ids,
                "stopped": stopped,
                "min_gap": round(min(gaps), 6),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
