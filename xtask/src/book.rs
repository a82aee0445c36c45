//! `book`: the documents as an mdBook under `target/book`, all of whose links lead somewhere.
//!
//! The chapters are the files of `docs/` where they lie. What they link to elsewhere in the repository is not in the book:
//! such links lead to the repository's page.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::links;
use crate::setup::{INSTALL_MDBOOK, mdbook};
use crate::tool::{command, root, run as run_tool};

/// Where the sources of the repository can be read.
const SOURCES: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/blob/main");

pub fn run() -> Result<()> {
    links::check()?;
    let book = root().join("target/book");
    let mut build = command(mdbook()?);
    build.args(["build", "docs", "--dest-dir"]).arg(&book);
    run_tool(&mut build, INSTALL_MDBOOK)?;
    let mut broken = Vec::new();
    let pages = pages(&book)?;
    for page in &pages {
        let text = fs::read_to_string(page).with_context(|| page.display().to_string())?;
        let place = page.strip_prefix(&book).context("a page is in the book")?;
        fs::write(page, with_links(&text, &book, place, &mut broken))?;
    }
    if !broken.is_empty() {
        bail!("links of the book that lead nowhere:\n{}", broken.join("\n"));
    }
    println!("{} pages: {}", pages.len(), book.join("index.html").display());
    Ok(())
}

fn pages(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut pages = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            pages.extend(self::pages(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "html") {
            pages.push(path);
        }
    }
    Ok(pages)
}

/// The page with links out of the book made absolute; those that lead nowhere are added to `broken`.
fn with_links(text: &str, book: &Path, page: &Path, broken: &mut Vec<String>) -> String {
    let folder = page.parent().unwrap_or(Path::new(""));
    let mut parts = text.split("href=\"");
    let mut out = parts.next().unwrap_or("").to_owned();
    for part in parts {
        let (link, rest) = part.split_once('"').unwrap_or((part, ""));
        let target = if link.contains(':') || link.starts_with('/') {
            Some(link.to_owned())
        } else {
            target(book, folder, link)
        };
        if target.is_none() {
            broken.push(format!("{}: {link}", page.display()));
        }
        out = out + "href=\"" + &target.unwrap_or_default() + "\"" + rest;
    }
    out
}

/// Where a relative link of a page in `folder` leads: into the book, to the repository, or nowhere.
fn target(book: &Path, folder: &Path, link: &str) -> Option<String> {
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    if path.is_empty() {
        return Some(link.to_owned());
    }
    // mdBook makes the page of a README the index of its folder, but not all links to it.
    for path in [path.to_owned(), path.replace("README.html", "index.html")] {
        let Some(file) = links::resolve(folder, &path).map(|file| book.join(file)) else { continue };
        if file.exists() {
            let is_there = |text: String| text.contains(&format!("id=\"{anchor}\""));
            if !anchor.is_empty() && !fs::read_to_string(file).is_ok_and(is_there) {
                return None;
            }
            return Some(with_anchor(&path, anchor));
        }
    }
    let source = source(&folder.join(path))?;
    Some(with_anchor(&format!("{SOURCES}/{source}"), anchor))
}

fn with_anchor(path: &str, anchor: &str) -> String {
    if anchor.is_empty() { path.to_owned() } else { format!("{path}#{anchor}") }
}

/// The file of the repository that a link from a page of the book means; mdBook has written `.html` for `.md`.
fn source(link: &Path) -> Option<String> {
    let target = links::resolve(Path::new("docs"), link.to_str()?)?;
    let document = target.with_extension("md");
    let file = if target.extension().is_some_and(|e| e == "html") { document } else { target };
    root().join(&file).exists().then(|| file.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_out_of_the_book_lead_to_the_repository() {
        let mut broken = Vec::new();
        let page = "<a href=\"../README.html#two-commands\">a</a> <a href=\"#b\">b</a> <a href=\"nowhere.html\">c</a>";
        let book = root().join("target/no-book");
        let text = with_links(page, &book, Path::new("FORMAT.html"), &mut broken);
        assert!(
            text.starts_with(&format!("<a href=\"{SOURCES}/README.md#two-commands\">a</a> <a href=\"#b\">"))
        );
        assert_eq!(broken, ["FORMAT.html: nowhere.html"]);
    }
}
