//! How long a snapshot is.

use super::header::SNAPSHOT_HEADER_BYTES;
use crate::block::Layout;
use crate::cache::plan::{Plan, max};
use crate::cache::side_plan::SidePlan;
use crate::error::{Error, Side};
use crate::policy::Policy;
use crate::shape::KvShape;

/// Bytes of the CRC-32 at the end.
pub(super) const CRC_BYTES: usize = 4;

/// Bytes at the start of a layer: len, sinks, tokens of the recent window, tokens evicted, spans.
pub(super) const LAYER_HEAD_BYTES: usize = 20;

/// Bytes at the start of a span: tokens, tiers.
pub(super) const SPAN_HEAD_BYTES: usize = 4;

/// A snapshot is never longer than the cache's storage and this: whoever has a buffer of
/// `storage_bytes() + SNAPSHOT_OVERHEAD_BYTES` can write one at any time.
pub const SNAPSHOT_OVERHEAD_BYTES: usize = SNAPSHOT_HEADER_BYTES + CRC_BYTES;

/// Bytes of one sink or one token of the recent window: exponents and 8-bit rows.
pub(super) const fn precise_token_bytes(plan: &Plan) -> usize {
    let n_blocks = plan.key.n_blocks + plan.value.n_blocks;
    2 * n_blocks + plan.key.row_bytes() + plan.value.row_bytes()
}

/// Bytes of a span whose keys and values have these layouts.
pub(super) const fn span_bytes(plan: &Plan, layouts: [Layout; 2]) -> usize {
    let n_blocks = plan.key.n_blocks + plan.value.n_blocks;
    let mut bytes = SPAN_HEAD_BYTES + 2 * n_blocks + plan.span_len * n_blocks;
    if layouts[0].is_centered() {
        bytes += 2 * plan.key.n_blocks + plan.key.token_bytes(4);
    }
    bytes += plan.span_len * token_bytes(&plan.key, layouts[0]);
    bytes + plan.span_len * token_bytes(&plan.value, layouts[1])
}

/// Bytes of the codes of one token in `layout`.
const fn token_bytes(side: &SidePlan, layout: Layout) -> usize {
    let planes = layout.planes();
    let (mut bytes, mut p) = (0, 0);
    while p < planes.len() {
        bytes += side.token_bytes(planes[p]);
        p += 1;
    }
    bytes
}

/// The most bytes of a snapshot of at most `n_tokens` tokens, before anything is demoted.
///
/// A [`trim`](crate::Cache::trim) into a packed span leaves a span of fewer tokens, and with it room that no
/// token fills; where those may add up, [`SNAPSHOT_OVERHEAD_BYTES`] gives the bound that holds whatever
/// was done.
///
/// # Errors
/// [`Error::Shape`], [`Error::Policy`] or [`Error::Feature`].
///
/// # Examples
/// ```
/// use kvq_codec::{KvShape, Policy, snapshot_bytes_max};
///
/// const SHAPE: KvShape = KvShape::new(4, 2, 64);
/// const BYTES: usize = match snapshot_bytes_max(SHAPE, Policy::EIGHT_BIT, 512) {
///     Ok(bytes) => bytes,
///     Err(_) => panic!(),
/// };
/// static PAGE: [u8; BYTES] = [0; BYTES];
/// ```
pub const fn snapshot_bytes_max(shape: KvShape, policy: Policy, n_tokens: usize) -> Result<usize, Error> {
    let plan = match Plan::new(shape, policy) {
        Ok(plan) => plan,
        Err(e) => return Err(e),
    };
    let sinks = if n_tokens < plan.n_sink { n_tokens } else { plan.n_sink };
    let rest = n_tokens - sinks;
    let recent = if rest < plan.hot_len { rest } else { plan.hot_len };
    // A span is packed when the window is full; the first tier has the most bits.
    let spans = rest.saturating_sub(plan.hot_len).div_ceil(max(plan.span_len, 1));
    let layouts = [plan.layout(Side::Key, 0), plan.layout(Side::Value, 0)];
    let layer = LAYER_HEAD_BYTES
        .saturating_add((sinks + recent).saturating_mul(precise_token_bytes(&plan)))
        .saturating_add(spans.saturating_mul(span_bytes(&plan, layouts)));
    Ok(layer.saturating_mul(shape.n_layers).saturating_add(SNAPSHOT_OVERHEAD_BYTES))
}
