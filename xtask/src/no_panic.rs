//! Proof that the codec cannot panic: what its exported entries link, followed by relocations.
//!
//! `xtask/no_panic` exports every entry of the codec; its archive is built for each firmware target with link-time
//! optimisation. From the exported symbols on, every section that a relocation names is followed. Nothing
//! may lead to the panic handler, which calls a function that does not exist, nor to anything else that is
//! undefined, nor to a float function of a C library. The entries for cores without an FPU may not lead to the
//! compiler's own float arithmetic either, which such a core would be given.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use object::read::archive::ArchiveFile;
use object::{File, Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionIndex, SymbolSection};

use crate::tool::{cargo, render, root, run as run_tool};

const INSTALL_CARGO: &str = "install Rust from https://rustup.rs";

/// The optimisation levels that firmware is built with.
const PROFILES: [&str; 2] = ["release", "small"];

/// What exported entries begin with.
const ENTRY: &str = "kvq_";

/// What entries without float arithmetic begin with.
const INTEGER_ENTRY: &str = "kvq_fixed_";

/// What a compiler may call for itself: memory functions, and arithmetic that begins with two underscores.
const RUNTIME: [&str; 5] = ["memcpy", "memmove", "memset", "memcmp", "bcmp"];

/// The manifest of the crate that exports the entries.
pub fn manifest() -> PathBuf {
    root().join("xtask/no_panic/Cargo.toml")
}

/// With the codec's default features and without: what is then left out may not leave a panic in its place.
const FEATURES: [(&str, &[&str]); 2] = [("every feature", &[]), ("no feature", &["--no-default-features"])];

/// Builds the archive for `target` with every profile, with and without the codec's features, and looks at what it
/// links.
///
/// # Errors
/// A failed build, or a way to a panic or to a function that a bare machine does not have, as the names of
/// the functions on it.
pub fn check(target: &str) -> Result<()> {
    for (profile, (features, flags)) in PROFILES.into_iter().flat_map(|p| FEATURES.map(|f| (p, f))) {
        let mut build = build(target, profile);
        build.args(flags);
        println!("$ {}", render(&build));
        run_tool(&mut build, INSTALL_CARGO)?;
        let path = target_dir().join(target).join(profile).join("libkvq_no_panic.a");
        let reached = check_archive(&path)?;
        let in_integers = check_integers(&path, target.ends_with("eabi"))?;
        println!(
            "{target}, {profile}, {features}: {reached} sections reached, no panic; {in_integers} in integers, no float"
        );
    }
    Ok(())
}

/// How many sections the entries without float arithmetic reach.
///
/// # Errors
/// A float function that they reach, or that none is found from the other entries where there is no FPU: the check
/// itself is then at fault.
fn check_integers(path: &Path, has_no_fpu: bool) -> Result<usize> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let linked = Linked::read(&bytes)?;
    let (reached, findings) = linked.follow(INTEGER_ENTRY, |name, _| is_float(name))?;
    if !findings.is_empty() {
        bail!("{}:\n  {}", path.display(), findings.join("\n  "));
    }
    if has_no_fpu && linked.follow(ENTRY, |name, _| is_float(name))?.1.is_empty() {
        bail!("{}: no float function is known by its name", path.display());
    }
    Ok(reached)
}

/// How many sections the entries of an archive reach.
///
/// # Errors
/// As [`check`].
pub fn check_archive(path: &Path) -> Result<usize> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let linked = Linked::read(&bytes)?;
    let (reached, findings) = linked.follow(ENTRY, is_forbidden)?;
    if !findings.is_empty() {
        bail!("{}:\n  {}", path.display(), findings.join("\n  "));
    }
    Ok(reached)
}

fn target_dir() -> PathBuf {
    let shared = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    root().join(shared).join("no-panic")
}

fn build(target: &str, profile: &str) -> Command {
    let mut cargo = cargo();
    cargo.args(["build", "--quiet", "--profile", profile, "--target", target, "--manifest-path"]);
    cargo.arg(manifest()).env("CARGO_TARGET_DIR", target_dir());
    cargo
}

/// A section of a member of the archive.
type Place = (usize, SectionIndex);

/// The members of an archive, and where the symbols that they share lie.
struct Linked<'a> {
    members: Vec<File<'a>>,
    globals: HashMap<&'a str, Place>,
}

