"""Stock candle's quantized_llama: the program in candle/, in a process of its own, once per depth and round."""

import json
import os
import subprocess

from cases import Missing

NAME = "candle"
CACHE = "concat-f32"
MANIFEST = os.path.join("benches", "peers", "candle", "Cargo.toml")

# quantized_llama's positions; the program refuses more.
MAX_TOKENS = 4096


class Runner:
    def __init__(self, settings):
        self.settings = settings
        if not os.access(settings.candle, os.X_OK):
            raise Missing(f"{settings.candle} is not there: build it with `cargo build --release --manifest-path "
                          f"{MANIFEST}` (some ten minutes on two cores), or name it with --candle")
        deepest = max(settings.depths) + settings.new_tokens
        if max(deepest, settings.perplexity_tokens) > MAX_TOKENS:
            raise Missing(f"quantized_llama has {MAX_TOKENS} positions, prompt and new tokens together")
        version = subprocess.run([settings.candle, "--version"], capture_output=True, text=True)
        self.about = {"version": version.stdout.strip(), "cache_bytes": "from shape and type"}

    def _run(self, *flags):
        s = self.settings
        # As `kvq --threads` sets them for candle within kvq.
        threads = {name: str(s.threads) for name in ("RAYON_NUM_THREADS", "CANDLE_NUM_THREADS")}
        environment = {"CANDLE_BARRIER_POOL_SPIN_LIMIT": "2000", **os.environ, **threads}
        command = [s.candle, "--model", s.model, "--text", s.text, *flags]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
        found = json.loads(done.stdout)
        if found["threads"] != s.threads:
            raise RuntimeError(f"candle runs on {found['threads']} threads, not on {s.threads}")
        self.about["compiled_for_avx2"] = found["compiled_for_avx2"]
        return found

    def measure(self, depth, figured):
        found = self._run("--depth", str(depth), "--new-tokens", str(self.settings.new_tokens))
        figures = figured.of(NAME, CACHE, depth)
        figures.ms_per_token.append(found["ms_per_token"])
        figures.cache_bytes = found["cache_bytes"]

    def perplexity(self, figured):
        n = self.settings.perplexity_tokens
        found = self._run("--perplexity", str(n))
        for depth in self.settings.depths:
            figures = figured.of(NAME, CACHE, depth)
            figures.perplexity = found["perplexity"]
            figures.perplexity_tokens = n
