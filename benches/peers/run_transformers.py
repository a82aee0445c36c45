"""Hugging Face transformers: its dynamic cache, and QuantizedCache with quanto and hqq at 4 bits.

The GGUF file's weights are restored to fp32, which is what transformers computes with on a CPU: its milliseconds
hold other weight kernels than those of the other programs. Compare its caches with each other.
"""

import importlib
import os
import shutil
import sys
import time

from cases import Missing, repeated

NAME = "transformers"
CACHES = ["dynamic-f32", "quanto-4bit", "hqq-4bit"]
PACKAGES = {
    "torch": "torch",
    "accelerate": "accelerate",
    "gguf": "gguf",
    # Before transformers, whose own message would hide what these lack.
    "hqq.core.quantize": "hqq",
    "transformers": "transformers",
    "optimum.quanto": "optimum-quanto",
}


class Runner:
    def __init__(self, settings):
        os.environ["HF_HUB_OFFLINE"] = "1"
        lacking = []
        for module, package in PACKAGES.items():
            try:
                importlib.import_module(module)
            except ImportError as error:
                lacking.append((package, str(error)))
        # quanto compiles an extension when it is first used; programs of a virtual environment may not be in PATH.
        os.environ["PATH"] = os.path.dirname(sys.executable) + os.pathsep + os.environ.get("PATH", "")
        if not shutil.which("ninja"):
            lacking.append(("ninja", "ninja, with which quanto builds its extension, is not in PATH"))
        if lacking:
            reasons = "; ".join(reason for _, reason in lacking)
            raise Missing(f"{reasons}: pip install {' '.join(package for package, _ in lacking)}")
        import torch
        import transformers

        self.torch, self.transformers, self.settings = torch, transformers, settings
        self.about = {"version": transformers.__version__, "torch": torch.__version__, "weights": "fp32, from GGUF"}
        torch.set_num_threads(settings.threads)
        folder, file = os.path.split(os.path.abspath(settings.model))
        load = {"gguf_file": file, "local_files_only": True}
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **load)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **load).eval()
        with open(settings.text, encoding="utf-8") as text:
            self.tokens = tokenizer(text.read(), add_special_tokens=False)["input_ids"]
        self._build_extensions()

    def _build_extensions(self):
        """Each cache once on a few tokens: what is compiled at first use must not be in a measurement."""
        with self.torch.inference_mode():
            for kind in CACHES:
                cache = self._cache(kind)
                self._forward(repeated(self.tokens, 8), cache)
                self._forward(self.tokens[:1], cache)

    def _cache(self, kind):
        if kind == "dynamic-f32":
            return self.transformers.DynamicCache(config=self.model.config)
        axis = 0 if kind.startswith("quanto") else 1
        return self.transformers.QuantizedCache(
            kind.split("-")[0], self.model.config, nbits=4, axis_key=axis, axis_value=axis)

    def _forward(self, tokens, cache):
        return self.model(self.torch.tensor([tokens]), past_key_values=cache, use_cache=True, logits_to_keep=1)

    def measure(self, depth, figured):
        n = self.settings.new_tokens
        with self.torch.inference_mode():
            for kind in CACHES:
                cache = self._cache(kind)
                text = repeated(self.tokens, depth + n)
                self._forward(text[:depth], cache)
                figures = figured.of(NAME, kind, depth)
                figures.cache_bytes = cache_bytes(self.torch, cache)
                begun = time.perf_counter()
                for token in text[depth:]:
                    self._forward([token], cache)
                figures.ms_per_token.append(1e3 * (time.perf_counter() - begun) / n)

    def perplexity(self, figured):
        """Not taken: token by token it costs minutes per cache."""


def cache_bytes(torch, cache):
    """Bytes of every tensor that the cache's layers hold, each storage once: codes, scales, zero points and the rest.

    Tensor subclasses such as quanto's hide theirs behind `__tensor_flatten__`.
    """
    storages, seen = {}, set()

    def visit(value):
        if id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            if hasattr(value, "__tensor_flatten__") and type(value) is not torch.Tensor:
                for name in value.__tensor_flatten__()[0]:
                    visit(getattr(value, name))
            else:
                storage = value.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, dict):
            for part in value.values():
                visit(part)
        elif isinstance(value, (list, tuple)):
            for part in value:
                visit(part)

    for layer in cache.layers:
        visit(vars(layer))
    return sum(storages.values())
