//! Development tasks: `cargo xtask <verb>`.
fn main() {}