impl<'a> Linked<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self> {
        let mut members = Vec::new();
        for member in ArchiveFile::parse(bytes)?.members() {
            members.push(File::parse(member?.data(bytes)?)?);
        }
        let mut globals = HashMap::new();
        for (number, member) in members.iter().enumerate() {
            for symbol in member.symbols().filter(|symbol| symbol.is_global()) {
                if let SymbolSection::Section(index) = symbol.section() {
                    // The first of several weak ones, as a linker takes it.
                    globals.entry(symbol.name()?).or_insert((number, index));
                }
            }
        }
        Ok(Self { members, globals })
    }

    /// Follows every relocation from the entries on: how many sections that reaches, and what it must not.
    fn follow(
        &self,
        entry: &str,
        is_forbidden: impl Fn(&str, Option<Place>) -> bool,
    ) -> Result<(usize, Vec<String>)> {
        let entries = self.globals.iter().filter(|(name, _)| name.starts_with(entry));
        let mut queue: Vec<Place> = entries.map(|(_, place)| *place).collect();
        if queue.is_empty() {
            bail!("the archive exports nothing that begins with {entry}");
        }
        queue.sort_by_key(|place| (place.0, place.1.0));
        let mut came_from: HashMap<Place, Option<Place>> = queue.iter().map(|place| (*place, None)).collect();
        let (mut findings, mut named) = (Vec::new(), HashSet::new());
        let mut next = 0;
        while let Some(&place) = queue.get(next) {
            next += 1;
            let member = &self.members[place.0];
            for (_, relocation) in member.section_by_index(place.1)?.relocations() {
                let (name, target) = self.resolve(place.0, relocation.target())?;
                if is_forbidden(&name, target) {
                    if named.insert(name.clone()) {
                        findings.push(format!("{} → {name}", self.path(&came_from, place)?));
                    }
                } else if let Some(target) = target
                    && !came_from.contains_key(&target)
                {
                    came_from.insert(target, Some(place));
                    queue.push(target);
                }
            }
        }
        Ok((queue.len(), findings))
    }

    /// The name of what a relocation in `member` points to, and where it lies; nowhere if it is undefined.
    fn resolve(&self, member: usize, target: RelocationTarget) -> Result<(String, Option<Place>)> {
        let index = match target {
            RelocationTarget::Section(index) => index,
            RelocationTarget::Symbol(index) => {
                let symbol = self.members[member].symbol_by_index(index)?;
                match symbol.section() {
                    SymbolSection::Section(index) => index,
                    SymbolSection::Undefined => {
                        let name = symbol.name()?;
                        return Ok((name.to_owned(), self.globals.get(name).copied()));
                    }
                    _ => return Ok((symbol.name()?.to_owned(), None)),
                }
            }
            other => bail!("a relocation to {other:?}"),
        };
        Ok((self.name((member, index))?, Some((member, index))))
    }

    /// The function in a section: each has its own.
    fn name(&self, place: Place) -> Result<String> {
        let section = self.members[place.0].section_by_index(place.1)?;
        let name = section.name()?;
        let name = name.strip_prefix(".text.").unwrap_or(name);
        Ok(name.strip_prefix("unlikely.").unwrap_or(name).to_owned())
    }

    /// The functions from an entry to `place`.
    fn path(&self, came_from: &HashMap<Place, Option<Place>>, place: Place) -> Result<String> {
        let mut names = vec![self.name(place)?];
        let mut at = place;
        while let Some(&Some(before)) = came_from.get(&at) {
            names.push(self.name(before)?);
            at = before;
        }
        names.reverse();
        Ok(names.join(" → "))
    }
}

fn is_forbidden(name: &str, target: Option<Place>) -> bool {
    let is_rust = name.starts_with("_ZN") || name.starts_with("_R");
    let is_data = name.starts_with('.');
    let is_runtime = RUNTIME.contains(&name) || name.starts_with("__");
    let is_known = is_rust || is_data || is_runtime || name.starts_with(ENTRY);
    target.is_none() || !is_known || name.contains("panicking")
}

/// Whether a function is one that compilers call for float arithmetic, by the names of the Arm run-time ABI
/// (`__aeabi_fmul`, `__aeabi_ui2f`, `__aeabi_d2iz`) or of libgcc (`__mulsf3`, `__fixdfsi`).
fn is_float(name: &str) -> bool {
    let Some(name) = name.strip_prefix("__") else { return name.contains("compiler_builtins5float") };
    match name.strip_prefix("aeabi_") {
        Some(name) => name.starts_with(['f', 'd']) || name.ends_with("2f") || name.ends_with("2d"),
        None => name.contains("sf") || name.contains("df"),
    }
}

#[cfg(test)]
mod tests {
    use super::is_float;

    #[test]
    fn float_functions_are_told_from_others() {
        for name in
            ["__aeabi_fmul", "__aeabi_dcmplt", "__aeabi_ul2f", "__aeabi_f2iz", "__addsf3", "__floatsidf"]
        {
            assert!(is_float(name), "{name}");
        }
        for name in
            ["__aeabi_lmul", "__aeabi_uldivmod", "__aeabi_memcpy4", "__clzsi2", "memset", "kvq_fixed_attend"]
        {
            assert!(!is_float(name), "{name}");
        }
    }
}
