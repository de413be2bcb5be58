//! Gets the ELF `vmlinux` out of a bzImage.
//!
//! The setup header tells where the compressed payload lies (Linux `Documentation/x86/boot.rst`,
//! `payload_offset` and `payload_length`). Debian's cloud kernel compresses it as a legacy LZ4
//! stream and puts the unpacked size in the last four bytes.

use anyhow::{Context, Result, bail, ensure};

/// Offsets in the real-mode setup header.
const SETUP_SECTS: usize = 0x1f1;
const HEADER_MAGIC: usize = 0x202;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

const SECTOR: usize = 512;
const LZ4_LEGACY_MAGIC: u32 = 0x184c_2102;
/// Every legacy block but the last unpacks to this many bytes.
const LZ4_LEGACY_BLOCK: usize = 8 << 20;
/// No kernel is this large; a damaged size field may claim anything.
const MAX_VMLINUX: usize = 1 << 30;

/// Unpacks the ELF image inside `bzimage`.
///
/// # Errors
/// When `bzimage` is not a kernel, its payload is not legacy LZ4, or what comes out is not the
/// ELF file of the size the payload promises.
pub fn extract_vmlinux(bzimage: &[u8]) -> Result<Vec<u8>> {
    let payload = payload(bzimage)?;
    let (stream, size) = payload
        .split_last_chunk::<4>()
        .context("the kernel's payload is shorter than its size field")?;
    let size = usize::try_from(u32::from_le_bytes(*size))?;
    ensure!(
        size <= MAX_VMLINUX,
        "the kernel claims to unpack to {size} bytes"
    );

    let vmlinux = unpack_lz4_legacy(stream, size)?;
    ensure!(
        vmlinux.len() == size,
        "the kernel unpacked to {} bytes instead of {size}; the package may be damaged",
        vmlinux.len()
    );
    ensure!(
        vmlinux.starts_with(b"\x7fELF"),
        "the kernel's payload is not an ELF file"
    );
    Ok(vmlinux)
}

fn payload(bzimage: &[u8]) -> Result<&[u8]> {
    ensure!(
        bzimage.get(HEADER_MAGIC..HEADER_MAGIC + 4) == Some(b"HdrS"),
        "not a bzImage: the setup header's magic is missing"
    );
    // 0 means 4, for kernels older than the field.
    let setup_sectors = match bzimage[SETUP_SECTS] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (setup_sectors + 1) * SECTOR + word(bzimage, PAYLOAD_OFFSET)?;
    let length = word(bzimage, PAYLOAD_LENGTH)?;
    bzimage
        .get(start..start + length)
        .with_context(|| format!("the kernel is cut short: no {length} bytes at {start}"))
}

fn unpack_lz4_legacy(stream: &[u8], size: usize) -> Result<Vec<u8>> {
    let magic = word(stream, 0)?;
    if u32::try_from(magic) != Ok(LZ4_LEGACY_MAGIC) {
        bail!(
            "the kernel's payload is not LZ4 (magic {magic:#x}); only Debian's cloud kernel is known here"
        );
    }
    let mut unpacked = Vec::with_capacity(size);
    let mut rest = &stream[4..];
    while !rest.is_empty() {
        let length = word(rest, 0)?;
        let block = rest
            .get(4..4 + length)
            .context("the kernel's last LZ4 block is cut short")?;
        let block = lz4_flex::block::decompress(block, LZ4_LEGACY_BLOCK)
            .context("a block of the kernel's LZ4 payload is damaged")?;
        unpacked.extend_from_slice(&block);
        rest = &rest[4 + length..];
    }
    Ok(unpacked)
}

fn word(bytes: &[u8], at: usize) -> Result<usize> {
    let field = bytes
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .context("the kernel is cut short")?;
    Ok(usize::try_from(u32::from_le_bytes(*field))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bzImage with one setup sector whose payload holds `blocks`.
    fn bzimage(blocks: &[&[u8]]) -> Vec<u8> {
        let mut payload = LZ4_LEGACY_MAGIC.to_le_bytes().to_vec();
        for block in blocks {
            let packed = lz4_flex::block::compress(block);
            payload.extend(u32::try_from(packed.len()).unwrap().to_le_bytes());
            payload.extend(packed);
        }
        let size: usize = blocks.iter().map(|block| block.len()).sum();
        payload.extend(u32::try_from(size).unwrap().to_le_bytes());

        let mut image = vec![0; 2 * SECTOR];
        image[SETUP_SECTS] = 1;
        image[HEADER_MAGIC..HEADER_MAGIC + 4].copy_from_slice(b"HdrS");
        let length = u32::try_from(payload.len()).unwrap();
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&length.to_le_bytes());
        image.extend(payload);
        image
    }

    #[test]
    fn blocks_are_joined_in_order() {
        let image = bzimage(&[b"\x7fELF and a first block", b" and a second"]);
        assert_eq!(
            extract_vmlinux(&image).unwrap(),
            b"\x7fELF and a first block and a second"
        );
    }

    #[test]
    fn a_cut_file_is_refused() {
        let image = bzimage(&[b"\x7fELF"]);
        assert!(extract_vmlinux(&image[..image.len() - 1]).is_err());
        assert!(extract_vmlinux(b"#!/bin/sh\n").is_err());
    }

    #[test]
    fn a_payload_that_is_not_elf_is_refused() {
        let error = extract_vmlinux(&bzimage(&[b"text"])).unwrap_err();
        assert!(error.to_string().contains("not an ELF"), "{error}");
    }

    #[test]
    fn a_wrong_size_is_refused() {
        let mut image = bzimage(&[b"\x7fELF"]);
        let at = image.len() - 4;
        image[at] = 5;
        assert!(extract_vmlinux(&image).is_err());
    }
}
