//! What a cache holds, as log lines.

use defmt::{Format, Formatter};
use kvq_codec::{Cache, Error, MAX_TIERS, MemoryReport, Side, Storage, TierUse};

/// The precisions of one side that hold tokens, oldest first.
struct Tiers([TierUse; MAX_TIERS + 2]);

impl Format for Tiers {
    fn format(&self, f: Formatter<'_>) {
        for (i, tier) in self.0.iter().enumerate().filter(|(_, tier)| tier.tokens > 0) {
            match i {
                0 => defmt::write!(f, " {=usize} sinks", tier.tokens),
                i if i > MAX_TIERS => defmt::write!(f, " {=usize} recent", tier.tokens),
                _ => defmt::write!(f, " {=usize} {=str}", tier.tokens, tier.layout.name()),
            }
        }
    }
}

/// Logs how many tokens of `layer` each precision holds, for keys and for values.
///
/// # Errors
/// [`Error::Layer`].
pub fn tiers<S: Storage>(cache: &Cache<S>, layer: usize) -> Result<(), Error> {
    defmt::info!("  keys:{}", Tiers(cache.tier_map(layer, Side::Key)?));
    defmt::info!("  values:{}", Tiers(cache.tier_map(layer, Side::Value)?));
    Ok(())
}

/// Logs where every byte of a cache goes.
pub fn memory(report: &MemoryReport) {
    defmt::info!(
        "  bytes: codes {=usize}, scales {=usize}, centers {=usize}, recent {=usize}, sinks {=usize}, headers ~{=usize}, scratch {=usize}, unused {=usize}; all ~{=usize}",
        report.code_bytes,
        report.scale_bytes,
        report.center_bytes,
        report.recent_bytes,
        report.sink_bytes,
        report.header_bytes,
        report.scratch_bytes,
        report.unused_bytes,
        report.total()
    );
}
