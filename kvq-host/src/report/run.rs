//! One cache's figures: the object that a record holds per run.

use serde::{Deserialize, Serialize};

use super::filling::{GrowthPoint, QuarterRecord, TierMapRecord, growth, quarters};
use crate::eval::{Quality, Scored};
use crate::kv_store::KvBytes;
use crate::measure::{CacheChoice, Held, Measured};

/// Facts at one depth of a text, asked for at its end.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NeedleRecord {
    /// Depth, percent of the text before the fact.
    pub depth_pct: usize,
    /// Facts asked for.
    pub trials: usize,
    /// Facts found again.
    pub retrieved: usize,
}

/// One cache's figures; `None` (`null`) is what was not measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Run {
    /// `dense-f32`, `dense-f16` or the policy's name.
    pub name: String,
    /// Name of the policy in the record's `policies`; null for a dense cache.
    pub policy: Option<String>,
    /// Tokens held when bytes were counted; decode speed is at this depth.
    pub context_tokens: usize,
    /// All bytes held: the sum of the eight fields that end in `_bytes` from `code_bytes` on.
    pub kv_bytes: usize,
    /// `context_tokens · kv_fp16_bytes_per_token`.
    pub kv_fp16_bytes: usize,
    /// `kv_fp16_bytes / kv_bytes`.
    pub compression_vs_fp16: f64,
    /// `8 · kv_bytes / values held`, bits per value.
    pub effective_bpv: f64,
    /// Packed codes, or the values themselves in a dense cache.
    pub code_bytes: usize,
    /// Scales of packed blocks.
    pub scale_bytes: usize,
    /// Key centers of spans.
    pub center_bytes: usize,
    /// Newest tokens kept precise.
    pub recent_bytes: usize,
    /// First tokens kept precise.
    pub sink_bytes: usize,
    /// Lengths, tables and the cache's own struct.
    pub header_bytes: usize,
    /// Working memory kept between calls.
    pub scratch_bytes: usize,
    /// Allocated and holding nothing.
    pub unused_bytes: usize,
    /// Median over rounds of `context_tokens / time to take in the prompt`.
    pub prefill_tokens_per_s: Option<f64>,
    /// Median over rounds of `new tokens / time to decode them`.
    pub decode_tokens_per_s: Option<f64>,
    /// Median over rounds of `time in attention over this cache, all layers / new tokens`, milliseconds of a token decoded.
    pub attention_ms_per_token: Option<f64>,
    /// Median over rounds of `decode time of dense-f16 / own decode time`.
    pub speed_vs_dense_f16: Option<f64>,
    /// Median over rounds of `decode time of dense-f32 / own decode time`.
    pub speed_vs_dense_f32: Option<f64>,
    /// `speed_vs_dense_f16` of the prompt.
    pub prefill_speed_vs_dense_f16: Option<f64>,
    /// `exp(mean negative log-likelihood)`.
    pub perplexity: Option<f64>,
    /// `100 (perplexity / perplexity of dense-f32 − 1)`, percent.
    pub perplexity_delta_pct: Option<f64>,
    /// Its standard error over windows, percent points.
    pub perplexity_delta_pct_standard_error: Option<f64>,
    /// Mean of `KL(dense-f32 ‖ this cache)` over scored positions, nats; null for dense-f32 itself.
    pub kld_mean: Option<f64>,
    /// Its standard error over windows, nats.
    pub kld_mean_standard_error: Option<f64>,
    /// 99th percentile of the same over positions, nats.
    pub kld_p99: Option<f64>,
    /// Positions where this cache and dense-f32 put the same token first, percent.
    pub top1_agreement_pct: Option<f64>,
    /// Its standard error over windows, percent points.
    pub top1_agreement_pct_standard_error: Option<f64>,
    /// `kld_mean` on repeats of a passage from more than half a context earlier, nats.
    pub recall_kld_mean: Option<f64>,
    /// Its standard error over windows, nats.
    pub recall_kld_mean_standard_error: Option<f64>,
    /// `‖attention − attention of dense-f32‖ / ‖attention of dense-f32‖` on synthetic queries; null elsewhere.
    pub attention_error: Option<f64>,
    /// Facts found again, by their depth; null where none was asked for.
    pub needle: Option<Vec<NeedleRecord>>,
    /// Bytes held while the cache filled, by length; null where that was not watched.
    pub growth: Option<Vec<GrowthPoint>>,
    /// Tokens by tier at `context_tokens`; null for a dense cache.
    pub tier_map: Option<TierMapRecord>,
    /// The quarters of the scored windows, in order; null where no window was scored.
    pub quarters: Option<Vec<QuarterRecord>>,
    /// Peak resident memory of the process, bytes; null where the process held other caches as well.
    pub peak_rss_bytes: Option<u64>,
    /// Tokens generated behind the prompt.
    pub new_token_ids: Option<Vec<u32>>,
    /// Their text.
    pub new_text: Option<String>,
}

