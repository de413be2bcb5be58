//! Files that the command line names, read whole: they may be pipes, and anything may come out of them.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// All of the file at `path`.
///
/// # Errors
/// The host's, and one that says so when there are more than `most` bytes.
pub(crate) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    read_open(File::open(path)?, most)
}

/// The same of a file that is open: [`ErrorKind::FileTooLarge`] when there are more than `most` bytes.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_open(file: File, most: u64) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut text)?;
    if text.len() as u64 > most {
        let why = format!("it is longer than {most} bytes");
        return Err(io::Error::new(ErrorKind::FileTooLarge, why));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_to_its_end_or_refused_without_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "12345").unwrap();
        assert_eq!(read(file.path(), 5).unwrap(), b"12345");
        let why = read(file.path(), 4).unwrap_err().to_string();
        assert_eq!(why, "it is longer than 4 bytes");
        let why = read(Path::new("/dev/zero"), 1 << 20).unwrap_err();
        assert_eq!(why.kind(), ErrorKind::FileTooLarge);
    }
}
