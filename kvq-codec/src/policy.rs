//! What a cache keeps precise, what it may give up, and when.

use crate::block::Layout;
use crate::error::Error;

/// The most tiers on one side.
pub const MAX_TIERS: usize = 4;

/// The most tiers on one side of a policy that [`Policy::check`] lets pass.
pub(crate) const N_TIERS: usize = if cfg!(feature = "demote") { MAX_TIERS } else { 1 };

/// The most steps in a ladder.
pub const MAX_STEPS: usize = 6;

/// One precision class of packed tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Tier {
    /// How its blocks are stored.
    pub layout: Layout,
    /// Age in tokens from which a span is demoted into this tier even without budget pressure;
    /// [`Tier::UNDER_PRESSURE`] for never.
    pub from_age: u32,
}

impl Tier {
    /// `from_age` of a tier that only the budget asks for.
    pub const UNDER_PRESSURE: u32 = u32::MAX;

    /// The tier that spans enter when they are packed.
    pub const fn first(layout: Layout) -> Self {
        Self { layout, from_age: 0 }
    }

    /// A tier entered at an age.
    pub const fn from_age(layout: Layout, from_age: u32) -> Self {
        Self { layout, from_age }
    }

    /// A tier entered when the budget asks for it.
    pub const fn under_pressure(layout: Layout) -> Self {
        Self { layout, from_age: Self::UNDER_PRESSURE }
    }
}

/// One demotion step of the ladder: spans of `side` move from tier `to - 1` to tier `to`, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Step {
    /// Keys or values.
    pub side: crate::error::Side,
    /// Index of the tier moved into.
    pub to: u8,
}

/// Layers at the two ends of a model that the ladder and the ages of tiers leave alone: their spans stay in
/// their first tiers, and the other layers make up for it. Where they meet, that is every layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct EdgeLayers {
    /// How many from layer 0 on.
    pub first: u8,
    /// How many up to the last layer.
    pub last: u8,
}

impl EdgeLayers {
    /// All layers alike.
    pub const NONE: Self = Self { first: 0, last: 0 };
}

/// What limits the bytes held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Budget {
    /// The length of the buffer.
    Bytes,
    /// A compression against fp16, in hundredths (400 is 4.00x), at every length from
    /// [`COMPRESSION_FROM_TOKENS`](crate::COMPRESSION_FROM_TOKENS) on where the recent window and the ladder
    /// allow it. The storage grows with the length.
    Compression(u16),
}

/// What an append does when the ladder's last step is taken and the bytes are used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum WhenFull {
    /// Demotes never under pressure, only by age; then [`Error::Full`].
    Error,
    /// Takes the ladder's steps; then [`Error::Full`].
    Demote,
    /// Takes the ladder's steps; then drops the oldest span, keeping the sinks.
    Evict,
}

/// What a cache keeps precise, what it may give up, and when.
///
/// # Examples
/// ```
/// use kvq_codec::{Layout, Policy, Tier, WhenFull};
///
/// // A preset with other keys: for old tokens that must be found again, keys stay at 4 bits.
/// let mut policy = Policy::FOUR_X.with_byte_budget(WhenFull::Demote);
/// policy.key_tiers = [Some(Tier::first(Layout::T4)), None, None, None];
/// assert!(policy.check().is_err()); // the ladder still moves keys to 3 bits
/// policy.ladder = [policy.ladder[0], policy.ladder[2], None, None, None, None];
/// assert!(policy.check().is_ok());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Policy {
    /// First tokens kept at 8 bits for good.
    pub n_sink: u16,
    /// Newest tokens kept at 8 bits at the least; up to `span_len` more while a span fills.
    pub recent_len: u16,
    /// Tokens packed, centered and demoted together: 16, 32 or 64.
    pub span_len: u16,
    /// Key tiers, each with fewer bits than the one before; unused entries are `None`.
    pub key_tiers: [Option<Tier>; MAX_TIERS],
    /// Value tiers.
    pub value_tiers: [Option<Tier>; MAX_TIERS],
    /// Demotion steps in the order of least harm; a step is taken only when the budget asks for it.
    pub ladder: [Option<Step>; MAX_STEPS],
    /// Layers that keep more bits.
    pub edge_layers: EdgeLayers,
    /// What limits the bytes.
    pub budget: Budget,
    /// What happens then.
    pub when_full: WhenFull,
    /// Tokens before the newest that a query attends to; 0 for all.
    pub window_len: u32,
}

