//! The model-specific registers hold what the monitor promises at boot, and one can be written.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::{gates, println};

rt::kernel!(main);

const MSR_KERNEL_GS_BASE: u32 = 0xc000_0102;

/// Number and value at boot.
const EXPECTED: [(u32, u64); 10] = [
    // SYSENTER_CS, SYSENTER_ESP, SYSENTER_EIP.
    (0x174, 0),
    (0x175, 0),
    (0x176, 0),
    // MISC_ENABLE: fast strings.
    (0x1a0, 1),
    // MTRRdefType: enabled, write-back.
    (0x2ff, 0x806),
    // STAR, LSTAR, CSTAR, SYSCALL_MASK.
    (0xc000_0081, 0),
    (0xc000_0082, 0),
    (0xc000_0083, 0),
    (0xc000_0084, 0),
    (MSR_KERNEL_GS_BASE, 0),
];

fn main(_boot: &BootInfo) {
    let found = EXPECTED.map(|(msr, _)| gates::read_msr(msr));
    for ((msr, _), value) in EXPECTED.iter().zip(found) {
        println!("msr {msr:#x} {value:#x}");
    }
    for ((msr, expected), value) in EXPECTED.iter().zip(found) {
        rt::check!(
            value == *expected,
            "MSR {msr:#x} holds {value:#x}, not {expected:#x}"
        );
    }

    let pattern = 0x0000_7bad_cafe_f00d;
    // SAFETY: only `swapgs` looks at this register, and nothing here uses it.
    unsafe { gates::write_msr(MSR_KERNEL_GS_BASE, pattern) };
    let found = gates::read_msr(MSR_KERNEL_GS_BASE);
    rt::check!(
        found == pattern,
        "MSR {MSR_KERNEL_GS_BASE:#x} was written and holds {found:#x}"
    );
}
