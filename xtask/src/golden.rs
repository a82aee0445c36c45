//! `golden`: writes the codec's golden files anew.

use anyhow::Result;

use crate::tool::{cargo, run as run_tool};

pub fn run() -> Result<()> {
    let mut test = cargo();
    test.args(["test", "--release", "-p", "kvq-codec", "--features", "std", "--test", "golden"]);
    run_tool(test.env("KVQ_BLESS", "1"), "install Rust from https://rustup.rs")?;
    println!("written: kvq-codec/tests/data; look at the difference before you commit it");
    Ok(())
}
