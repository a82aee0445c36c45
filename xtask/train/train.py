#!/usr/bin/env python3
"""Train KVQ's built-in model: a GPT-2 of 0.8 M parameters on one text file, on one CPU thread.

    python3 xtask/train/train.py --text stories.txt --out out --minutes 40

The run stops by the wall clock, and every schedule follows the elapsed fraction of it:

* the first 75 % reads windows of 256 tokens whose position ids start at a random offset, so that
  every position embedding is trained although the windows are short and cheap;
* the last 25 % reads windows of the full 1,024 positions, so that long contexts really work;
* the learning rates warm up, then follow a cosine; dropout is lower on the long windows.

The text has no mark between stories. A quarter of the windows comes from a copy of it in which the
recognizable story beginnings follow `<|endoftext|>`; that is what the token learns its meaning from,
while the model stays at home in the plain text that measurements read.

`--out` receives the Hugging Face layout (config.json, generation_config.json, tokenizer.json,
model.safetensors in f16) and train_report.json, the numbers for the model card. The same files are
written to `--out`/checkpoint every few minutes.

Needs: torch, tokenizers, safetensors, numpy.
"""

import argparse
import copy
import json
import math
import re
import shutil
import time
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn

from gpt2 import Config, Gpt2
from muon import Muon

END_OF_TEXT = "<|endoftext|>"
SHORT_WINDOW = 256
LONG_PHASE_START = 0.75
WARM_UP = 0.01
MARKED_SHARE = 0.25

# UTF-8 that was once read as Windows-1252: the text holds a few hundred such quotation marks.
MOJIBAKE = {
    "\u00e2\u20ac\u0153": '"',
    "\u00e2\u20ac\u009d": '"',
    "\u00e2\u20ac\u2122": "'",
    "\u00e2\u20ac\u02dc": "'",
    "\u00e2\u20ac": '"',
    "\u201c": '"',
    "\u201d": '"',
}
STORY_START = re.compile(r"\n+(?=Once upon a time|Once there (?:was|were|lived))|(?<!\n)\n(?!\n)")


