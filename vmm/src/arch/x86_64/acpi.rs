//! ACPI tables: what firmware would tell a kernel about this machine.
//!
//! ```text
//! RSDP (0xe0000) -> XSDT -> FADT -> DSDT
//!                        -> MADT
//!                        -> MCFG, with PCI
//! ```
//!
//! The machine is hardware-reduced: no 8259, no 8254, no PM timer, no SCI; it is switched off by the sleep registers. A kernel that reads these tables then touches
//! none of them, counts time by kvmclock and wakes by the APIC timer's TSC deadline. Device interrupts are
//! edge-triggered and active high, on I/O APIC pins of the same number as their GSI.
//!
//! OEM ids are ours: guests match devices by `_HID`, never by these.
//!
//! Spec: ACPI 6.5 chapters 5, 6 and 19.

mod dsdt;
mod pci;

use acpi_tables::Aml;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use devices::GuestMemory;
use devices::acpi::power::{RESET, RESET_VALUE, SLEEP_CONTROL, SLEEP_STATUS};
use vm_memory::{Bytes, GuestAddress};

use super::layout::{ECAM_START, IOAPIC_START, LAPIC_START, POWER_PORTS, RSDP_START};
use super::system_area::{SystemArea, SystemAreaError};

const OEM_ID: [u8; 6] = *b"CLOIST";
const OEM_REVISION: u32 = 0;
const HYPERVISOR_ID: [u8; 8] = *b"CLOISTER";
/// MADT revision of ACPI 6.5 (§5.2.12).
const MADT_REVISION: u8 = 6;
/// The MADT's fixed part: header, local APIC address, flags.
const MADT_LEN: u32 = 44;

// IA-PC boot architecture flags, ACPI 6.5 table 5.10.
const IAPC_8042: u16 = 1 << 1;
const IAPC_VGA_NOT_PRESENT: u16 = 1 << 2;
const IAPC_CMOS_RTC_NOT_PRESENT: u16 = 1 << 5;

/// A virtio-mmio device as a kernel is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioDevice {
    /// First register.
    pub start: GuestAddress,
    /// Bytes of registers.
    pub len: u64,
    /// Its interrupt: an I/O APIC pin, `GSI_DEVICE_FIRST..=GSI_DEVICE_LAST`.
    pub gsi: u32,
}

/// What the tables describe.
#[derive(Clone, Copy, Debug)]
pub struct Machine<'a> {
    /// vCPUs; the APIC id of each is its index.
    pub vcpu_count: u8,
    /// virtio-mmio devices, in attach order.
    pub mmio_devices: &'a [MmioDevice],
    /// Where the generation id lies.
    pub generation_id: GuestAddress,
    /// Where the VM clock's page lies.
    pub vm_clock: GuestAddress,
    /// There is PCI configuration space at `ECAM_START`.
    pub has_pci: bool,
}

/// Writes all tables and returns the address of the root pointer.
///
/// # Errors
/// [`SystemAreaError`]: the tables do not fit.
pub fn write_tables(
    memory: &GuestMemory,
    area: &mut SystemArea,
    machine: &Machine<'_>,
) -> Result<GuestAddress, SystemAreaError> {
    let dsdt = area.place(memory, &dsdt::dsdt(machine))?;
    let mut xsdt = XSDT::new(OEM_ID, *b"CLSTXSDT", OEM_REVISION);
    let mut tables = vec![fadt(dsdt), madt(machine.vcpu_count)];
    if machine.has_pci {
        tables.push(mcfg());
    }
    for table in tables {
        xsdt.add_entry(area.place(memory, &table)?.0);
    }
    let xsdt = area.place(memory, &bytes_of(&xsdt))?;
    let rsdp = bytes_of(&Rsdp::new(OEM_ID, xsdt.0));
    memory
        .write_slice(&rsdp, RSDP_START)
        .map_err(SystemAreaError::Write)?;
    Ok(RSDP_START)
}

fn bytes_of(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// §5.2.9. No power management block at all: hardware-reduced.
fn fadt(dsdt: GuestAddress) -> Vec<u8> {
    let mut fadt = FADTBuilder::new(OEM_ID, *b"CLSTFADT", OEM_REVISION)
        .dsdt_64(dsdt.0)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::ResetRegSup);
    fadt.sleep_control_reg = power_register(SLEEP_CONTROL);
    fadt.sleep_status_reg = power_register(SLEEP_STATUS);
    fadt.reset_reg = power_register(RESET);
    fadt.reset_value = RESET_VALUE;
    let boot_flags = IAPC_8042 | IAPC_VGA_NOT_PRESENT | IAPC_CMOS_RTC_NOT_PRESENT;
    fadt.iapc_boot_arch = boot_flags.into();
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(HYPERVISOR_ID).into();
    bytes_of(&fadt.finalize())
}

/// A byte among the power ports (§5.2.3.2).
fn power_register(offset: u64) -> GAS {
    let port = u64::from(POWER_PORTS) + offset;
    GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, port)
}

/// §5.2.12. Flags 0: no 8259 (`PCAT_COMPAT`), so kernels do not look for one.
fn madt(vcpu_count: u8) -> Vec<u8> {
    let mut body = Vec::new();
    let address = |at: GuestAddress| u32::try_from(at.0).expect("APICs lie below 4 GiB");
    IoApic::new(0, address(IOAPIC_START), 0).to_aml_bytes(&mut body);
    for id in 0..vcpu_count {
        ProcessorLocalApic::new(id, id, EnabledStatus::Enabled).to_aml_bytes(&mut body);
    }
    let mut madt = Sdt::new(
        *b"APIC",
        MADT_LEN,
        MADT_REVISION,
        OEM_ID,
        *b"CLSTMADT",
        OEM_REVISION,
    );
    madt.write_u32(36, address(LAPIC_START));
    madt.append_slice(&body);
    madt.as_slice().to_vec()
}

/// PCI Firmware 3.3 §4.1.2: segment 0, bus 0.
fn mcfg() -> Vec<u8> {
    let mut mcfg = MCFG::new(OEM_ID, *b"CLSTMCFG", OEM_REVISION);
    mcfg.add_ecam(ECAM_START.0, 0, 0, 0);
    bytes_of(&mcfg)
}

#[cfg(test)]
mod tests;
