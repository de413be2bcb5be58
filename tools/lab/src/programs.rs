//! The programs under test: where they are, and how they get into the outer machine.

use std::env;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};

use crate::setup::Tree;

/// `p_type` of the segment that names a dynamic loader (ELF gABI, program header).
const PT_INTERP: u32 = 3;

/// Paths on this machine.
pub struct Programs {
    /// The monitor under test.
    pub monitor: PathBuf,
    /// The tests.
    pub tests: PathBuf,
}

impl Programs {
    /// Takes the paths given, and finds the others where cargo puts them.
    pub fn find(monitor: Option<PathBuf>, tests: Option<PathBuf>) -> Result<Self> {
        Ok(Self {
            monitor: monitor.map_or_else(|| built("cloister-vmm", "api-server"), Ok)?,
            tests: tests.map_or_else(|| built("lab-tests", "lab-tests"), Ok)?,
        })
    }

    /// The outer machine's initramfs with the programs and this one, as agent, in it. The file
    /// has no name, so that nothing is left however this process ends.
    pub fn append_to(&self, initramfs: &Path) -> Result<File> {
        let mut file = tempfile::tempfile().context("cannot create a temporary file")?;
        let mut base = File::open(initramfs)
            .with_context(|| format!("cannot read {}", initramfs.display()))?;
        io::copy(&mut base, &mut file)?;

        let own = env::current_exe().context("cannot find this program's own file")?;
        let mut tree = Tree::default();
        let programs = [
            ("lab", &own),
            ("cloister-vmm", &self.monitor),
            ("lab-tests", &self.tests),
        ];
        for (name, path) in programs {
            tree.executable(&format!("bin/{name}"), read_static(path)?);
        }
        let mut out = BufWriter::new(&mut file);
        tree.write_cpio(&mut out)?;
        out.flush()?;
        drop(out);
        Ok(file)
    }
}

/// Cargo's target directory: the one that this program lies in, else `target`.
pub fn target_directory() -> PathBuf {
    env::current_exe()
        .ok()
        .and_then(|own| {
            // Cargo marks the target directory and each architecture's inside it.
            own.ancestors()
                .filter(|path| path.join("CACHEDIR.TAG").is_file())
                .last()
                .map(Path::to_owned)
        })
        .unwrap_or_else(|| PathBuf::from("target"))
}

/// The newer of the release and the debug build.
fn built(program: &str, package: &str) -> Result<PathBuf> {
    let directory = target_directory().join("x86_64-unknown-linux-gnu");
    let modified =
        |path: &PathBuf| -> Option<SystemTime> { fs::metadata(path).ok()?.modified().ok() };
    ["release", "debug"]
        .map(|profile| directory.join(profile).join(program))
        .into_iter()
        .filter(|path| path.is_file())
        .max_by_key(modified)
        .with_context(|| format!("{program} is not built; run `cargo build -p {package}`"))
}

fn read_static(path: &Path) -> Result<Vec<u8>> {
    let program = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let dynamic = needs_loader(&program)
        .with_context(|| format!("{} is not an x86_64 ELF file", path.display()))?;
    ensure!(
        !dynamic,
        "{} is linked dynamically and would not start in the lab; build it inside this workspace, \
         whose .cargo/config.toml links statically",
        path.display()
    );
    Ok(program)
}

/// Whether an ELF file asks for a dynamic loader; `None` if it is no 64-bit ELF file.
fn needs_loader(elf: &[u8]) -> Option<bool> {
    let half = |at: usize| {
        Some(usize::from(u16::from_le_bytes(
            *elf.get(at..)?.first_chunk()?,
        )))
    };
    if !elf.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = usize::try_from(u64::from_le_bytes(*elf.get(0x20..)?.first_chunk()?)).ok()?;
    let (entry_size, entries) = (half(0x36)?, half(0x38)?);
    for index in 0..entries {
        let at = table.checked_add(index.checked_mul(entry_size)?)?;
        if u32::from_le_bytes(*elf.get(at..)?.first_chunk()?) == PT_INTERP {
            return Some(true);
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_static_program_is_told_from_a_dynamic_one() {
        let mut elf = vec![0; 0x40 + 2 * 56];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[0x20] = 0x40;
        elf[0x36] = 56;
        elf[0x38] = 2;
        elf[0x40] = 1;
        assert_eq!(needs_loader(&elf), Some(false));
        elf[0x40 + 56] = 3;
        assert_eq!(needs_loader(&elf), Some(true));
        assert_eq!(needs_loader(&elf[..0x50]), None);
        assert_eq!(needs_loader(b"#!/bin/sh\n"), None);
    }
}
