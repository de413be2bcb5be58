//! What the monitor told the kernel: command line, memory map, initrd, ACPI root.
//!
//! Sources: Xen `hvm_start_info` version 1 (PVH), Linux `Documentation/arch/x86/boot.rst` and
//! `zero-page.rst` (64-bit entry).

use crate::command_line::CommandLine;
use crate::physical;
use crate::taken::Taken;

/// PVH: magic of `hvm_start_info`.
const XEN_HVM_START_MAGIC_VALUE: u32 = 0x336e_c578;
/// Linux: `boot_flag` of the setup header.
const BOOT_FLAG: u16 = 0xaa55;
/// Linux: `header` of the setup header, "HdrS".
const HDRS: u32 = 0x5372_6448;

/// Longest command line that the monitor gives, with its NUL.
const COMMAND_LINE_BYTES: usize = 2048;
/// As many as a zero page holds (`E820_MAX_ENTRIES_ZEROPAGE`).
const MAX_REGIONS: usize = 128;

/// How the monitor entered the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// 32-bit protected mode, `hvm_start_info` in rbx.
    Pvh,
    /// Long mode, zero page in rsi.
    Linux64,
}

impl Protocol {
    /// The protocol's name in output lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pvh => "pvh",
            Self::Linux64 => "linux64",
        }
    }
}

/// One entry of the memory map.
#[derive(Clone, Copy, Debug, Default)]
pub struct Region {
    /// First address.
    pub start: u64,
    /// First address past the end.
    pub end: u64,
    /// e820 type: 1 is RAM.
    pub kind: u32,
}

impl Region {
    /// e820 type of RAM.
    pub const RAM: u32 = 1;
}

/// A piece of memory the monitor filled.
#[derive(Clone, Copy, Debug)]
pub struct Blob {
    /// First address.
    pub address: u64,
    /// Bytes.
    pub len: u64,
}

/// All the monitor said. Lives for ever.
#[derive(Debug)]
pub struct BootInfo {
    /// How the kernel was entered.
    pub protocol: Protocol,
    /// Address of the ACPI root pointer, 0 if none was given.
    pub rsdp: u64,
    /// The initial RAM disk, if there is one.
    pub initrd: Option<Blob>,
    command_line: [u8; COMMAND_LINE_BYTES],
    command_line_len: usize,
    regions: [Region; MAX_REGIONS],
    region_count: usize,
}

impl BootInfo {
    /// The command line as given.
    pub fn command_line(&self) -> CommandLine<'_> {
        CommandLine::new(&self.command_line[..self.command_line_len])
    }

    /// The memory map, in the monitor's order.
    pub fn memory_map(&self) -> &[Region] {
        &self.regions[..self.region_count]
    }

    /// The RAM in the memory map.
    pub fn ram(&self) -> impl Iterator<Item = Region> {
        self.memory_map()
            .iter()
            .copied()
            .filter(|region| region.kind == Region::RAM)
    }

    fn copy_command_line(&mut self, address: u64) {
        if address == 0 {
            return;
        }
        // Copied before anything can overwrite it.
        while self.command_line_len < COMMAND_LINE_BYTES {
            let byte: u8 = physical::read(address + self.command_line_len as u64);
            if byte == 0 {
                return;
            }
            self.command_line[self.command_line_len] = byte;
            self.command_line_len += 1;
        }
    }

    fn add_region(&mut self, start: u64, len: u64, kind: u32) {
        crate::check!(
            self.region_count < MAX_REGIONS,
            "more than {MAX_REGIONS} memory map entries"
        );
        self.regions[self.region_count] = Region {
            start,
            end: start + len,
            kind,
        };
        self.region_count += 1;
    }
}

static BOOT_INFO: Taken<BootInfo> = Taken::new(BootInfo {
    protocol: Protocol::Pvh,
    rsdp: 0,
    initrd: None,
    command_line: [0; COMMAND_LINE_BYTES],
    command_line_len: 0,
    regions: [Region {
        start: 0,
        end: 0,
        kind: 0,
    }; MAX_REGIONS],
    region_count: 0,
});

/// Reads the structure at `info`. Called once, first of all.
pub(crate) fn collect(protocol: Protocol, info: u64) -> &'static BootInfo {
    let boot = BOOT_INFO.take();
    boot.protocol = protocol;
    match protocol {
        Protocol::Pvh => collect_pvh(boot, info),
        Protocol::Linux64 => collect_linux(boot, info),
    }
    boot
}

fn collect_pvh(boot: &mut BootInfo, info: u64) {
    let magic: u32 = physical::read(info);
    let version: u32 = physical::read(info + 4);
    crate::check!(
        magic == XEN_HVM_START_MAGIC_VALUE,
        "PVH start info has magic {magic:#x}"
    );
    crate::check!(
        version >= 1,
        "PVH start info has version {version}, without a memory map"
    );

    boot.copy_command_line(physical::read(info + 24));
    boot.rsdp = physical::read(info + 32);
    let module_count: u32 = physical::read(info + 12);
    if module_count > 0 {
        let list: u64 = physical::read(info + 16);
        boot.initrd = Some(Blob {
            address: physical::read(list),
            len: physical::read(list + 8),
        });
    }
    let map: u64 = physical::read(info + 40);
    let entries: u32 = physical::read(info + 48);
    for entry in 0..u64::from(entries) {
        let at = map + entry * 24;
        boot.add_region(
            physical::read(at),
            physical::read(at + 8),
            physical::read(at + 16),
        );
    }
}

fn collect_linux(boot: &mut BootInfo, zero_page: u64) {
    let boot_flag: u16 = physical::read(zero_page + 0x1fe);
    let header: u32 = physical::read(zero_page + 0x202);
    crate::check!(
        boot_flag == BOOT_FLAG,
        "zero page has boot flag {boot_flag:#x}"
    );
    crate::check!(header == HDRS, "zero page has header {header:#x}");

    boot.copy_command_line(split_field(zero_page, 0x228, 0xc8));
    boot.rsdp = physical::read(zero_page + 0x70);
    let len = split_field(zero_page, 0x21c, 0xc4);
    if len > 0 {
        boot.initrd = Some(Blob {
            address: split_field(zero_page, 0x218, 0xc0),
            len,
        });
    }
    let entries: u8 = physical::read(zero_page + 0x1e8);
    for entry in 0..u64::from(entries) {
        let at = zero_page + 0x2d0 + entry * 20;
        boot.add_region(
            physical::read(at),
            physical::read(at + 8),
            physical::read(at + 16),
        );
    }
}

/// A 64-bit value whose upper half was added to the zero page later.
fn split_field(zero_page: u64, low: u64, high: u64) -> u64 {
    let low: u32 = physical::read(zero_page + low);
    let high: u32 = physical::read(zero_page + high);
    u64::from(high) << 32 | u64::from(low)
}
