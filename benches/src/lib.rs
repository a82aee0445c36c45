//! What the benches share: inputs, caches, the limits of the machine, and how one operation is timed.
//!
//! Every bench compares its answer with the scalar oracle once before it is timed, so `cargo bench -p
//! kvq-benches -- --test` is a test. All run on one thread. `docs/METHODOLOGY.md` says how the figures are to
//! be read.

mod cache;
mod data;
mod limits;
mod measure;
mod verify;
mod weights;

pub use cache::{held_bytes, packed, packed_on, restored, uniform};
pub use data::{HEAD_DIM, N_HEADS, N_KV_HEADS, N_LAYERS, Tokens, shape};
pub use limits::{Flush, read_sum};
pub use measure::{Contender, Op, State, Work};
pub use verify::{assert_close, assert_same_snapshot};
