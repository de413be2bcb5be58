//! Kernel command lines: what a user gave is all there, what the machine adds stands before an init's arguments, and
//! the line ends where the kernel stops reading.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vm_memory::GuestAddress;
use vmm::boot::cmdline::{CommandLine, MAX_LEN};

fuzz_target!(|user: &str| {
    let mut line = CommandLine::new(Some(user));
    line.push("pci=off");
    line.push_virtio_mmio(GuestAddress(0xc000_1000), 5);
    let Ok(bytes) = line.finish() else {
        let pushed = 100;
        assert!(
            user.contains('\0') || user.len() + pushed > MAX_LEN,
            "refused for nothing"
        );
        return;
    };
    assert!(bytes.len() <= MAX_LEN + 1);
    assert_eq!(
        bytes.iter().position(|byte| *byte == 0),
        Some(bytes.len() - 1)
    );
    let text = String::from_utf8(bytes).expect("it was text");
    assert!(text.contains("pci=off virtio_mmio.device=4K@0xc0001000:5"));
    for word in user.split_whitespace() {
        assert!(text.contains(word), "{word:?} is missing in {text:?}");
    }
});
