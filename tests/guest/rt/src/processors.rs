//! Starting the application processors: INIT, SIPI, SIPI (Intel SDM 3A, 9.4.4).
//!
//! One after the other: the next one's stacks lie where the trampoline's end finds them, and the boot
//! processor waits until it runs in ring 3.

use core::slice;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use crate::taken::Taken;
use crate::{apic, clock, gates, physical};

/// Processors of the largest machine.
pub const MAX_PROCESSORS: usize = 32;

const RING0_STACK_BYTES: usize = 1024;
const STACK_BYTES: usize = 16 * 1024;
/// Selector of the first application processor's TSS in `entry.s`; each takes 16 bytes.
const FIRST_AP_TSS: u32 = 0x40;
/// A free page below 1 MiB: the boot protocols leave 0x10000–0x1ffff alone.
const TRAMPOLINE_PAGE: u8 = 0x10;
/// Present, available 64-bit TSS.
const TSS_KIND: u64 = 0x89;
const TSS_LIMIT: u64 = TSS_WORDS as u64 * 4 - 1;
/// 26 of the task state itself, then the map of ports: 0 to 0x417 are allowed, and the last byte ends the map.
const TSS_WORDS: usize = 26 + 33;

#[repr(C, align(16))]
struct Processor {
    /// Task state segment (Intel SDM 3A, 8.7): only rsp0 and the I/O map's place matter.
    tss: [u32; TSS_WORDS],
    index: usize,
    main: Option<fn(usize)>,
    ring0_stack: [u8; RING0_STACK_BYTES],
    stack: [u8; STACK_BYTES],
}

impl Processor {
    const NEW: Self = Self {
        tss: [0; TSS_WORDS],
        index: 0,
        main: None,
        ring0_stack: [0; RING0_STACK_BYTES],
        stack: [0; STACK_BYTES],
    };
}

static PROCESSORS: Taken<[Processor; MAX_PROCESSORS - 1]> =
    Taken::new([const { Processor::NEW }; MAX_PROCESSORS - 1]);

/// The processor being started; it sets this to null once it has its stacks.
static STARTING: AtomicPtr<Processor> = AtomicPtr::new(core::ptr::null_mut());

// SAFETY (all three names): no other items have them; `entry.s` reads them as these types.
#[unsafe(no_mangle)]
static starting_tss_selector: AtomicU32 = AtomicU32::new(0);
#[unsafe(no_mangle)]
static starting_ring0_stack: AtomicU64 = AtomicU64::new(0);
#[unsafe(no_mangle)]
static starting_stack: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    safe static ap_tss_descriptors: [[AtomicU64; 2]; MAX_PROCESSORS - 1];
    safe static trampoline: u8;
    safe static trampoline_end: u8;
}

/// Starts the processors with these local APIC IDs; each runs `main` with its index, from 1, then
/// sleeps for ever. Fails the test if one does not come.
pub fn start(apic_ids: &[u32], main: fn(usize)) {
    crate::check!(
        apic_ids.len() < MAX_PROCESSORS,
        "more than {MAX_PROCESSORS} processors"
    );
    place_trampoline();
    for ((slot, processor), &apic_id) in PROCESSORS.take().iter_mut().enumerate().zip(apic_ids) {
        let index = slot + 1;
        processor.index = index;
        processor.main = Some(main);
        prepare(slot, processor);

        apic::send_init(apic_id);
        apic::send_start_up(apic_id, TRAMPOLINE_PAGE);
        if !clock::spin_until(clock::SHORT, has_started) {
            apic::send_start_up(apic_id, TRAMPOLINE_PAGE);
        }
        crate::check!(
            clock::spin_until(clock::LONG, has_started),
            "processor {index} with APIC ID {apic_id} did not start"
        );
    }
}

fn has_started() -> bool {
    STARTING.load(Ordering::Acquire).is_null()
}

/// Points the globals that `entry.s` reads, and the descriptor of its TSS, at `processor`.
fn prepare(slot: usize, processor: &mut Processor) {
    let ring0_stack = processor.ring0_stack.as_ptr_range().end as u64;
    // The ABI wants rsp 8 below a multiple of 16 at a function's entry.
    let stack = (processor.stack.as_ptr_range().end as u64 & !15) - 8;
    let [b0, b1, b2, b3, b4, b5, b6, b7] = ring0_stack.to_le_bytes();
    processor.tss[1] = u32::from_le_bytes([b0, b1, b2, b3]);
    processor.tss[2] = u32::from_le_bytes([b4, b5, b6, b7]);
    // As for the boot processor: software-backed KVM forgets the IOPL of the iretq frame.
    processor.tss[25] = 104 << 16;
    processor.tss[TSS_WORDS - 1] = 0xff << 24;

    let base = processor.tss.as_ptr() as u64;
    let low = TSS_LIMIT | (base & 0xff_ffff) << 16 | TSS_KIND << 40 | (base >> 24 & 0xff) << 56;
    ap_tss_descriptors[slot][0].store(low, Ordering::Relaxed);
    ap_tss_descriptors[slot][1].store(base >> 32, Ordering::Relaxed);
    let selector = u32::try_from(slot * 16).map_or(0, |offset| FIRST_AP_TSS + offset);
    starting_tss_selector.store(selector, Ordering::Relaxed);
    starting_ring0_stack.store(ring0_stack, Ordering::Relaxed);
    starting_stack.store(stack, Ordering::Relaxed);
    STARTING.store(processor, Ordering::Release);
}

fn place_trampoline() {
    let start = &raw const trampoline;
    let len = &raw const trampoline_end as usize - start as usize;
    // SAFETY: both symbols bound one piece of code in `entry.s`, which nothing writes.
    let code = unsafe { slice::from_raw_parts(start, len) };
    for (address, &byte) in (u64::from(TRAMPOLINE_PAGE) << 12..).zip(code) {
        // SAFETY: this page is RAM below the image and holds nothing else.
        unsafe { physical::write(address, byte) };
    }
}

/// Entered from `entry.s`, in ring 3, on the processor's own stack.
// SAFETY: no other item has this name; `entry.s` enters it without arguments.
#[unsafe(no_mangle)]
extern "C" fn rt_start_ap() -> ! {
    let processor = STARTING.load(Ordering::Acquire);
    // SAFETY: `prepare` pointed it at an element of a static just before SIPI, and until the store
    // below the boot processor only waits.
    let (index, main) = unsafe { ((*processor).index, (*processor).main) };
    STARTING.store(core::ptr::null_mut(), Ordering::Release);
    if let Some(main) = main {
        main(index);
    }
    loop {
        gates::wait_for_interrupt();
    }
}