const fn tiers<const N: usize>(list: [Tier; N]) -> [Option<Tier>; MAX_TIERS] {
    let mut out = [None; MAX_TIERS];
    let mut i = 0;
    while i < N {
        out[i] = Some(list[i]);
        i += 1;
    }
    out
}

const fn steps<const N: usize>(list: [Step; N]) -> [Option<Step>; MAX_STEPS] {
    let mut out = [None; MAX_STEPS];
    let mut i = 0;
    while i < N {
        out[i] = Some(list[i]);
        i += 1;
    }
    out
}

const fn key_step(to: u8) -> Step {
    Step { side: crate::error::Side::Key, to }
}

const fn value_step(to: u8) -> Step {
    Step { side: crate::error::Side::Value, to }
}

impl Policy {
    /// `8bit`: everything at 8 bits, 1.9x.
    pub const EIGHT_BIT: Self = Self {
        n_sink: 4,
        recent_len: 0,
        span_len: 64,
        key_tiers: tiers([Tier::first(Layout::Q8)]),
        value_tiers: tiers([Tier::first(Layout::Q8)]),
        ladder: [None; MAX_STEPS],
        edge_layers: EdgeLayers::NONE,
        budget: Budget::Bytes,
        when_full: WhenFull::Demote,
        window_len: 0,
    };

    /// `4x`: at most a quarter of fp16's bytes from 1,024 tokens on.
    ///
    /// Spans of 64 cost a quarter less time per token than spans of 32, and young values keep scalar codes:
    /// there a trellis lowers KL divergence by less than it costs (`docs/NUMERICS.md`).
    ///
    /// The recent window is only the span that fills, up to 64 tokens. The bytes of 16 more at 8 bits would push
    /// the oldest keys to 3 bits at 1,024 tokens for good, and double the divergence of recall.
    pub const FOUR_X: Self = Self {
        n_sink: 4,
        recent_len: 0,
        span_len: 64,
        key_tiers: tiers([Tier::first(Layout::T4), Tier::under_pressure(Layout::T3)]),
        value_tiers: tiers([
            Tier::first(Layout::S4),
            Tier::under_pressure(Layout::T3),
            Tier::under_pressure(Layout::T2),
        ]),
        ladder: steps([value_step(1), key_step(1), value_step(2)]),
        edge_layers: EdgeLayers::NONE,
        budget: Budget::Compression(400),
        when_full: WhenFull::Demote,
        window_len: 0,
    };

    /// `5x`: at most a fifth of fp16's bytes from 1,024 tokens on.
    pub const FIVE_X: Self = Self { recent_len: 16, budget: Budget::Compression(500), ..Self::FOUR_X };

    /// `6x`: at most a sixth of fp16's bytes from 1,024 tokens on; old keys may fall to 2 bits, which
    /// costs recall of old tokens far more than perplexity shows.
    ///
    /// Spans are short again: a longer recent window would not leave a sixth for the rest at 1,024 tokens.
    pub const SIX_X: Self = Self {
        recent_len: 32,
        span_len: 32,
        key_tiers: tiers([
            Tier::first(Layout::T4),
            Tier::under_pressure(Layout::T3),
            Tier::under_pressure(Layout::T2),
        ]),
        ladder: steps([value_step(1), key_step(1), value_step(2), key_step(2)]),
        budget: Budget::Compression(600),
        ..Self::FOUR_X
    };

