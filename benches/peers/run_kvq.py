"""KVQ itself: `kvq bench` in a process of its own, once per depth and round."""

import json
import os
import subprocess
import tempfile

from cases import Missing

NAME = "kvq"


class Runner:
    def __init__(self, settings):
        self.settings = settings
        if not os.access(settings.kvq, os.X_OK):
            raise Missing(f"{settings.kvq} is not there: build it with `cargo build --release -p kvq-host`, or name it with --kvq")
        version = subprocess.run([settings.kvq, "--version"], capture_output=True, text=True)
        self.about = {"version": version.stdout.strip()}

    def measure(self, depth, figured):
        s = self.settings
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "record.json")
            command = [s.kvq, "bench", "--model", s.model, "--context", str(depth), "--threads", str(s.threads),
                       "--new-tokens", str(s.new_tokens), "--rounds", "1", "--windows", "0", "--text", s.text,
                       "--json", path]
            for policy in s.policies:
                command += ["--policy", policy]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
            with open(path, encoding="utf-8") as file:
                record = json.load(file)
        self.about["git_revision"] = record["git_revision"]
        self.about["backend"] = record["backend"]
        for run in record["runs"]:
            figures = figured.of(NAME, run["name"], depth)
            figures.ms_per_token.append(1e3 / run["decode_tokens_per_s"])
            figures.attention_ms_per_token.append(run["attention_ms_per_token"])
            figures.cache_bytes = run["kv_bytes"]

    def perplexity(self, figured):
        """Of the first `perplexity_tokens` of the text, for each cache."""
        s = self.settings
        command = [s.kvq, "eval", "--model", s.model, "--text", s.text, "--context", str(s.perplexity_tokens),
                   "--windows", "1", "--threads", str(s.threads), "--json", "-"]
        for policy in s.policies:
            command += ["--policy", policy]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
        for run in json.loads(done.stdout)["runs"]:
            for depth in s.depths:
                figures = figured.of(NAME, run["name"], depth)
                figures.perplexity = run["perplexity"]
                figures.perplexity_tokens = s.perplexity_tokens
