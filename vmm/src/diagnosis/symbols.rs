//! Names of addresses, from the symbol table of the kernel's file.
//!
//! The file is somebody else's, and read only when somebody asks: what it says is bounded by the numbers below, and nothing of
//! it is kept. A kernel need not run where it was linked; where its segments were loaded is known, so a guest-physical address
//! leads back to the linked one.
//!
//! Spec: System V ABI, "Sections" and "Symbol Table".

#![deny(clippy::arithmetic_side_effects)]

mod elf;

use std::io::{self, BufReader, Read, Seek};

use self::elf::{
    CLASS_64_LITTLE, Entry, Header, MAGIC, Program, SHN_LORESERVE, SHN_UNDEF, STT_FUNC, STT_NOTYPE,
    Section, damaged, read, read_at, seek, segments, tables,
};

/// Most symbols that are looked at. A kernel with everything built in has about 200,000.
const MAX_SYMBOLS: u64 = 1 << 20;
/// The longest name that is told, bytes.
const MAX_NAME: u64 = 128;
/// How far behind a symbol without a length an address may lie, bytes.
const MAX_DISTANCE: u64 = 1 << 20;
const BUFFER: usize = 64 << 10;
/// Bytes of a symbol.
const ENTRY_LEN: u64 = size_of::<Entry>() as u64;

/// An address to name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Where the vCPU is.
    pub linear: u64,
    /// Where that leads, if it runs the kernel.
    pub physical: Option<u64>,
}

/// The name of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// The function's, with what is not printable escaped.
    pub name: String,
    /// Bytes from its start.
    pub offset: u64,
    /// The kernel runs elsewhere than it was linked for.
    pub is_moved: bool,
}

/// Why there are no names.
#[derive(Debug, thiserror::Error)]
pub enum NoSymbols {
    /// A bzImage, or something else.
    #[error(
        "the kernel image is no ELF file, so it has no symbols; boot the vmlinux it was made of to see names"
    )]
    NotElf,
    /// Stripped.
    #[error(
        "the kernel image has no symbol table; boot a vmlinux that is not stripped to see names"
    )]
    Stripped,
    /// More than is looked at.
    #[error("the kernel image's {what} are too many to look at: {count}")]
    TooMany {
        /// What.
        what: &'static str,
        /// How many.
        count: u64,
    },
    /// Damaged, or gone.
    #[error("the kernel image cannot be read: {0}")]
    Unreadable(#[from] io::Error),
}

/// The best symbol so far.
#[derive(Clone, Copy)]
struct Candidate {
    entry: Entry,
    offset: u64,
}

/// Names each of `queries` by the symbols of `image`.
///
/// # Errors
/// [`NoSymbols`]: there are none, or the file is damaged.
pub fn find(image: impl Read + Seek, queries: &[Query]) -> Result<Vec<Option<Symbol>>, NoSymbols> {
    let mut image = BufReader::with_capacity(BUFFER, image);
    let header: Header = read_at(&mut image, 0)?;
    if header.magic != MAGIC || header.class != CLASS_64_LITTLE {
        return Err(NoSymbols::NotElf);
    }
    let segments = segments(&mut image, &header)?;
    let linked: Vec<_> = queries
        .iter()
        .map(|query| query.linked(&segments))
        .collect();
    let (symbols, names) = tables(&mut image, &header)?;
    let best = scan(&mut image, &symbols, &linked)?;
    let named = best.iter().zip(&linked).map(|(best, linked)| {
        let (Some(best), Some(linked)) = (best, linked) else {
            return Ok(None);
        };
        Ok(Some(Symbol {
            name: name(&mut image, &names, best.entry.name)?,
            offset: best.offset,
            is_moved: linked.is_moved,
        }))
    });
    named.collect()
}

/// An address as the kernel was linked.
#[derive(Clone, Copy)]
struct Linked {
    address: u64,
    is_moved: bool,
}

impl Query {
    /// As linked: as it is where a segment holds it, else by way of where that segment was loaded.
    fn linked(&self, segments: &[Program]) -> Option<Linked> {
        let holds = |start: u64, len: u64, address: u64| {
            address.checked_sub(start).filter(|offset| *offset < len)
        };
        let direct = segments
            .iter()
            .any(|s| holds(s.linear, s.memory_len, self.linear).is_some());
        if direct {
            return Some(Linked {
                address: self.linear,
                is_moved: false,
            });
        }
        let physical = self.physical?;
        segments.iter().find_map(|s| {
            let offset = holds(s.physical, s.memory_len, physical)?;
            Some(Linked {
                address: s.linear.checked_add(offset)?,
                is_moved: true,
            })
        })
    }
}

/// The symbol closest before each address.
fn scan<R: Read + Seek>(
    image: &mut BufReader<R>,
    symbols: &Section,
    addresses: &[Option<Linked>],
) -> Result<Vec<Option<Candidate>>, NoSymbols> {
    let count = symbols.len.checked_div(ENTRY_LEN).unwrap_or(0);
    if count > MAX_SYMBOLS {
        return Err(NoSymbols::TooMany {
            what: "symbols",
            count,
        });
    }
    seek(image, symbols.offset)?;
    let mut best: Vec<Option<Candidate>> = vec![None; addresses.len()];
    for _ in 0..count {
        let entry: Entry = read(image)?;
        let is_code = matches!(entry.info & 0xf, STT_NOTYPE | STT_FUNC)
            && entry.section != SHN_UNDEF
            && entry.section < SHN_LORESERVE;
        if !is_code {
            continue;
        }
        for (best, address) in best.iter_mut().zip(addresses) {
            if let Some(address) = address {
                improve(best, entry, address.address);
            }
        }
    }
    Ok(best)
}

/// Takes `entry` when it starts closer before `address`; among those of one place, the last that has a length.
fn improve(best: &mut Option<Candidate>, entry: Entry, address: u64) {
    let Some(offset) = address.checked_sub(entry.value) else {
        return;
    };
    if offset >= entry.len.max(MAX_DISTANCE) {
        return;
    }
    let is_better = match best {
        None => true,
        Some(best) => offset < best.offset || (offset == best.offset && entry.len > 0),
    };
    if is_better {
        *best = Some(Candidate { entry, offset });
    }
}

/// The name at `at` of the table `names`.
fn name<R: Read + Seek>(
    image: &mut BufReader<R>,
    names: &Section,
    at: u32,
) -> Result<String, NoSymbols> {
    let at = u64::from(at);
    let left = names.len.saturating_sub(at).min(MAX_NAME);
    let start = names.offset.checked_add(at).ok_or(damaged())?;
    seek(image, start)?;
    let mut bytes = Vec::new();
    image.take(left).read_to_end(&mut bytes)?;
    let end = bytes.iter().position(|byte| *byte == 0);
    bytes.truncate(end.unwrap_or(bytes.len()));
    Ok(bytes.escape_ascii().to_string())
}

#[cfg(test)]
mod tests;
