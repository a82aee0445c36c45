//! The `kvq` command line.
fn main() {}
