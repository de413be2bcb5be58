//! The zero page: what a kernel entered by the 64-bit Linux protocol is told.
//!
//! Spec: Linux `Documentation/arch/x86/boot.rst` ("64-bit Boot Protocol") and `zero-page.rst`.

use devices::GuestMemory;
use linux_loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::{Bytes, GuestMemoryError};

use super::BootInfo;
use crate::arch::x86_64::layout::{CMDLINE_MAX_SIZE, ZERO_PAGE};

/// `boot_flag`: the signature of a boot sector.
pub(super) const BOOT_FLAG: u16 = 0xaa55;
/// `header`: "HdrS".
pub(super) const HEADER_MAGIC: u32 = 0x5372_6448;
/// `type_of_loader`: none of the registered ones.
const LOADER_UNDEFINED: u8 = 0xff;
/// `kernel_alignment` where the image says nothing: what Linux is built with by default.
const KERNEL_ALIGNMENT: u32 = 16 << 20;

/// Writes the zero page. `header` is the setup header of a bzImage; an ELF file has none.
///
/// # Errors
/// Guest memory ends below it.
pub fn write_zero_page(
    memory: &GuestMemory,
    info: &BootInfo<'_>,
    header: Option<setup_header>,
) -> Result<(), GuestMemoryError> {
    let mut params = boot_params {
        hdr: header.unwrap_or_else(elf_header),
        acpi_rsdp_addr: info.rsdp.0,
        ..boot_params::default()
    };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    (params.hdr.cmd_line_ptr, params.ext_cmd_line_ptr) = halves(info.cmdline.0);
    if let Some(initrd) = info.initrd {
        (params.hdr.ramdisk_image, params.ext_ramdisk_image) = halves(initrd.start.0);
        (params.hdr.ramdisk_size, params.ext_ramdisk_size) = halves(initrd.len);
    }
    for (entry, range) in params.e820_table.iter_mut().zip(info.memory_map) {
        *entry = boot_e820_entry {
            addr: range.start.0,
            size: range.len,
            r#type: range.kind as u32,
        };
        params.e820_entries += 1;
    }
    memory.write_obj(params, ZERO_PAGE)
}

/// The setup header for a kernel that brings none.
fn elf_header() -> setup_header {
    setup_header {
        boot_flag: BOOT_FLAG,
        header: HEADER_MAGIC,
        kernel_alignment: KERNEL_ALIGNMENT,
        cmdline_size: u32::try_from(CMDLINE_MAX_SIZE - 1).expect("a command line is short"),
        ..setup_header::default()
    }
}

/// Low and high 32 bits.
fn halves(value: u64) -> (u32, u32) {
    let half = |bits: u64| u32::try_from(bits).expect("masked to 32 bits");
    (half(value & 0xffff_ffff), half(value >> 32))
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestAddress;

    use super::*;
    use crate::arch::x86_64::layout::{CMDLINE_START, RSDP_START, memory_map, ram_regions};
    use crate::boot::Initrd;

    fn written(header: Option<setup_header>) -> (GuestMemory, boot_params) {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let info = BootInfo {
            cmdline: CMDLINE_START,
            initrd: Some(Initrd {
                start: GuestAddress(0x320_0000),
                len: 0x1234,
            }),
            rsdp: RSDP_START,
            memory_map: &memory_map(&ram_regions(5 * 1024)),
        };
        write_zero_page(&memory, &info, header).unwrap();
        let params = memory.read_obj(ZERO_PAGE).unwrap();
        (memory, params)
    }

    #[test]
    fn fields_lie_at_the_offsets_of_the_protocol() {
        let (memory, _) = written(None);
        let field = |offset: u64| -> u32 {
            let at = GuestAddress(ZERO_PAGE.0 + offset);
            memory.read_obj(at).unwrap()
        };
        assert_eq!(field(0x202), 0x5372_6448);
        assert_eq!(field(0x1fe) & 0xffff, 0xaa55);
        assert_eq!(field(0x210) & 0xff, 0xff);
        assert_eq!((field(0x218), field(0x21c)), (0x320_0000, 0x1234));
        assert_eq!((field(0x228), field(0x238)), (0x2_0000, 2047));
        assert_eq!(field(0x70), 0xe_0000);
        assert_eq!(field(0x1e8) & 0xff, 5);
        assert_eq!((field(0x2d0 + 20), field(0x2d0 + 36)), (0x9_fc00, 2));
    }

    #[test]
    fn the_header_of_an_image_is_kept() {
        let header = setup_header {
            version: 0x20f,
            init_size: 77,
            kernel_alignment: 0x20_0000,
            ..elf_header()
        };
        let (_, params) = written(Some(header));
        let (version, init_size) = (params.hdr.version, params.hdr.init_size);
        assert_eq!((version, init_size), (0x20f, 77));
        assert_eq!({ params.hdr.kernel_alignment }, 0x20_0000);
    }
}
