//! A file that is replaced as a whole or not at all.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// The bytes of a regular file.
///
/// # Errors
/// No such file, no permission, or something else than a file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    let mut file = File::open(path).context("cannot open it")?;
    let metadata = file.metadata().context("cannot open it")?;
    ensure!(metadata.is_file(), "this is no file");
    let mut bytes = Vec::new();
    // A file may be longer than the memory is.
    bytes.try_reserve_exact(usize::try_from(metadata.len())?).context("it does not fit the memory")?;
    file.read_to_end(&mut bytes).context("cannot read it")?;
    Ok(bytes)
}

/// Writes `parts` one after the other to a new file in the folder of `path`, waits until they are on disk, and
/// gives the file its name.
///
/// # Errors
/// As [`State::write`](super::State::write); the new file is then gone, and `path` as it was.
pub(super) fn write(path: &Path, parts: &[Vec<u8>]) -> Result<()> {
    // What is replaced is the file that a link points to. A device or a pipe is no file: it would be gone.
    let target = path.canonicalize();
    let path = target.as_deref().unwrap_or(path);
    ensure!(!path.is_dir(), "this is a folder");
    ensure!(path.is_file() || !path.exists(), "this is no regular file, and is not replaced by one");
    // The parent of a bare name is the empty path.
    let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".kvq-state-")
        .tempfile_in(folder)
        .with_context(|| format!("cannot write to the folder {}", folder.display()))?;
    for part in parts {
        file.write_all(part).context("cannot write it")?;
    }
    file.as_file().sync_all().context("cannot write it to disk")?;
    file.persist(path).context("cannot give it its name")?;
    // The name is on disk when the folder is. Folders cannot be opened everywhere; the file is whole anyway.
    if let Ok(folder) = File::open(folder) {
        folder.sync_all().ok();
    }
    Ok(())
}
