//! The flash of append, attend and trim in the whole codec: this program's, less that of `size_empty`.
#![no_std]
#![no_main]

use cortex_m_rt::entry;
use kvq_codec::{Policy, WhenFull};
use kvq_firmware::size;

const POLICY: Policy =
    Policy { span_len: 16, recent_len: 0, ..Policy::FOUR_X.with_byte_budget(WhenFull::Demote) };

#[entry]
fn main() -> ! {
    static mut BUFFER: [u8; size::BYTES] = [0; size::BYTES];
    size::log(POLICY, BUFFER)
}