def train_tokenizer(text: str, vocab_size: int) -> Tokenizer:
    """Byte-level BPE: 256 bytes, `<|endoftext|>`, and merges for the rest."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    assert tokenizer.get_vocab_size() == vocab_size
    return tokenizer


def windows(stream, n_windows: int, window_tokens: int):
    """Random windows of `window_tokens` inputs and one more target, `(n_windows, window_tokens + 1)`."""
    at = torch.randint(0, len(stream) - window_tokens, (n_windows, 1))
    return stream[at + torch.arange(window_tokens + 1)]


@torch.no_grad()
def held_out_loss(model: Gpt2, stream, window_tokens: int) -> float:
    """Mean loss over consecutive windows that start at position 0, four at a time."""
    model.eval()
    n = (len(stream) - 1) // window_tokens
    rows = torch.stack([stream[i * window_tokens : (i + 1) * window_tokens + 1] for i in range(n)])
    start = torch.zeros(1, 1, dtype=torch.long)
    parts = [(model.loss(part, start).item(), len(part)) for part in rows.split(4)]
    model.train()
    return sum(loss * n for loss, n in parts) / sum(n for _, n in parts)


def write_model(out: Path, cfg: Config, model: Gpt2, tokenizer: Tokenizer) -> None:
    """Write the Hugging Face layout; weights in f16, the tied head only once."""
    out.mkdir(parents=True, exist_ok=True)
    end = tokenizer.token_to_id(END_OF_TEXT)
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        **asdict(cfg),
        "n_ctx": cfg.n_positions,
        "activation_function": "gelu_new",
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "tie_word_embeddings": True,
        "bos_token_id": end,
        "eos_token_id": end,
        "torch_dtype": "float16",
    }
    generation = {"bos_token_id": end, "eos_token_id": end}
    weights = {f"transformer.{k}": v.detach().half().contiguous() for k, v in model.state_dict().items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    tokenizer.save(str(out / "tokenizer.json"))


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="training text, UTF-8")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--minutes", type=float, default=40.0, help="wall-clock limit of the training")
    parser.add_argument("--batch-tokens", type=int, default=2048, help="tokens per step")
    parser.add_argument("--lr", type=float, default=3e-3, help="peak learning rate of embeddings, gains and biases")
    parser.add_argument("--inner-lr", type=float, default=6e-3, help="peak learning rate of the layers' matrices")
    parser.add_argument("--dropout", type=float, default=0.05, help="dropout of the short windows")
    parser.add_argument("--long-dropout", type=float, default=0.02, help="dropout of the long windows")
    parser.add_argument("--held-out", type=float, default=0.05, help="share of the text kept for evaluation")
    parser.add_argument("--report-minutes", type=float, default=2.0, help="between evaluations and checkpoints")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=20)
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    cfg = Config()

    text = args.text.read_text(encoding="utf-8")
    for bad, good in MOJIBAKE.items():
        text = text.replace(bad, good)
    cut = int(len(text) * (1 - args.held_out))
    train_text, held_text = text[:cut], text[cut:]
    tokenizer = train_tokenizer(train_text, cfg.vocab_size)
    plain = torch.tensor(tokenizer.encode(train_text).ids)
    marked = torch.tensor(tokenizer.encode(STORY_START.sub(END_OF_TEXT, train_text)).ids)
    held = torch.tensor(tokenizer.encode(held_text).ids)

    model = Gpt2(cfg)
    n_parameters = sum(p.numel() for p in model.parameters())
    print(
        f"{n_parameters} parameters, {len(plain)} training tokens, {len(held)} held-out tokens, "
        f"{len(train_text) / len(plain):.2f} characters per token",
        flush=True,
    )
    average = copy.deepcopy(model)
    inner = [p for name, p in model.named_parameters() if name.startswith("h.") and p.dim() == 2]
    vectors = [p for p in model.parameters() if p.dim() == 1] + [model.wpe.weight]
    groups = [{"params": [model.wte.weight], "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizers = [
        torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98), fused=True),
        Muon(inner, lr=args.inner_lr),
    ]
    peaks = [(group, group["lr"]) for optimizer in optimizers for group in optimizer.param_groups]

    begun = time.monotonic()
    last_report, step, seen_tokens = begun, 0, 0
    running, history = None, []
    while True:
        elapsed_s = time.monotonic() - begun
        done = elapsed_s / (args.minutes * 60)
        if done >= 1:
            break
        long_phase = done >= LONG_PHASE_START
        window_tokens = cfg.n_positions if long_phase else SHORT_WINDOW
        dropout = args.long_dropout if long_phase else args.dropout
        cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))
        for group, peak in peaks:
            group["lr"] = peak * min(1.0, done / WARM_UP) * cosine

        n_windows = args.batch_tokens // window_tokens
        stream = marked if torch.rand(()) < MARKED_SHARE else plain
        tokens = windows(stream, n_windows, window_tokens)
        start = torch.randint(0, cfg.n_positions - window_tokens + 1, (n_windows, 1))
        loss = model.loss(tokens, start, dropout)
        model.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        seen_tokens += n_windows * window_tokens
        with torch.no_grad():
            keep = min(0.998, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - keep)
        running = loss.item() if running is None else 0.99 * running + 0.01 * loss.item()

        if step % 200 == 0:
            print(f"{elapsed_s / 60:6.2f} min  step {step:6}  train {running:.4f}  {seen_tokens / elapsed_s:.0f} tokens/s", flush=True)
        if time.monotonic() - last_report >= args.report_minutes * 60:
            row = {
                "minutes": round(elapsed_s / 60, 2),
                "step": step,
                "tokens": seen_tokens,
                "train_loss": round(running, 4),
                "held_out_loss_256": round(held_out_loss(average, held, SHORT_WINDOW), 4),
                "held_out_loss_1024": round(held_out_loss(average, held, cfg.n_positions), 4),
            }
            history.append(row)
            print(json.dumps(row), flush=True)
            write_model(args.out / "checkpoint", cfg, average, tokenizer)
            last_report = time.monotonic()

    last, mean = (held_out_loss(m, held, cfg.n_positions) for m in (model, average))
    chosen = average if mean <= last else model
    write_model(args.out, cfg, chosen, tokenizer)
    report = {
        "parameters": n_parameters,
        "minutes": args.minutes,
        "threads": args.threads,
        "seed": args.seed,
        "steps": step,
        "tokens": seen_tokens,
        "training_tokens": len(plain),
        "epochs": round(seen_tokens / len(plain), 2),
        "characters_per_token": round(len(train_text) / len(plain), 3),
        "held_out_tokens": len(held),
        "train_loss": round(running, 4),
        "held_out_loss_256": round(held_out_loss(chosen, held, SHORT_WINDOW), 4),
        "held_out_loss_1024": round(min(last, mean), 4),
        "weights": "average" if chosen is average else "last",
        "history": history,
    }
    (args.out / "train_report.json").write_text(json.dumps(report, indent=2) + "\n")
    shutil.rmtree(args.out / "checkpoint", ignore_errors=True)
    print(json.dumps({k: v for k, v in report.items() if k != "history"}), flush=True)


if __name__ == "__main__":
    main()
