//! Writes `newc` cpio archives, the format of a Linux initramfs.
//!
//! Format: `Documentation/driver-api/early-userspace/buffer-format.rst` of the Linux kernel.
//! The kernel unpacks several archives laid end to end, so a run appends its programs to the
//! cached archive instead of rebuilding it.

use std::io::{self, Write};

use super::tree::Node;

const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;

/// Size of an entry's header: the magic and 13 fields of 8 hexadecimal digits.
const HEADER: usize = 6 + 13 * 8;

/// An archive being written. [`Archive::finish`] ends it.
pub struct Archive<W: Write> {
    out: W,
    next_inode: u32,
}

impl<W: Write> Archive<W> {
    /// Starts an archive at the current position of `out`, a multiple of four.
    pub fn new(out: W) -> Self {
        Self { out, next_inode: 1 }
    }

    /// Adds one node. Its parent must be there already.
    pub fn add(&mut self, path: &str, node: &Node) -> io::Result<()> {
        match node {
            Node::Directory => self.entry(path, S_IFDIR | 0o755, b""),
            Node::File { mode, data } => self.entry(path, S_IFREG | mode, data),
            Node::Link(target) => self.entry(path, S_IFLNK | 0o777, target.as_bytes()),
        }
    }

    /// Writes the trailer and gives the writer back.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, b"")?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(&mut self, path: &str, mode: u32, data: &[u8]) -> io::Result<()> {
        let too_big = |_| io::Error::from(io::ErrorKind::FileTooLarge);
        let file_len = u32::try_from(data.len()).map_err(too_big)?;
        let name_len = u32::try_from(path.len() + 1).map_err(too_big)?;
        let inode = self.next_inode;
        self.next_inode += 1;

        // Inode, mode, uid, gid, links, mtime, file size, device major and minor, special
        // file's major and minor, name size with its NUL, checksum (unused).
        write!(self.out, "070701")?;
        for field in [inode, mode, 0, 0, 1, 0, file_len, 0, 0, 0, 0, name_len, 0] {
            write!(self.out, "{field:08x}")?;
        }
        self.out.write_all(path.as_bytes())?;
        self.out.write_all(b"\0")?;
        self.pad(HEADER + path.len() + 1)?;
        self.out.write_all(data)?;
        self.pad(data.len())
    }

    /// Names and data start at multiples of four bytes.
    fn pad(&mut self, written: usize) -> io::Result<()> {
        let missing = written.next_multiple_of(4) - written;
        self.out.write_all(&b"\0\0\0"[..missing])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(data: &str) -> Node {
        Node::File {
            mode: 0o755,
            data: data.into(),
        }
    }

    #[test]
    fn every_entry_starts_at_a_multiple_of_four() {
        let mut archive = Archive::new(Vec::new());
        archive.add("bin", &Node::Directory).unwrap();
        archive.add("bin/a", &script("12345")).unwrap();
        archive.add("bin/sh", &Node::Link("a".into())).unwrap();
        let bytes = archive.finish().unwrap();

        let starts: Vec<usize> = bytes
            .windows(6)
            .enumerate()
            .filter(|(_, window)| window == b"070701")
            .map(|(at, _)| at)
            .collect();
        assert_eq!(starts.len(), 4);
        assert!(starts.iter().all(|at| at % 4 == 0), "{starts:?}");
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn a_file_carries_its_mode_size_and_data() {
        let mut archive = Archive::new(Vec::new());
        archive.add("init", &script("#!/bin/sh\n")).unwrap();
        let bytes = archive.finish().unwrap();
        let field = |n: usize| {
            let digits = std::str::from_utf8(&bytes[6 + 8 * n..14 + 8 * n]).unwrap();
            u32::from_str_radix(digits, 16).unwrap()
        };
        assert_eq!((field(1), field(6)), (0o100_755, 10));
        assert_eq!(&bytes[HEADER..HEADER + 5], b"init\0");
        assert_eq!(&bytes[HEADER + 6..HEADER + 16], b"#!/bin/sh\n");
    }
}
