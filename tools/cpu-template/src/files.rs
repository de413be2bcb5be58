//! JSON files.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Far more than a dump, which is some 200 KiB.
const MAX_BYTES: u64 = 4 << 20;

/// Reads a file of at most 4 MiB.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let mut text = Vec::new();
    let file = File::open(path).with_context(|| format!("cannot open {path:?}"))?;
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut text)
        .with_context(|| format!("cannot read {path:?}"))?;
    ensure!(
        text.len() as u64 <= MAX_BYTES,
        "{path:?} is larger than {MAX_BYTES} bytes; is it one of this program's files?"
    );
    serde_json::from_slice(&text).with_context(|| format!("{path:?} is not what it should be"))
}

/// Writes a file, in place of one that is there.
pub(crate) fn write<T: Serialize>(path: &Path, content: &T) -> Result<()> {
    let text = serde_json::to_string_pretty(content)?;
    fs::write(path, text + "\n").with_context(|| format!("cannot write {path:?}"))
}
