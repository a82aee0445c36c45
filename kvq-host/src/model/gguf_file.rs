//! A GGUF file as it is on disk: opened only if everything that its header promises is there.
//!
//! candle checks lengths against the file as it reads them, but divides by an alignment of 0, and looks at the size of
//! a tensor when that is read: minutes later, in the middle of a model. So the header is walked once before.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use candle_core::quantized::gguf_file::Content;

/// The metadata key that says on multiples of what the tensors begin.
const ALIGNMENT: &str = "general.alignment";

/// Opens a file and reads its header.
///
/// # Errors
/// No such file, another kind of file, or one that is cut off or speaks of more than it holds.
pub(crate) fn open(path: &Path) -> Result<(Content, BufReader<File>)> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let file_bytes = file.metadata()?.len();
    let mut reader = BufReader::new(file);
    let content = read(&mut reader, file_bytes).with_context(|| path.display().to_string())?;
    Ok((content, reader))
}

fn read(reader: &mut (impl Read + Seek), file_bytes: u64) -> Result<Content> {
    let mut magic = [0; 4];
    ensure!(
        reader.read_exact(&mut magic).is_ok() && magic == *b"GGUF",
        "this is no GGUF file: it does not begin with GGUF"
    );
    let damaged =
        || format!("a damaged GGUF file of {file_bytes} bytes: it is cut off or changed; fetch it again");
    check_alignment(reader, file_bytes).with_context(damaged)?;
    reader.rewind()?;
    let content = Content::read(reader).with_context(damaged)?;
    for (name, info) in &content.tensor_infos {
        let dims = info.shape.dims();
        let values = dims.iter().try_fold(1u64, |values, &dim| values.checked_mul(dim as u64));
        let blocks = values.map(|values| values / info.ggml_dtype.block_size() as u64);
        let bytes = blocks.and_then(|blocks| blocks.checked_mul(info.ggml_dtype.type_size() as u64));
        let end =
            bytes.and_then(|bytes| bytes.checked_add(content.tensor_data_offset)?.checked_add(info.offset));
        let Some(end) = end else { bail!("tensor `{name}` of {dims:?} values: {}", damaged()) };
        ensure!(end <= file_bytes, "tensor `{name}` ends at byte {end}: {}", damaged());
    }
    Ok(content)
}

/// Walks the metadata up to the alignment, and refuses 0.
fn check_alignment(reader: &mut (impl Read + Seek), file_bytes: u64) -> Result<()> {
    let mut walk = Walk { reader, left: file_bytes };
    let wide = walk.number(4)? > 1;
    let length_bytes = if wide { 8 } else { 4 };
    walk.number(length_bytes)?;
    for _ in 0..walk.number(length_bytes)? {
        let key_bytes = walk.number(length_bytes)?;
        let is_alignment = key_bytes == ALIGNMENT.len() as u64 && {
            let mut key = [0; ALIGNMENT.len()];
            walk.reader.read_exact(&mut key)?;
            walk.reader.seek(SeekFrom::Current(-(key.len() as i64)))?;
            key == *ALIGNMENT.as_bytes()
        };
        walk.skip(key_bytes)?;
        let kind = walk.number(4)?;
        if is_alignment {
            let alignment = walk.number(width(kind).with_context(|| format!("{ALIGNMENT} is no number"))?)?;
            ensure!(alignment > 0, "{ALIGNMENT} is 0: tensors begin on multiples of it");
            return Ok(());
        }
        walk.value(kind, length_bytes, 0)?;
    }
    Ok(())
}

/// Bytes of a value of fixed size, by the number of its type.
fn width(kind: u64) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

struct Walk<'a, R> {
    reader: &'a mut R,
    /// Bytes of the file that were not read yet, or more.
    left: u64,
}

impl<R: Read + Seek> Walk<'_, R> {
    fn skip(&mut self, n: u64) -> Result<()> {
        self.left = self
            .left
            .checked_sub(n)
            .with_context(|| format!("{n} bytes are spoken of, {} follow", self.left))?;
        self.reader.seek(SeekFrom::Current(i64::try_from(n)?))?;
        Ok(())
    }

    fn number(&mut self, bytes: u64) -> Result<u64> {
        let mut number = [0; 8];
        let Some(part) = number.get_mut(..bytes as usize) else { bail!("a number of {bytes} bytes") };
        self.reader.read_exact(part).context("it ends in its header")?;
        self.left = self.left.saturating_sub(bytes);
        Ok(u64::from_le_bytes(number))
    }

    fn value(&mut self, kind: u64, length_bytes: u64, depth: usize) -> Result<()> {
        if let Some(bytes) = width(kind) {
            return self.skip(bytes);
        }
        match kind {
            8 => {
                let n = self.number(length_bytes)?;
                self.skip(n)
            }
            9 if depth < 8 => {
                let kind = self.number(4)?;
                let n = self.number(length_bytes)?;
                if let Some(bytes) = width(kind) {
                    return self.skip(n.saturating_mul(bytes));
                }
                // Each element is at least as long as its length.
                ensure!(
                    n <= self.left / length_bytes,
                    "an array of {n} values, and {} bytes follow",
                    self.left
                );
                (0..n).try_for_each(|_| self.value(kind, length_bytes, depth + 1))
            }
            _ => bail!("metadata of type {kind}, which GGUF does not have"),
        }
    }
}
