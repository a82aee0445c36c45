//! Kernels for 32-bit Arm cores, with the DSP instructions where they exist.
//!
//! * **One table for two values** (`pairs`): values `i` and `i + n/2` of a 4-bit row share a byte, so a table of
//!   256 pairs of levels gives both with one load. Queries are kept as the same pairs, and one `SMLAD` does two
//!   multiply-adds: byte, pair, multiply-add are three instructions for two values.
//! * **score**: two rows at a time share the loads of the query.
//! * **accumulate**: four rows at a time share the load and store of each sum. Halves of a pair are multiplied
//!   where they are (`SMLABB`, `SMLATB`, which the compiler finds by itself).
//! * **Helium** (`mve`), where the target has it: sixteen codes are looked up in the codebook itself with one gather load
//!   and multiplied with an 8-bit query at once; sums of values are kept four to a register. A row at a time scores,
//!   two at a time are summed.
//!
//! `dsp` and `mve` have the instructions, and say what they compute where they do not exist: the same kernels run on cores
//! without them, and in the tests of any machine. Other layouts than those of 4 and 8 bits take the portable code.
//!
//! Heads that share a block are served as one wide head: the query has zeros in the others' places, and of the sums only
//! the head's are kept. That is more multiplications than needed, and far fewer instructions than unpacking the row.

mod accumulate;
mod dsp;
mod mve;
mod pairs;
mod score;
mod walk;

pub(super) use accumulate::accumulate_values;
pub(crate) use pairs::QueryPairs;
pub(super) use score::score_keys;

use crate::block::Layout;

/// Whether the kernels are those of [`mve`].
const HAS_MVE: bool = cfg!(kvq_mve);

/// Whether the name of the backend tells of DSP instructions.
pub(super) const HAS_DSP: bool = cfg!(kvq_dsp);

/// Whether a layout is served here.
fn serves(layout: Layout) -> bool {
    matches!(layout.available(), Layout::S4 | Layout::Q8)
}
