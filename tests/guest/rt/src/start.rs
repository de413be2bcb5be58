//! First Rust code of the boot processor: collects what the monitor said, maps memory, runs `main`.

use core::arch::global_asm;

use crate::boot::{self, BootInfo, Protocol};
use crate::{interrupts, paging, verdict};

global_asm!(include_str!("entry.s"), options(raw));

/// One test kernel: what [`kernel!`](crate::kernel) declares.
#[derive(Debug)]
pub struct Kernel {
    /// Name of the binary, printed with the verdict.
    pub name: &'static str,
    /// The test. Passes when it returns.
    pub main: fn(&BootInfo),
}

unsafe extern "Rust" {
    safe static KERNEL: Kernel;
}

/// Name of the running kernel.
pub fn kernel_name() -> &'static str {
    KERNEL.name
}

/// Entered from `entry.s`, in ring 3, once.
// SAFETY: no other item has this name; `entry.s` enters it with these two arguments.
#[unsafe(no_mangle)]
extern "C" fn rt_start(protocol: u32, info: u32) -> ! {
    let protocol = if protocol == 0 {
        Protocol::Pvh
    } else {
        Protocol::Linux64
    };
    interrupts::build_table();
    let boot = boot::collect(protocol, u64::from(info));
    paging::map_beyond_first_gib(boot);
    (KERNEL.main)(boot);
    verdict::pass()
}
