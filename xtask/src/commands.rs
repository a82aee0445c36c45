//! Commands of the documents: each must be one that a check runs, or one that its program understands.
//!
//! A command that needs a model from the network, or minutes, is not run: its words are given to the real program, which
//! parses them (`kvq … --help` stops before it acts, but after each flag and value was understood).

use std::fs;

use anyhow::{Context, Result, anyhow, bail};

use crate::markdown::{self, lines, pieces};
use crate::tool::{cargo, root, succeeds};

/// Commands of the README that `cargo xtask test` runs as they are.
const RUN: [&str; 2] = ["cargo run --release", "cargo xtask setup"];

/// Looks at every command of the README, and in the other documents at those of their `sh` blocks that are ours.
///
/// # Errors
/// With one line for each that nothing runs and no program understands.
pub fn check() -> Result<()> {
    let (mut faults, mut understood) = (Vec::new(), 0);
    for file in markdown::files()? {
        let text = fs::read_to_string(root().join(&file)).with_context(|| file.display().to_string())?;
        let is_readme = file.as_os_str() == "README.md";
        for words in commands(&text, is_readme) {
            match understand(&words) {
                Ok(true) => understood += 1,
                Ok(false) if !is_readme => {}
                Ok(false) => {
                    faults.push(format!("{}: `{}`: nothing runs it", file.display(), words.join(" ")))
                }
                Err(error) => faults.push(format!("{}: `{}`: {error:#}", file.display(), words.join(" "))),
            }
        }
    }
    if !faults.is_empty() {
        bail!("commands that are not checked, or not understood:\n{}", faults.join("\n"));
    }
    println!("{understood} commands of the documents are run here, or understood by their programs");
    Ok(())
}

/// The words of each command in `sh` blocks, and between backticks if `inline`.
fn commands(text: &str, inline: bool) -> Vec<Vec<String>> {
    let mut script = String::new();
    for line in lines(text).iter().filter(|line| line.fence == Some("sh")) {
        let line = line.text.split(" #").next().unwrap_or("").trim_end();
        match line.strip_suffix('\\') {
            Some(part) => script.push_str(part),
            None => script = script + line + "\n",
        }
    }
    if inline {
        let code = pieces(text).1.into_iter().map(|code| code.replace('\n', " "));
        for code in code.filter(|code| code.starts_with("cargo ") || code.starts_with("kvq ")) {
            script = script + &code + "\n";
        }
    }
    let parts = script.split(['\n', ';']).flat_map(|line| line.split("&&"));
    parts.map(words).filter(|words| !words.is_empty()).collect()
}

/// Words of a command without the variables before it. None of ours needs quotes.
fn words(command: &str) -> Vec<String> {
    let is_variable = |word: &&str| word.contains('=') && !word.starts_with('-');
    command.split_whitespace().skip_while(is_variable).map(str::to_owned).collect()
}

/// Whether the command is run or understood; `false` where it is another program's.
fn understand(words: &[String]) -> Result<bool> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if RUN.contains(&words.join(" ").as_str()) {
        return Ok(true);
    }
    match words.as_slice() {
        ["cargo", "xtask", rest @ ..] => {
            crate::parse(rest).map(|()| true).map_err(|error| anyhow!("{error}"))
        }
        ["cargo", "run", "--release", "--", rest @ ..] | ["kvq", rest @ ..] => {
            let mut kvq = cargo();
            kvq.args(["run", "--release", "--quiet", "--"]).args(rest).arg("--help");
            if !succeeds(&mut kvq) {
                bail!("kvq does not understand it");
            }
            Ok(true)
        }
        _ => Ok(false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_found_in_blocks_and_between_backticks() {
        let text = "`kvq plan\n--json -` `kvq` `Cargo`\n```sh\ncd a && X=1 cargo b \\\n  --c   # d\n\n```\n```rust\ncargo e\n```";
        let found: Vec<String> = commands(text, true).iter().map(|words| words.join(" ")).collect();
        assert_eq!(found, ["cd a", "cargo b --c", "kvq plan --json -"]);
        assert_eq!(commands(text, false).len(), 2);
    }

    #[test]
    #[ignore = "compiles kvq: cargo xtask test has it as a step"]
    fn every_command_of_the_documents_is_checked() {
        super::check().unwrap();
    }

    #[test]
    fn what_no_program_knows_is_an_error() {
        let check = |command: &str| understand(&words(command));
        assert!(check("cargo xtask test").unwrap());
        assert!(check("cargo xtask qemu --board microbit --program stream").unwrap());
        assert!(check("cargo xtask tset").is_err());
        assert!(check("cargo xtask qemu --bord microbit").is_err());
        assert!(!check("cargo build").unwrap());
    }
}