    /// Names of the presets.
    pub const PRESETS: [(&'static str, Self); 4] =
        [("8bit", Self::EIGHT_BIT), ("4x", Self::FOUR_X), ("5x", Self::FIVE_X), ("6x", Self::SIX_X)];

    /// The same policy limited by the length of its buffer.
    #[must_use]
    pub const fn with_byte_budget(mut self, when_full: WhenFull) -> Self {
        self.budget = Budget::Bytes;
        self.when_full = when_full;
        self
    }

    /// Refuses what contradicts itself, and what this build has no code for.
    ///
    /// # Errors
    /// [`Error::Policy`] with the reason, [`Error::Feature`] with the Cargo feature that is missing.
    pub const fn check(&self) -> Result<(), Error> {
        if !matches!(self.span_len, 16 | 32 | 64) {
            return Err(Error::Policy("span_len must be 16, 32 or 64"));
        }
        if !self.recent_len.is_multiple_of(self.span_len / 8) {
            return Err(Error::Policy("recent_len must be a multiple of span_len / 8"));
        }
        if self.recent_len > 4096 || self.n_sink > 4096 {
            return Err(Error::Policy("recent_len and n_sink must be at most 4096"));
        }
        if let Err(e) = check_tiers(&self.key_tiers) {
            return Err(e);
        }
        if let Err(e) = check_tiers(&self.value_tiers) {
            return Err(e);
        }
        if let Budget::Compression(hundredths) = self.budget
            && (hundredths < 100 || hundredths > 800)
        {
            return Err(Error::Policy("compression must be between 1.00 and 8.00"));
        }
        if let (Budget::Compression(_), WhenFull::Evict) = (self.budget, self.when_full) {
            return Err(Error::Policy(
                "evict needs a byte budget: a compression budget grows with the length",
            ));
        }
        if let (Budget::Compression(_), WhenFull::Error) = (self.budget, self.when_full) {
            return Err(Error::Policy(
                "compression needs when_full = demote: with error nothing is given up to keep it",
            ));
        }
        let EdgeLayers { first, last } = self.edge_layers;
        if N_TIERS == 1 && (matches!(self.budget, Budget::Compression(_)) || first > 0 || last > 0) {
            return Err(Error::Feature("demote"));
        }
        self.check_ladder()
    }

    const fn check_ladder(&self) -> Result<(), Error> {
        // The next tier that a step of each side may move into.
        let (mut next_key, mut next_value) = (1, 1);
        let mut ended = false;
        let mut i = 0;
        while i < MAX_STEPS {
            match self.ladder[i] {
                None => ended = true,
                Some(_) if N_TIERS == 1 => return Err(Error::Feature("demote")),
                Some(_) if ended => return Err(Error::Policy("the ladder has a gap")),
                Some(step) => {
                    let (tiers, next) = match step.side {
                        crate::error::Side::Key => (&self.key_tiers, &mut next_key),
                        crate::error::Side::Value => (&self.value_tiers, &mut next_value),
                    };
                    if step.to as usize != *next || *next >= MAX_TIERS || tiers[*next].is_none() {
                        return Err(Error::Policy("a ladder step must move one side to its next tier"));
                    }
                    *next += 1;
                }
            }
            i += 1;
        }
        Ok(())
    }

    /// The tiers of one side.
    pub(crate) const fn tiers(&self, side: crate::error::Side) -> &[Option<Tier>; MAX_TIERS] {
        match side {
            crate::error::Side::Key => &self.key_tiers,
            crate::error::Side::Value => &self.value_tiers,
        }
    }

    /// The last tier of one side that the ladder may move spans into.
    pub(crate) const fn floor(&self, side: crate::error::Side) -> usize {
        let mut floor = 0;
        if N_TIERS == 1 || matches!(self.when_full, WhenFull::Error) {
            return floor;
        }
        let mut i = 0;
        while i < MAX_STEPS {
            if let Some(step) = self.ladder[i]
                && step.side as u8 == side as u8
                && step.to as usize > floor
            {
                floor = step.to as usize;
            }
            i += 1;
        }
        floor
    }
}

const fn check_tiers(tiers: &[Option<Tier>; MAX_TIERS]) -> Result<(), Error> {
    let Some(first) = tiers[0] else {
        return Err(Error::Policy("keys and values need at least one tier"));
    };
    if first.from_age != 0 {
        return Err(Error::Policy("the first tier must start at age 0"));
    }
    if let Some(feature) = first.layout.missing_feature() {
        return Err(Error::Feature(feature));
    }
    let mut previous = first;
    let mut ended = false;
    let mut i = 1;
    while i < MAX_TIERS {
        match tiers[i] {
            None => ended = true,
            Some(_) if N_TIERS == 1 => return Err(Error::Feature("demote")),
            Some(_) if ended => return Err(Error::Policy("the tiers have a gap")),
            Some(tier) => {
                if let Some(feature) = tier.layout.missing_feature() {
                    return Err(Error::Feature(feature));
                }
                if tier.layout.code_bits() >= previous.layout.code_bits() {
                    return Err(Error::Policy("each tier must have fewer bits than the one before"));
                }
                if tier.from_age <= previous.from_age && tier.from_age != Tier::UNDER_PRESSURE {
                    return Err(Error::Policy("each tier must start at a greater age than the one before"));
                }
                previous = tier;
            }
        }
        i += 1;
    }
    Ok(())
}

#[cfg(all(test, feature = "trellis", feature = "demote"))]
mod tests {
    use super::*;

    #[test]
    fn presets_are_consistent() {
        for (name, policy) in Policy::PRESETS {
            assert_eq!(policy.check(), Ok(()), "{name}");
        }
    }
}
