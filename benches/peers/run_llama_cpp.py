"""llama.cpp through llama-cpp-python: f16, q8_0 and q4_0 caches with flash attention.

A context per cache type is kept for the whole run. Each round decodes behind the prompt and then takes those tokens
out of the cache again, so that every round starts at the same depth.
"""

import ctypes
import math
import time

from cases import Missing, repeated

NAME = "llama.cpp"
CACHES = {"f16": "GGML_TYPE_F16", "q8_0": "GGML_TYPE_Q8_0", "q4_0": "GGML_TYPE_Q4_0"}
INSTALL = "pip install cmake && pip install llama-cpp-python  (built from source: a C++ compiler and some ten minutes)"


class Runner:
    def __init__(self, settings):
        try:
            import llama_cpp
        except ImportError as error:
            raise Missing(f"llama-cpp-python ({error}): {INSTALL}") from error
        self.lib = llama_cpp
        self.settings = settings
        system = llama_cpp.llama_print_system_info().decode()
        self.about = {"version": llama_cpp.__version__, "system": system.strip()}
        llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(settings.model.encode(), params)
        if not self.model:
            raise Missing(f"llama.cpp cannot read {settings.model}")
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        with open(settings.text, encoding="utf-8") as file:
            self.tokens = self._tokenize(file.read())
        self.contexts = {}

    def _tokenize(self, text):
        raw = text.encode()
        room = len(raw) + 8
        buffer = (self.lib.llama_token * room)()
        # As kvq reads a text: without a token at its start, without words for special tokens.
        n = self.lib.llama_tokenize(self.vocab, raw, len(raw), buffer, room, False, False)
        if n < 0:
            raise RuntimeError(f"llama_tokenize needs {-n} tokens of room")
        return list(buffer[:n])

    def _context(self, kind, n_tokens):
        lib, s = self.lib, self.settings
        params = lib.llama_context_default_params()
        params.n_ctx = n_tokens
        params.n_batch = params.n_ubatch = 512
        params.n_threads = params.n_threads_batch = s.threads
        params.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.type_k = params.type_v = getattr(lib, CACHES[kind])
        context = lib.llama_init_from_model(self.model, params)
        if not context:
            raise RuntimeError(f"llama.cpp makes no context with a {kind} cache")
        return context

    def _decode(self, context, tokens):
        array = (self.lib.llama_token * len(tokens))(*tokens)
        status = self.lib.llama_decode(context, self.lib.llama_batch_get_one(array, len(tokens)))
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}")
        self.lib.llama_synchronize(context)

    def measure(self, depth, figured):
        lib, s = self.lib, self.settings
        for kind in CACHES:
            key = (kind, depth)
            if key not in self.contexts:
                self.contexts[key] = self._context(kind, depth + s.new_tokens)
                prompt = repeated(self.tokens, depth)
                for at in range(0, depth, 512):
                    self._decode(self.contexts[key], prompt[at:at + 512])
                figures = figured.of(NAME, kind, depth)
                figures.cache_bytes = lib.llama_state_seq_get_size(self.contexts[key], 0)
            context = self.contexts[key]
            new = repeated(self.tokens, depth + s.new_tokens)[depth:]
            begun = time.perf_counter()
            for token in new:
                self._decode(context, [token])
            took = time.perf_counter() - begun
            figured.of(NAME, kind, depth).ms_per_token.append(1e3 * took / s.new_tokens)
            if not lib.llama_memory_seq_rm(lib.llama_get_memory(context), 0, depth, -1):
                raise RuntimeError("llama.cpp did not take the new tokens out of its cache")

    def perplexity(self, figured):
        lib, n = self.lib, self.settings.perplexity_tokens
        n_vocab = lib.llama_vocab_n_tokens(self.vocab)
        window = repeated(self.tokens, n)
        for kind in CACHES:
            context = self._context(kind, n)
            loss = 0.0
            # One token at a time, so that each reads the cache and not the batch that it came in.
            for token, following in zip(window, window[1:]):
                self._decode(context, [token])
                logits = lib.llama_get_logits_ith(context, -1)[:n_vocab]
                top = max(logits)
                loss += math.log(sum(math.exp(x - top) for x in logits)) + top - logits[following]
            lib.llama_free(context)
            for depth in self.settings.depths:
                figures = figured.of(NAME, kind, depth)
                figures.perplexity = math.exp(loss / (n - 1))
                figures.perplexity_tokens = n


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def _silent(_level, _text, _user):
    pass
