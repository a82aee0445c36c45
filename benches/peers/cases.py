"""What every peer measures, and how a figure is written down."""

from dataclasses import dataclass, field
from statistics import median


class Missing(Exception):
    """A peer that cannot run here; the message says how to install what it lacks."""


@dataclass
class Settings:
    model: str
    kvq: str
    candle: str
    text: str
    depths: list
    threads: int
    new_tokens: int
    policies: list
    perplexity_tokens: int


@dataclass
class Figures:
    """One cache of one program at one depth; what was not measured stays None."""

    program: str
    cache: str
    depth: int
    ms_per_token: list = field(default_factory=list)
    attention_ms_per_token: list = field(default_factory=list)
    cache_bytes: int = None
    perplexity: float = None
    perplexity_tokens: int = None

    def row(self):
        times, attention = self.ms_per_token, self.attention_ms_per_token
        return {
            "program": self.program,
            "cache": self.cache,
            "depth_tokens": self.depth,
            "ms_per_token": median(times) if times else None,
            "ms_per_token_rounds": times,
            "attention_ms_per_token": median(attention) if attention else None,
            "attention_ms_per_token_rounds": attention,
            "cache_bytes": self.cache_bytes,
            "perplexity": self.perplexity,
            "perplexity_tokens": self.perplexity_tokens,
        }


class Figured:
    """Figures by program, cache and depth, made when first asked for."""

    def __init__(self):
        self._all = {}

    def of(self, program, cache, depth):
        key = (program, cache, depth)
        return self._all.setdefault(key, Figures(*key))

    def rows(self):
        return [figures.row() for figures in self._all.values()]


def repeated(tokens, n):
    """The first `n` of `tokens`, which start over where they end."""
    if not tokens:
        raise ValueError("the text has no token")
    return (tokens * (n // len(tokens) + 1))[:n]
