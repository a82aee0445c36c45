//! Links of the documents: every relative one must lead to a file of the repository, and to a heading if it names one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::markdown::{self, lines, pieces};
use crate::tool::root;

/// Follows the links of every Markdown file.
///
/// # Errors
/// With one line for each link that leads nowhere.
pub fn check() -> Result<()> {
    let files = markdown::files()?;
    let broken = broken(&root(), &files)?;
    if !broken.is_empty() {
        bail!("links that lead nowhere:\n{}", broken.join("\n"));
    }
    println!("the links of {} documents lead somewhere", files.len());
    Ok(())
}

fn broken(root: &Path, files: &[PathBuf]) -> Result<Vec<String>> {
    let mut broken = Vec::new();
    for file in files {
        let text = read(root, file)?;
        for link in links(&pieces(&text).0) {
            if let Some(reason) = fault(root, file, &text, link)? {
                broken.push(format!("{}: {link}: {reason}", file.display()));
            }
        }
    }
    Ok(broken)
}

fn read(root: &Path, file: &Path) -> Result<String> {
    fs::read_to_string(root.join(file)).with_context(|| format!("reading {}", file.display()))
}

/// Why `link` of `file`, whose text is given, leads nowhere.
fn fault(root: &Path, file: &Path, text: &str, link: &str) -> Result<Option<&'static str>> {
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let folder = file.parent().unwrap_or(Path::new(""));
    let Some(target) = resolve(folder, path) else { return Ok(Some("it leaves the repository")) };
    if !path.is_empty() && !root.join(&target).exists() {
        return Ok(Some("there is no such file"));
    }
    let is_document = path.is_empty() || target.extension().is_some_and(|extension| extension == "md");
    if anchor.is_empty() || !is_document {
        return Ok(None);
    }
    let other = if path.is_empty() { text.to_owned() } else { read(root, &target)? };
    let is_there = anchors(&other).iter().any(|name| name == anchor);
    Ok((!is_there).then_some("there is no such heading"))
}

/// `folder/path` without its dots; `None` where it leads above the root.
pub fn resolve(folder: &Path, path: &str) -> Option<PathBuf> {
    let mut target = PathBuf::new();
    for part in folder.join(path).components() {
        match part {
            Component::Normal(part) => target.push(part),
            Component::ParentDir if !target.pop() => return None,
            _ => {}
        }
    }
    Some(target)
}

/// Targets of `[text](target)`, `![text](target)` and `[name]: target`, without those that have a scheme.
fn links(prose: &str) -> Vec<&str> {
    let inline = prose.split("](").skip(1).filter_map(|rest| rest.split([')', ' ', '\n']).next());
    let named = prose.lines().filter(|line| line.starts_with('[')).filter_map(|line| line.split_once("]: "));
    let all = inline.chain(named.map(|(_, target)| target.trim()));
    all.filter(|target| !target.contains("://") && !target.starts_with("mailto:")).collect()
}

/// The anchors of a document's headings, as GitHub and mdBook make them.
fn anchors(text: &str) -> Vec<String> {
    let mut seen = BTreeMap::new();
    let headings = lines(text).into_iter().filter(|line| line.fence.is_none() && line.text.starts_with('#'));
    headings
        .map(|line| {
            let title = line.text.trim_start_matches('#').trim().to_lowercase();
            let kept = title.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            let name: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
            let before: &mut usize = seen.entry(name.clone()).or_default();
            *before += 1;
            if *before == 1 { name } else { format!("{name}-{}", *before - 1) }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong with a document of this text at `docs/a.md`, beside the repository's own files.
    fn faults(text: &str) -> Vec<String> {
        let links: Vec<String> = links(&pieces(text).0).into_iter().map(str::to_owned).collect();
        let fault = |link: &String| fault(&root(), Path::new("docs/a.md"), text, link).unwrap();
        links.iter().filter(|link| fault(link).is_some()).cloned().collect()
    }

    #[test]
    fn links_that_lead_somewhere_are_fine() {
        let text = "# A b: `c`, d\n[1](../README.md) [2](#a-b-c-d) [3](FORMAT.md#5-snapshot \"title\") [4](policies)\n\
                    [5](https://example.org/nowhere) [6][7] `[8](nowhere)`\n\n[7]: ../xtask/src/links.rs#L1\n";
        assert_eq!(links(&pieces(text).0).len(), 5);
        assert_eq!(faults(text), [""; 0]);
    }

    #[test]
    fn broken_links_are_found() {
        let text = "# A\n[1](nowhere.md) [2](#b) [3](FORMAT.md#6-snapshot) ![4](picture.png) [5](../../x)\n\n[6]: gone\n";
        let all = ["nowhere.md", "#b", "FORMAT.md#6-snapshot", "picture.png", "../../x", "gone"];
        assert_eq!(faults(text), all);
    }

    #[test]
    fn equal_headings_are_numbered() {
        assert_eq!(anchors("# A\n## A\n```\n# no\n```\n### A"), ["a", "a-1", "a-2"]);
    }
}