impl Run {
    /// A run of which only the bytes are known.
    pub fn new(cache: &CacheChoice, bytes: KvBytes, tokens_held: usize, fp16_bytes_per_token: usize) -> Self {
        let kv_bytes = bytes.total();
        let kv_fp16_bytes = tokens_held * fp16_bytes_per_token;
        Self {
            name: cache.name().into(),
            policy: cache.policy().map(|policy| policy.name.clone()),
            context_tokens: tokens_held,
            kv_bytes,
            kv_fp16_bytes,
            compression_vs_fp16: kv_fp16_bytes as f64 / kv_bytes as f64,
            // Two bytes of fp16 per value.
            effective_bpv: 8.0 * kv_bytes as f64 / (kv_fp16_bytes as f64 / 2.0),
            code_bytes: bytes.code_bytes,
            scale_bytes: bytes.scale_bytes,
            center_bytes: bytes.center_bytes,
            recent_bytes: bytes.recent_bytes,
            sink_bytes: bytes.sink_bytes,
            header_bytes: bytes.header_bytes,
            scratch_bytes: bytes.scratch_bytes,
            unused_bytes: bytes.unused_bytes,
            ..Self::default()
        }
    }

    /// From what a cache held while it filled: bytes and tiers at the end, and the way there.
    pub fn filled(cache: &CacheChoice, held: &[Held], fp16_bytes_per_token: usize) -> Self {
        let last = held.last().cloned().unwrap_or_default();
        let mut run = Self::new(cache, last.bytes, last.tokens, fp16_bytes_per_token);
        run.growth = Some(growth(held));
        run.tier_map = last.tiers.as_ref().map(TierMapRecord::from);
        run
    }

    /// Adds the speed of a cache beside the two dense ones.
    #[must_use]
    pub fn with_speed(mut self, own: &Measured, f32: &Measured, f16: &Measured, new_tokens: usize) -> Self {
        self.prefill_tokens_per_s = own.prefill_tokens_per_s(self.context_tokens);
        self.decode_tokens_per_s = own.decode_tokens_per_s(new_tokens);
        self.attention_ms_per_token = own.attention_ms_per_token(new_tokens);
        self.speed_vs_dense_f16 = own.decode_speed_vs(f16);
        self.speed_vs_dense_f32 = own.decode_speed_vs(f32);
        self.prefill_speed_vs_dense_f16 = own.prefill_speed_vs(f16);
        self
    }

    /// Adds what plain windows said. The reference has a perplexity, and no divergence from itself.
    #[must_use]
    pub fn with_quality(mut self, scored: &Scored, is_reference: bool) -> Self {
        let Some(quality) = Quality::of(&scored.windows) else { return self };
        self.perplexity = Some(quality.perplexity);
        self.quarters = Some(quarters(&scored.windows, &scored.held, is_reference));
        if is_reference {
            return self;
        }
        self.perplexity_delta_pct = Some(quality.perplexity_delta_pct.value);
        self.perplexity_delta_pct_standard_error = quality.perplexity_delta_pct.standard_error;
        self.kld_mean = Some(quality.kld_mean.value);
        self.kld_mean_standard_error = quality.kld_mean.standard_error;
        self.kld_p99 = Some(quality.kld_p99);
        self.top1_agreement_pct = Some(quality.top1_agreement_pct.value);
        self.top1_agreement_pct_standard_error = quality.top1_agreement_pct.standard_error;
        self
    }

    /// Adds what recall windows said.
    #[must_use]
    pub fn with_recall(mut self, scored: &Scored, is_reference: bool) -> Self {
        if let (Some(quality), false) = (Quality::of(&scored.windows), is_reference) {
            self.recall_kld_mean = Some(quality.kld_mean.value);
            self.recall_kld_mean_standard_error = quality.kld_mean.standard_error;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keys that every run promises.
    const KEYS: [&str; 26] = [
        "name",
        "policy",
        "context_tokens",
        "kv_bytes",
        "kv_fp16_bytes",
        "compression_vs_fp16",
        "effective_bpv",
        "code_bytes",
        "scale_bytes",
        "center_bytes",
        "recent_bytes",
        "sink_bytes",
        "header_bytes",
        "scratch_bytes",
        "unused_bytes",
        "prefill_tokens_per_s",
        "decode_tokens_per_s",
        "speed_vs_dense_f16",
        "speed_vs_dense_f32",
        "perplexity",
        "perplexity_delta_pct",
        "kld_mean",
        "kld_p99",
        "top1_agreement_pct",
        "recall_kld_mean",
        "peak_rss_bytes",
    ];

    #[test]
    fn every_key_is_there_and_what_was_not_measured_is_null() {
        let bytes = KvBytes { code_bytes: 900, header_bytes: 100, ..KvBytes::default() };
        let run = Run::new(&CacheChoice::DenseF16, bytes, 10, 400);
        let json = serde_json::to_value(&run).unwrap();
        for key in KEYS {
            assert!(json.get(key).is_some(), "{key}");
        }
        for key in &KEYS[15..] {
            assert!(json[key].is_null(), "{key}");
        }
        assert_eq!((run.kv_bytes, run.kv_fp16_bytes), (1000, 4000));
        assert_eq!(run.compression_vs_fp16, 4.0);
        assert_eq!(run.effective_bpv, 4.0);
    }
}
