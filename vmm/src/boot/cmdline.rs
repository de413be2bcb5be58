//! The kernel command line: what the user gave, then what the machine adds.
//!
//! A ` -- ` ends the kernel's part; what follows goes to the first process and stays last (Linux
//! `Documentation/admin-guide/kernel-parameters.rst`).

use devices::GuestMemory;
use vm_config::{Explain, FaultCode, FaultKind};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::arch::x86_64::layout::{CMDLINE_MAX_SIZE, CMDLINE_START};

/// Used when the user gives none.
pub const DEFAULT: &str = "reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce";
/// Most bytes a command line can have, without its NUL.
pub const MAX_LEN: usize = CMDLINE_MAX_SIZE - 1;

/// A command line that no kernel can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CmdlineError {
    /// Too long.
    #[error(
        "The kernel command line is invalid: Invalid cmdline capacity provided. It is {len} bytes long and {MAX_LEN} fit; shorten boot_args by {}",
        len - MAX_LEN
    )]
    TooLong {
        /// Bytes, with what the machine adds.
        len: usize,
    },
    /// A NUL inside.
    #[error(
        "The kernel command line is invalid: byte {at} of boot_args is NUL, where the kernel would stop reading; remove it"
    )]
    Nul {
        /// Position.
        at: usize,
    },
}

impl Explain for CmdlineError {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(match self {
            Self::TooLong { .. } | Self::Nul { .. } => FaultCode::BootArgsInvalid,
        })
    }
}

/// A command line under construction.
#[derive(Clone, Debug)]
pub struct CommandLine {
    kernel: String,
    init: Option<String>,
}

impl CommandLine {
    /// Starts from the user's `boot_args`, or from [`DEFAULT`] when there are none; `""` is an empty line.
    #[must_use]
    pub fn new(user: Option<&str>) -> Self {
        let user = user.unwrap_or(DEFAULT);
        match split_init(user) {
            Some((kernel, init)) => Self {
                kernel: kernel.trim().to_owned(),
                init: Some(init.trim().to_owned()),
            },
            None => Self {
                kernel: user.trim().to_owned(),
                init: None,
            },
        }
    }

    /// Appends a parameter to the kernel's part.
    pub fn push(&mut self, parameter: &str) -> &mut Self {
        if !self.kernel.is_empty() {
            self.kernel.push(' ');
        }
        self.kernel.push_str(parameter);
        self
    }

    /// Appends a virtio-mmio device for kernels that do not read ACPI (Linux `drivers/virtio/virtio_mmio.c`).
    pub fn push_virtio_mmio(&mut self, start: GuestAddress, gsi: u32) -> &mut Self {
        self.push(&format!("virtio_mmio.device=4K@{:#x}:{gsi}", start.0))
    }

    /// The bytes a kernel reads, with their NUL.
    ///
    /// # Errors
    /// The line is too long, or the user's part holds a NUL.
    pub fn finish(&self) -> Result<Vec<u8>, CmdlineError> {
        let mut line = self.kernel.clone();
        if let Some(init) = &self.init {
            line.push_str(" -- ");
            line.push_str(init);
        }
        if let Some(at) = line.find('\0') {
            return Err(CmdlineError::Nul { at });
        }
        if line.len() > MAX_LEN {
            return Err(CmdlineError::TooLong { len: line.len() });
        }
        let mut bytes = line.into_bytes();
        bytes.push(0);
        Ok(bytes)
    }
}

/// Writes the bytes of [`CommandLine::finish`] to their place and returns it.
///
/// # Errors
/// Guest memory ends below it.
pub fn write(memory: &GuestMemory, line: &[u8]) -> Result<GuestAddress, GuestMemoryError> {
    memory.write_slice(line, CMDLINE_START)?;
    Ok(CMDLINE_START)
}

/// Splits at the first `--` that stands alone outside double quotes.
fn split_init(line: &str) -> Option<(&str, &str)> {
    let is_space = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_whitespace);
    let bytes = line.as_bytes();
    let mut quoted = false;
    for (at, byte) in bytes.iter().enumerate() {
        quoted ^= *byte == b'"';
        let starts = !quoted && bytes[at..].starts_with(b"--");
        let before = at.checked_sub(1).and_then(|before| bytes.get(before));
        if starts && is_space(before) && is_space(bytes.get(at + 2)) {
            return Some((&line[..at], &line[at + 2..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(user: Option<&str>, pushed: &[&str]) -> String {
        let mut line = CommandLine::new(user);
        for parameter in pushed {
            line.push(parameter);
        }
        let mut bytes = line.finish().unwrap();
        assert_eq!(bytes.pop(), Some(0));
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn the_default_stands_in_for_an_absent_line_only() {
        assert_eq!(line(None, &["pci=off"]), format!("{DEFAULT} pci=off"));
        assert_eq!(line(Some(""), &["pci=off"]), "pci=off");
        assert_eq!(line(Some(""), &[]), "");
    }

    #[test]
    fn init_arguments_stay_last() {
        let user = Some("console=ttyS0 -- single -v");
        assert_eq!(
            line(user, &["pci=off", "ro"]),
            "console=ttyS0 pci=off ro -- single -v"
        );
        assert_eq!(line(Some("-- single"), &["ro"]), "ro -- single");
    }

    #[test]
    fn dashes_inside_words_and_quotes_do_not_split() {
        for user in ["a--b", "--a", "x=\"a -- b\""] {
            assert_eq!(line(Some(user), &["ro"]), format!("{user} ro"));
        }
    }

    #[test]
    fn virtio_devices_are_written_as_linux_reads_them() {
        let mut line = CommandLine::new(Some(""));
        line.push_virtio_mmio(GuestAddress(0xc000_1000), 5);
        assert_eq!(
            line.finish().unwrap(),
            b"virtio_mmio.device=4K@0xc0001000:5\0"
        );
    }

    #[test]
    fn two_thousand_and_forty_seven_bytes_fit_and_one_more_does_not() {
        let longest = "a".repeat(MAX_LEN);
        assert_eq!(line(Some(&longest), &[]).len(), 2047);
        let mut over = CommandLine::new(Some(&longest[2..]));
        over.push("b");
        assert_eq!(over.finish().unwrap().len(), 2048);
        over.push("c");
        assert_eq!(over.finish(), Err(CmdlineError::TooLong { len: 2049 }));
    }

    #[test]
    fn a_nul_is_refused() {
        let line = CommandLine::new(Some("a\0b"));
        assert_eq!(line.finish(), Err(CmdlineError::Nul { at: 1 }));
    }
}
