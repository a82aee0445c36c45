//! The flash of append, attend and trim where one layout is enough: this program's, less that of `size_empty`.
//!
//! The codec is built without its default features: 4-bit scalar codes behind a window of 8 bits, and what is full drops
//! its oldest span.
#![no_std]
#![no_main]

use cortex_m_rt::entry;
use kvq_codec::{Layout, Policy, Tier, WhenFull};
use kvq_firmware::size;

const POLICY: Policy = Policy {
    span_len: 16,
    key_tiers: [Some(Tier::first(Layout::S4)), None, None, None],
    value_tiers: [Some(Tier::first(Layout::S4)), None, None, None],
    ..Policy::EIGHT_BIT.with_byte_budget(WhenFull::Evict)
};

#[entry]
fn main() -> ! {
    static mut BUFFER: [u8; size::BYTES] = [0; size::BYTES];
    size::log(POLICY, BUFFER)
}
