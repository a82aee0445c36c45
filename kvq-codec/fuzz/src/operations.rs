//! Random operations on a cache, against plain floats and against a cache built fresh from what survived.
//!
//! The plain reference is the list of tokens, attended in f64. While no span was packed since the cache was empty,
//! and with one tier wherever the spans are the same, the fresh cache must agree bit for bit; else both stay
//! within the bound of their coarsest layout (docs/NUMERICS.md).

use kvq_codec::{Backend, Cache, Error, KvShape, Layout, Side};

use super::support::*;

/// What a run has seen, so that a test can tell that it saw enough.
#[derive(Debug, Default)]
pub struct Seen {
    /// Comparisons with a fresh cache that had to be exact, and of these, with packed spans.
    pub exact: usize,
    pub exact_packed: usize,
    /// Comparisons within a bound.
    pub bounded: usize,
    /// The largest share of the bound that was used.
    pub worst: f64,
}

/// The largest distance of an attention output from the exact one, relative to the largest norm of a visible value,
/// for the coarsest layout of a policy: measured, and stated in docs/NUMERICS.md.
pub fn bound(layout: Layout) -> f64 {
    match layout {
        Layout::Q8 => 0.05,
        Layout::S4 | Layout::T4 => 0.4,
        Layout::S3 | Layout::T3 => 0.7,
        Layout::S2 | Layout::T2 => 1.2,
    }
}

/// One token: keys and values of every head.
type Token = (Vec<f32>, Vec<f32>);

/// The cache under test, and what it should hold.
struct Run<const GROWS: bool> {
    cache: Cache<Memory<GROWS>>,
    tokens: Vec<Token>,
    /// Start and count of every packed span.
    spans: Vec<(usize, usize)>,
    n_tiers: usize,
    random: Random,
    seen: Seen,
}

/// The first byte chooses the policy, the second the shape and the backend, the third the tokens; the rest are
/// pairs of an operation and its argument.
pub fn run(data: &[u8]) -> Seen {
    let [choice, how, seed, rest @ ..] = data else { return Seen::default() };
    let shape = SHAPES[usize::from(how / 8) % SHAPES.len()];
    let backend = Backend::available().nth(usize::from((how / 2) & 1)).unwrap_or(Backend::SCALAR);
    let kind = if how & 1 == 0 { Kind::Aged } else { Kind::Pressed };
    let (policy, n_tiers) = policy(*choice, kind);
    let random = Random::new(u64::from(*seed));
    if kind == Kind::Aged {
        let cache = empty(shape, policy, backend);
        Run::<true> { cache, tokens: vec![], spans: vec![], n_tiers, random, seen: Seen::default() }.go(rest)
    } else {
        let cache = empty(shape, policy, backend);
        Run::<false> { cache, tokens: vec![], spans: vec![], n_tiers, random, seen: Seen::default() }.go(rest)
    }
}

impl<const GROWS: bool> Run<GROWS> {
    fn go(mut self, operations: &[u8]) -> Seen {
        for pair in operations.as_chunks::<2>().0.iter().take(64) {
            let argument = usize::from(pair[1]);
            match pair[0] % 16 {
                0..=5 => self.append(1 + argument % 12),
                6..=8 => self.trim(argument),
                9 => self.fork(),
                10 => self.restore(),
                11 => self.refuse(argument),
                12 if argument > 200 => self.clear(),
                _ => self.attend(argument),
            }
            assert_eq!(self.cache.len(), self.tokens.len());
            check_books(&self.cache);
        }
        self.attend(1);
        self.seen
    }

    fn shape(&self) -> KvShape {
        self.cache.shape()
    }

    /// `tokens[from..]` as `(n_kv_heads, tokens, head_dim)`.
    fn slab(&self, from: usize, side: Side) -> Vec<f32> {
        let shape = self.shape();
        let dim = if side == Side::Key { shape.key_head_dim } else { shape.value_head_dim };
        let rows = (0..shape.n_kv_heads).flat_map(|head| self.tokens[from..].iter().map(move |t| (head, t)));
        rows.flat_map(|(head, (k, v))| {
            let row = if side == Side::Key { k } else { v };
            row[head * dim..(head + 1) * dim].to_vec()
        })
        .collect()
    }

