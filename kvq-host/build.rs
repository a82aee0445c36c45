//! Tells the program which commit it is built from, where it is built in the repository and there is git.

use std::path::Path;
use std::process::Command;

/// What the program is built from, relative to this package.
const SOURCES: [&str; 6] =
    ["src", "Cargo.toml", "../kvq-codec/src", "../kvq-tiny/src", "../Cargo.toml", "../Cargo.lock"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // A package from a registry may lie in somebody else's repository.
    if !Path::new("../kvq-codec/src").exists() {
        return;
    }
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    // Written by every commit and checkout.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists()) {
        println!("cargo::rerun-if-changed={log}");
    }
    let Some(revision) = git(&["rev-parse", "HEAD"]) else { return };
    let mut status = vec!["status", "--porcelain", "--"];
    status.extend(SOURCES);
    let dirty = if git(&status).is_some_and(|changes| !changes.is_empty()) { "-dirty" } else { "" };
    println!("cargo::rustc-env=KVQ_GIT_REVISION={revision}{dirty}");
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    if !output.status.success() {
        return None;
    }
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
