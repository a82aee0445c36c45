#!/usr/bin/env python3
"""Milliseconds per token, cache bytes and perplexity of KVQ, stock candle, llama.cpp and transformers on one GGUF file.

All programs take turns within each round, on the same threads; figures are medians over the rounds. See README.md
beside this file for what to install, docs/METHODOLOGY.md for what the figures can say.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys

import run_candle
import run_kvq
import run_llama_cpp
import run_transformers
from cases import Figured, Missing, Settings

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PEERS = {module.NAME: module for module in (run_kvq, run_candle, run_llama_cpp, run_transformers)}


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    at = lambda *parts: os.path.join(ROOT, *parts)
    p.add_argument("--model", default=at("models", "smollm2-135m", "SmolLM2-135M-Instruct.Q4_1.gguf"),
                   help="GGUF file (default: what `cargo xtask fetch-model smollm2-135m` fetches)")
    p.add_argument("--kvq", default=at("target", "release", "kvq"), help="the kvq program")
    p.add_argument("--candle", default=at("benches", "peers", "candle", "target", "release", "kvq-peer-candle"),
                   help="the program that runs stock candle")
    p.add_argument("--text", default=at("kvq-host", "assets", "text", "alice.txt"), help="prompt text")
    p.add_argument("--depths", default="512,2048", type=numbers, help="tokens held (default: 512,2048)")
    p.add_argument("--policy", action="append", help="kvq policy, may be given several times (default: 4x)")
    p.add_argument("--threads", default=1, type=positive)
    p.add_argument("--new-tokens", default=32, type=positive, help="tokens decoded per round and depth (default: 32)")
    p.add_argument("--rounds", default=3, type=positive)
    p.add_argument("--perplexity", default=0, type=int, metavar="N",
                   help="also score the text's first N tokens, token by token (default: 0, not at all)")
    p.add_argument("--peers", default=",".join(PEERS), help=f"which programs (default: {','.join(PEERS)})")
    p.add_argument("--json", help="where the record goes (default: benches/record/TARGET/peers-DATE.json)")
    args = p.parse_args()
    args.peers = args.peers.split(",")
    unknown = [name for name in args.peers if name not in PEERS]
    if unknown:
        p.error(f"--peers {unknown[0]}: allowed are {', '.join(PEERS)}")
    for path, what in ((args.model, "--model"), (args.text, "--text")):
        if not os.path.isfile(path):
            p.error(f"{what}: {path} is not there"
                    + ("; `cargo xtask fetch-model smollm2-135m` fetches it" if what == "--model" else ""))
    if args.perplexity == 1 or args.perplexity < 0:
        p.error("--perplexity takes 0, or 2 and more")
    return args


def numbers(text):
    return [positive(part) for part in text.split(",")]


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def start(names, settings):
    """Every runner, or the end of the program with a list of all that is missing."""
    runners, missing = {}, []
    for name in names:
        try:
            runners[name] = PEERS[name].Runner(settings)
        except Missing as error:
            missing.append(f"{name} cannot run: {error}")
    if missing:
        left = [name for name in names if name in runners]
        hint = f"or measure without: --peers {','.join(left)}" if left else "nothing is left to measure"
        sys.exit("\n".join([f"error: {line}" for line in missing] + [hint]))
    return runners


def machine():
    cpu = None
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            cpu = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), None)
    except OSError:
        pass
    return {"cpu": cpu, "logical_cpus": os.cpu_count(), "os": platform.platform(), "python": platform.python_version()}


def output(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def target():
    lines = (output("rustc", "-vV") or "").splitlines()
    return next((line.split()[1] for line in lines if line.startswith("host:")), platform.machine())


def load():
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def table(rows, depths):
    head = ["program", "cache"] + [f"ms/token at {d}" for d in depths] + [f"MiB at {d}" for d in depths]
    head += [f"attention ms at {d}" for d in depths[-1:]] + ["perplexity"]
    if len(depths) > 1:
        head.insert(2 + len(depths), "ms per 1,000 tokens more")
    lines = [head]
    for program, cache in dict.fromkeys((row["program"], row["cache"]) for row in rows):
        own = {row["depth_tokens"]: row for row in rows if (row["program"], row["cache"]) == (program, cache)}
        figure = lambda value, form: "-" if value is None else format(value, form)
        times = [own[d]["ms_per_token"] for d in depths]
        line = [program, cache] + [figure(time, ".2f") for time in times]
        if len(depths) > 1:
            growth = None if None in times else 1e3 * (times[-1] - times[0]) / (depths[-1] - depths[0])
            line.append(figure(growth, ".2f"))
        sizes = [own[d]["cache_bytes"] for d in depths]
        line += [figure(None if size is None else size / 2**20, ".2f") for size in sizes]
        line.append(figure(own[depths[-1]]["attention_ms_per_token"], ".2f"))
        lines.append(line + [figure(own[depths[0]]["perplexity"], ".3f")])
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join("  ".join(word.ljust(w) if i < 2 else word.rjust(w)
                               for i, (word, w) in enumerate(zip(line, widths))) for line in lines)


def main():
    args = arguments()
    settings = Settings(args.model, args.kvq, args.candle, args.text, sorted(set(args.depths)), args.threads,
                        args.new_tokens, args.policy or ["4x"], args.perplexity)
    runners = start(args.peers, settings)
    figured, load_before = Figured(), load()
    for r in range(args.rounds):
        for depth in settings.depths:
            # Each round begins with another program.
            names = list(runners)
            for name in names[r % len(names):] + names[:r % len(names)]:
                print(f"round {r + 1} of {args.rounds}, depth {depth}: {name}", file=sys.stderr)
                runners[name].measure(depth, figured)
    if settings.perplexity_tokens:
        for name, runner in runners.items():
            print(f"perplexity: {name}", file=sys.stderr)
            runner.perplexity(figured)
    rows = figured.rows()
    record = {
        "schema_version": 1,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": machine(),
        "commit": output("git", "rev-parse", "HEAD"),
        "load_before": load_before,
        "load_after": load(),
        "command_line": sys.argv,
        "model": os.path.basename(args.model),
        "threads": args.threads,
        "new_tokens": args.new_tokens,
        "rounds": args.rounds,
        "programs": {name: runner.about for name, runner in runners.items()},
        "runs": rows,
    }
    print(table(rows, settings.depths))
    path = args.json or os.path.join(ROOT, "benches", "record", target(), f"peers-{record['date']}.json")
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        json.dump(record, file, indent=2)
        file.write("\n")
    print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