    fn append_to(&self, cache: &mut Cache<Memory<GROWS>>, from: usize) {
        let (keys, values) = (self.slab(from, Side::Key), self.slab(from, Side::Value));
        for layer in 0..self.shape().n_layers {
            cache.append(layer, self.tokens.len() - from, &keys, &values).unwrap();
        }
    }

    fn append(&mut self, n: usize) {
        let (shape, from) = (self.shape(), self.tokens.len());
        for _ in 0..n {
            let mut row = |n: usize| (0..n).map(|_| self.random.value()).collect::<Vec<_>>();
            let keys = row(shape.n_kv_heads * shape.key_head_dim);
            self.tokens.push((keys, row(shape.n_kv_heads * shape.value_head_dim)));
        }
        let nothing = self.nothing();
        let mut cache = std::mem::replace(&mut self.cache, nothing);
        self.append_to(&mut cache, from);
        self.cache = cache;
        pack(&mut self.spans, self.cache.policy(), from, self.tokens.len());
    }

    fn nothing(&self) -> Cache<Memory<GROWS>> {
        empty(self.shape(), *self.cache.policy(), self.cache.backend())
    }

    fn evicted(&self) -> usize {
        self.tokens.len() - self.held()
    }

    fn held(&self) -> usize {
        self.cache.tier_map(0, Side::Key).unwrap().iter().map(|tier| tier.tokens).sum()
    }

    fn trim(&mut self, argument: usize) {
        let len = self.tokens.len();
        let to = len - argument % (len.min(40) + 1);
        let before = snapshot(&self.cache);
        match self.cache.trim(to) {
            Ok(()) => {
                self.tokens.truncate(to);
                self.spans.retain_mut(|(start, count)| {
                    *count = (*count).min(to.saturating_sub(*start));
                    *count > 0
                });
            }
            Err(error) => {
                assert!(matches!(error, Error::Evicted { .. }) && self.evicted() > 0, "{error}");
                assert!(snapshot(&self.cache) == before);
            }
        }
    }

    fn clear(&mut self) {
        self.cache.clear();
        self.tokens.clear();
        self.spans.clear();
    }

    fn fork(&mut self) {
        let mut other = self.nothing();
        other.append(0, 1, &self.slab_of_ones(Side::Key), &self.slab_of_ones(Side::Value)).unwrap();
        self.cache.fork_into(&mut other).unwrap();
        self.take_over(other);
    }

    fn restore(&mut self) {
        let mut other = self.nothing();
        other.restore(&snapshot(&self.cache)).unwrap();
        self.take_over(other);
    }

    /// Goes on with a copy, which must be the same in every bit.
    fn take_over(&mut self, other: Cache<Memory<GROWS>>) {
        assert!(snapshot(&self.cache) == snapshot(&other));
        for layer in 0..self.shape().n_layers {
            if !self.tokens.is_empty() {
                assert_eq!(attend(&self.cache, layer, 5, 0.0), attend(&other, layer, 5, f32::NAN));
            }
        }
        self.cache = other;
    }

    fn slab_of_ones(&self, side: Side) -> Vec<f32> {
        let shape = self.shape();
        let dim = if side == Side::Key { shape.key_head_dim } else { shape.value_head_dim };
        vec![1.0; shape.n_kv_heads * dim]
    }

    /// Calls that are refused change nothing.
    fn refuse(&mut self, argument: usize) {
        let before = snapshot(&self.cache);
        let (mut keys, values) = (self.slab_of_ones(Side::Key), self.slab_of_ones(Side::Value));
        let layer = argument % self.shape().n_layers;
        let at = argument % keys.len();
        keys[at] = [f32::NAN, f32::INFINITY, -2e30][argument % 3];
        assert!(matches!(self.cache.append(layer, 1, &keys, &values), Err(Error::NotFinite { .. })));
        let outcome = self.cache.append(layer, 2, &keys, &values);
        assert!(matches!(outcome, Err(Error::Length { .. })));
        assert!(matches!(self.cache.trim(self.tokens.len() + 1), Err(Error::PastEnd { .. })));
        assert!(snapshot(&self.cache) == before);
    }

