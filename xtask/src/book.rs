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
    let mut parts = text.split("href=\"");
    let mut out = parts.next().unwrap_or("").to_owned();
    for part in parts {
        let (link, rest) = part.split_once('"').unwrap_or((part, ""));
        let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
        let folder = page.parent().unwrap_or(Path::new(""));
        let is_inside = links::resolve(folder, path).is_some_and(|target| book.join(target).exists());
        let target = if path.is_empty() || path.contains(':') || is_inside {
            link.to_owned()
        } else if let Some(source) = source(&folder.join(path)) {
            let anchor = if anchor.is_empty() { String::new() } else { format!("#{anchor}") };
            format!("{SOURCES}/{source}{anchor}")
        } else {
            broken.push(format!("{}: {link}", page.display()));
            link.to_owned()
        };
        out = out + "href=\"" + &target + "\"" + rest;
    }
    out
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
