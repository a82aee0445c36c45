//! Numbers to codes: first to 8 bits as they arrive, later, a span at a time, to fewer.
//!
//! Only the first step sees floats ([`precise`]), or none does where inputs are fixed-point numbers ([`fixed`]). From then
//! on everything is integers, so that a span is encoded to the same bytes on every machine, with or without a
//! floating-point unit, whatever the order of additions.

pub(crate) mod codebook;
pub(crate) mod fixed;
pub(crate) mod precise;
pub(crate) mod row;
pub(crate) mod span;
pub(crate) mod trellis;