    /// Attention against the plain reference, against garbage in the output, and against a fresh cache.
    fn attend(&mut self, argument: usize) {
        if self.tokens.is_empty() {
            return;
        }
        let (shape, seed) = (self.shape(), argument as u64);
        let layer = argument % shape.n_layers;
        let out = attend(&self.cache, layer, seed, 0.0);
        assert_eq!(out, attend(&self.cache, layer, seed, f32::NAN), "what was in the output shows");
        let coarsest = self.coarsest();
        let distance = self.distance(&out, seed);
        self.seen.worst = self.seen.worst.max(distance / bound(coarsest));
        assert!(distance <= bound(coarsest), "{distance} from exact with {coarsest:?}");
        self.seen.bounded += 1;
        if !GROWS {
            return;
        }
        let mut fresh = self.nothing();
        self.append_to(&mut fresh, 0);
        let mut spans = Vec::new();
        pack(&mut spans, self.cache.policy(), 0, self.tokens.len());
        if self.spans.is_empty() && spans.is_empty() || self.n_tiers == 1 && self.spans == spans {
            self.seen.exact += 1;
            self.seen.exact_packed += usize::from(!spans.is_empty());
            assert_eq!(out, attend(&fresh, layer, seed, 0.0), "a fresh cache attends otherwise");
        }
    }

    /// The layout with the fewest bits that holds a token.
    fn coarsest(&self) -> Layout {
        let sides = [Side::Key, Side::Value].map(|side| self.cache.tier_map(0, side).unwrap());
        let used = sides.iter().flatten().filter(|tier| tier.tokens > 0).map(|tier| tier.layout);
        used.min_by_key(|layout| layout.code_bits()).unwrap_or(Layout::Q8)
    }

    /// Distance from exact attention, relative to the largest norm of a visible value; the most of any head.
    fn distance(&self, out: &[f32], seed: u64) -> f64 {
        let (shape, policy, len) = (self.shape(), self.cache.policy(), self.tokens.len());
        let (kd, vd) = (shape.key_head_dim, shape.value_head_dim);
        let mut random = Random::new(seed);
        let query: Vec<f32> = (0..shape.n_kv_heads * kd).map(|_| random.value()).collect();
        let window = match policy.window_len as usize {
            0 => len,
            window => window,
        };
        let evicted = self.evicted();
        let n_sink = usize::from(policy.n_sink);
        let is_visible = |&t: &usize| t + window >= len && (t < n_sink || t >= n_sink + evicted);
        let visible: Vec<usize> = (0..len).filter(is_visible).collect();
        let mut worst = 0.0f64;
        for head in 0..shape.n_kv_heads {
            let dot = |a: &[f32], b: &[f32]| {
                a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>()
            };
            let scores: Vec<f64> = visible
                .iter()
                .map(|&t| {
                    let key = &self.tokens[t].0[head * kd..(head + 1) * kd];
                    dot(key, &query[head * kd..(head + 1) * kd]) / (kd as f64).sqrt()
                })
                .collect();
            let peak = scores.iter().fold(f64::NEG_INFINITY, |m, s| m.max(*s));
            let sum: f64 = scores.iter().map(|s| (s - peak).exp()).sum();
            let (mut exact, mut largest) = (vec![0.0f64; vd], 0.0f64);
            for (&t, score) in visible.iter().zip(&scores) {
                let value = &self.tokens[t].1[head * vd..(head + 1) * vd];
                largest = largest.max(dot(value, value).sqrt());
                let weight = (score - peak).exp() / sum;
                exact.iter_mut().zip(value).for_each(|(e, v)| *e += weight * f64::from(*v));
            }
            let got = &out[head * vd..(head + 1) * vd];
            let error: f64 = exact.iter().zip(got).map(|(e, g)| (e - f64::from(*g)).powi(2)).sum();
            worst = worst.max(error.sqrt() / largest.max(1e-9));
        }
        worst
    }
}

/// The spans that are packed while tokens `from..to` are appended one by one.
fn pack(spans: &mut Vec<(usize, usize)>, policy: &kvq_codec::Policy, from: usize, to: usize) {
    let (span_len, n_sink) = (usize::from(policy.span_len), usize::from(policy.n_sink));
    let hot_len = usize::from(policy.recent_len) + span_len;
    for token in from..to {
        let packed = spans.last().map_or(n_sink, |(start, count)| start + count);
        if token >= packed + hot_len {
            spans.push((packed, span_len));
        }
    }
}
