//! What a synthetic workload does.

use kvq_codec::KvShape;

/// One step: tokens come, and some of the newest are taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Tokens appended.
    pub append_tokens: usize,
    /// Of the newest, how many are retracted afterwards.
    pub retract_tokens: usize,
}

/// A shape and what happens to its cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its name.
    pub name: &'static str,
    /// One line for people.
    pub description: &'static str,
    /// Shape of the cache.
    pub shape: KvShape,
    /// Query heads.
    pub n_heads: usize,
    /// What happens.
    pub turns: &'static [Turn],
    /// Whether the cache is one buffer of fixed length.
    pub is_fixed: bool,
}

const fn turn(append_tokens: usize, retract_tokens: usize) -> Turn {
    Turn { append_tokens, retract_tokens }
}

/// Every workload.
pub const WORKLOADS: [Workload; 3] = [
    Workload {
        name: "long-context",
        description: "one document of 8,192 tokens, wide heads",
        shape: KvShape::new(1, 2, 128),
        n_heads: 8,
        turns: &[turn(8192, 0)],
        is_fixed: false,
    },
    Workload {
        name: "tool-agent",
        description: "a prompt of 900 tokens, then six tool results, of each of which some tokens are retracted",
        shape: KvShape::new(2, 2, 64),
        n_heads: 6,
        turns: &[
            turn(900, 0),
            turn(350, 50),
            turn(350, 20),
            turn(350, 64),
            turn(350, 5),
            turn(350, 0),
            turn(350, 1),
        ],
        is_fixed: false,
    },
    Workload {
        name: "tiny-firmware",
        description: "512 tokens of narrow heads in one buffer, the least that is sure to hold them",
        shape: KvShape::new(4, 2, 16),
        n_heads: 4,
        turns: &[turn(512, 0)],
        is_fixed: true,
    },
];

impl Workload {
    /// Tokens held at the end.
    pub fn end_tokens(&self) -> usize {
        self.turns.iter().fold(0, |len, turn| len + turn.append_tokens - turn.retract_tokens)
    }

    /// The most tokens held at any time.
    pub fn most_tokens(&self) -> usize {
        let mut len = 0;
        let lengths = self.turns.iter().map(|turn| {
            let top = len + turn.append_tokens;
            len = top - turn.retract_tokens;
            top
        });
        lengths.max().unwrap_or(0)
    }
}
