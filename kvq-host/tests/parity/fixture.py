"""What the fixture scripts share: random gains and biases, and the three files of a fixture.

A fixture is a folder in the Hugging Face layout (config.json, model.safetensors in f32) with
expected.json beside it: `tokens` `(len)` and `logits` `(len, vocab)`, the logits of every position.
"""

import json
from pathlib import Path

import torch

DATA = Path(__file__).resolve().parent.parent / "data"


@torch.no_grad()
def randomize(model, gain_std: float, bias_std: float) -> None:
    """Draw what initialization leaves constant: vectors are gains around 1 or biases around 0."""
    for name, parameter in model.named_parameters():
        if parameter.dim() != 1:
            continue
        if name.endswith("bias"):
            parameter.normal_(0.0, bias_std)
        else:
            parameter.normal_(1.0, gain_std)


@torch.no_grad()
def write_fixture(model, folder: Path, n_tokens: int) -> None:
    """Save the model, read it back, and record the logits of `n_tokens` random tokens."""
    torch.set_num_threads(1)
    model.float().eval().save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    model = type(model).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    tokens = torch.randint(0, model.config.vocab_size, (1, n_tokens))
    logits = model(tokens).logits[0]
    rows = ",\n".join("  [" + ", ".join(f"{x:.9g}" for x in row) + "]" for row in logits.tolist())
    text = f'{{\n "tokens": {json.dumps(tokens[0].tolist())},\n "logits": [\n{rows}\n ]\n}}\n'
    (folder / "expected.json").write_text(text)
    (folder / "model.safetensors").chmod(0o644)
    print(folder.name, "logits from", f"{logits.min():.3f} to {logits.max():.3f},", "std", f"{logits.std():.3f}")
