//! bzImage kernels, packed here around a test kernel.
//!
//! Spec: Linux `Documentation/arch/x86/boot.rst`, "The Real-Mode Kernel Header".

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::io::Write;

use integration::{TestVm, fnv1a64, guest_kernel, vm_test};

/// Boot sector and one sector of setup.
const SETUP: usize = 2 * 512;
/// Where the 64-bit entry is, from the start of the code.
const ENTRY_64: usize = 0x200;
const PAYLOAD: usize = 0x400;

/// A bzImage whose code is `stub`, with `packed` in it, which unpacks to `unpacked_len` bytes.
fn image(stub: &[u8], packed: &[u8], unpacked_len: usize) -> Vec<u8> {
    let mut code = vec![0; ENTRY_64];
    code.extend_from_slice(stub);
    assert!(code.len() <= PAYLOAD);
    code.resize(PAYLOAD, 0);
    code.extend_from_slice(packed);
    code.extend_from_slice(&u32::try_from(unpacked_len).unwrap().to_le_bytes());
    let payload_len = code.len() - PAYLOAD;
    code.resize(code.len().next_multiple_of(16), 0);

    let mut image = vec![0; SETUP];
    let mut set = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    set(0x1f1, &[1]); // setup_sects
    set(
        0x1f4,
        &u32::try_from(code.len() / 16).unwrap().to_le_bytes(),
    ); // syssize
    set(0x1fe, &[0x55, 0xaa]); // boot_flag
    set(0x200, &[0xeb, 0x6a]); // jump: the header ends at 0x26c
    set(0x202, b"HdrS");
    set(0x206, &0x020c_u16.to_le_bytes()); // version
    set(0x211, &[1]); // loadflags: LOADED_HIGH
    set(0x22c, &0x7fff_ffff_u32.to_le_bytes()); // initrd_addr_max
    set(0x230, &0x20_0000_u32.to_le_bytes()); // kernel_alignment
    set(0x234, &[1]); // relocatable_kernel
    set(0x236, &1_u16.to_le_bytes()); // xloadflags: XLF_KERNEL_64
    set(0x248, &u32::try_from(PAYLOAD).unwrap().to_le_bytes()); // payload_offset
    set(0x24c, &u32::try_from(payload_len).unwrap().to_le_bytes()); // payload_length
    set(0x258, &0x20_0000_u64.to_le_bytes()); // pref_address
    set(0x260, &0x10_0000_u32.to_le_bytes()); // init_size
    image.extend_from_slice(&code);
    image
}

/// As `lz4 -l` packs: blocks of 8 MiB, each behind its length.
fn lz4(plain: &[u8]) -> Vec<u8> {
    let mut frame = 0x184c_2102_u32.to_le_bytes().to_vec();
    for piece in plain.chunks(8 << 20) {
        let block = lz4_flex::block::compress(piece);
        frame.extend_from_slice(&u32::try_from(block.len()).unwrap().to_le_bytes());
        frame.extend_from_slice(&block);
    }
    frame
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packer.write_all(plain).unwrap();
    packer.finish().unwrap()
}

fn boot(vm: &mut TestVm, image: &[u8]) {
    let path = vm.path("bzImage");
    fs::write(&path, image).unwrap();
    vm.boot("kernel_image_path", path.to_str().unwrap());
    vm.start();
}

#[vm_test(kernel = "hello")]
fn a_kernel_packed_with_lz4_is_entered_by_its_note(vm: &mut TestVm) {
    let kernel = fs::read(guest_kernel("hello")).unwrap();
    boot(vm, &image(&[], &lz4(&kernel), kernel.len()));
    vm.expect_pass();
    assert_eq!(vm.value("protocol"), "pvh");
}

#[vm_test(kernel = "hello64")]
fn a_kernel_packed_with_gzip_is_entered_by_the_64_bit_protocol(vm: &mut TestVm) {
    let kernel = fs::read(guest_kernel("hello64")).unwrap();
    boot(vm, &image(&[], &gzip(&kernel), kernel.len()));
    vm.expect_pass();
    assert_eq!(vm.value("protocol"), "linux64");
}

#[vm_test(kernel = "initrd")]
fn a_packed_kernel_gets_its_initrd(vm: &mut TestVm) {
    let bytes: Vec<u8> = (0..=u8::MAX).cycle().take(100_003).collect();
    let path = vm.path("initrd");
    fs::write(&path, &bytes).unwrap();
    vm.boot("initrd_path", path.to_str().unwrap());
    let kernel = fs::read(guest_kernel("initrd")).unwrap();
    boot(vm, &image(&[], &lz4(&kernel), kernel.len()));
    vm.expect_pass();
    assert_eq!(vm.value("initrd_fnv1a64"), fnv1a64(&bytes));
}

#[vm_test(kernel = "hello")]
fn a_kernel_packed_otherwise_is_entered_at_its_own_64_bit_entry(vm: &mut TestVm) {
    // mov dx, 0x3f8; mov al, 'K'; out dx, al; mov al, 0xfe; out 0x64, al (reset); hlt; jmp to hlt
    let stub = [
        0x66, 0xba, 0xf8, 0x03, 0xb0, b'K', 0xee, 0xb0, 0xfe, 0xe6, 0x64, 0xf4, 0xeb, 0xfd,
    ];
    boot(vm, &image(&stub, b"\xfd7zXZ\0 and so on", 77));
    assert_eq!(vm.wait_exit(), 0, "{}", vm.log());
    assert_eq!(vm.output(), "K");
}
