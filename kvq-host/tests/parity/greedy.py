"""Where the greedy text of other caches parts from that of the dense f32 cache, prompt by prompt.

    cargo xtask fetch-model smollm2-135m && cargo build --release
    python3 kvq-host/tests/parity/greedy.py [--prompts FILE] [--policy 8bit] [--new-tokens 64]

The dense f16 cache runs beside the packed one: a prompt at which it parts from f32 is undecided between
two tokens, and no quantizer can be judged by it. Exits with 1 unless all but one prompt are equal.
"""

import argparse
import json
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]


def generate(args, prompt, *cache):
    command = [args.kvq, "generate", "--model", args.model, "--prompt", prompt, "--json", "-"]
    command += ["--new-tokens", str(args.new_tokens), *cache]
    record = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return record["runs"][0]["new_token_ids"]


def parting(a, b):
    if a == b:
        return None
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kvq", default=str(ROOT / "target/release/kvq"))
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--prompts", default=str(HERE.parent / "data/greedy_prompts.txt"))
    parser.add_argument("--policy", default="8bit")
    parser.add_argument("--new-tokens", type=int, default=64)
    args = parser.parse_args()
    prompts = pathlib.Path(args.prompts).read_text().splitlines()
    equal = {"f16": 0, args.policy: 0}
    for prompt in prompts:
        reference = generate(args, prompt, "--dense", "f32")
        words = []
        for name, cache in (("f16", ["--dense", "f16"]), (args.policy, ["--policy", args.policy])):
            at = parting(reference, generate(args, prompt, *cache))
            equal[name] += at is None
            words.append(f"{name} {'equal' if at is None else f'parts at {at}'}")
        print(f"{len(reference)} tokens, {', '.join(words)}: {prompt[:50]}", flush=True)
    print(", ".join(f"{name}: {n} of {len(prompts)} equal" for name, n in equal.items()))
    sys.exit(equal[args.policy] < len(prompts) - 1)


if __name__ == "__main__":
    main()
