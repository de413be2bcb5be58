//! Kernel images of any kind, and an initrd behind them: what is loaded lies in guest memory, and apart from each
//! other.
#![no_main]

use devices::GuestMemory;
use fuzz::file;
use libfuzzer_sys::fuzz_target;
use vm_memory::GuestAddress;
use vmm::boot::initrd::load_initrd;
use vmm::boot::kernel::load_kernel;

const MEMORY: u64 = 8 << 20;

fuzz_target!(|input: &[u8]| {
    let memory =
        GuestMemory::from_ranges(&[(GuestAddress(0), 8 << 20)]).expect("the host has memory");
    let Ok(kernel) = load_kernel(&memory, &mut file::holding(input)) else {
        return;
    };
    assert!(kernel.start <= kernel.end, "{kernel:?}");
    assert!(kernel.end.0 <= MEMORY, "{kernel:?}");
    let initrd = load_initrd(&memory, &mut file::holding(input), &kernel);
    if let Ok(initrd) = initrd {
        let end = initrd.start.0 + initrd.len;
        assert!(end <= MEMORY, "{initrd:?}");
        assert!(
            end <= kernel.start.0 || initrd.start >= kernel.end,
            "{kernel:?} {initrd:?}"
        );
    }
});
