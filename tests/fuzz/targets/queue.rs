//! Rings and descriptors of any content: a chain holds only guest memory, and no more than the queue has descriptors
//! for; a head that was popped can be given back once.
#![no_main]

use devices::testing::{FakeDriver, guest_memory};
use devices::virtio::queue::{Completion, Queue, QueueState};
use fuzz::bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use vm_memory::{Bytes as _, GuestAddress};

const MEMORY: usize = 1 << 20;
const QUEUE: u64 = 0x8_0000;
const EVENT_IDX_AND_INDIRECT: u64 = 3 << 28;

fuzz_target!(|input: &[u8]| {
    let mut bytes = Bytes::new(input);
    let memory = guest_memory(MEMORY);
    let Some((shape, features)) = bytes.byte().zip(bytes.byte()) else {
        return;
    };
    let mut driver = FakeDriver::new(&memory, QUEUE, 1 << (shape & 7));
    let mut state = driver.state();
    if shape & 0x80 != 0 {
        // Wherever the input puts them.
        let Some(places) = places(&mut bytes) else {
            return;
        };
        [
            state.descriptor_table,
            state.available_ring,
            state.used_ring,
        ] = places;
        state.next_available = u16::from(shape) << 8;
    }
    let features = u64::from(features) << 28 & EVENT_IDX_AND_INDIRECT;
    let Ok(mut queue) = Queue::new(memory.clone(), state, features) else {
        return;
    };
    let mut chain = queue.new_chain();
    let mut held = Vec::new();
    while let Some(what) = bytes.byte() {
        let done = match what % 8 {
            0 => describe(&mut driver, &mut bytes),
            1 => bytes.half().map(|head| driver.publish(head)),
            2 => bytes.half().map(|index| driver.set_available_index(index)),
            3 => bytes.half().map(|index| driver.set_used_event(index)),
            4 => write(&memory, &mut bytes),
            5 => {
                give_back(&mut queue, &mut held);
                Some(())
            }
            6 => {
                if let Some(done) = held.pop() {
                    queue.put_back(done);
                }
                Some(())
            }
            _ => {
                let popped = if what & 8 == 0 {
                    queue.pop(&mut chain)
                } else {
                    queue.pop_more(&mut chain)
                };
                if let Ok(Some(done)) = popped {
                    held.push(done);
                    assert!(
                        held.len() <= usize::from(state.size),
                        "more heads than there are"
                    );
                    check(&chain, state, what & 8 == 0);
                }
                let _ = queue.enable_kicks();
                Some(())
            }
        };
        if done.is_none() {
            break;
        }
    }
    give_back(&mut queue, &mut held);
});

fn places(bytes: &mut Bytes<'_>) -> Option<[u64; 3]> {
    Some([
        bytes.word()?.into(),
        bytes.word()?.into(),
        bytes.word()?.into(),
    ])
}

fn describe(driver: &mut FakeDriver, bytes: &mut Bytes<'_>) -> Option<()> {
    let (index, flags, next) = (bytes.half()?, bytes.byte()?, bytes.half()?);
    let (address, len) = (bytes.word()?, bytes.half()?);
    let index = index % driver.state().size;
    driver.describe(index, address.into(), len.into(), flags.into(), next);
    Some(())
}

fn write(memory: &devices::GuestMemory, bytes: &mut Bytes<'_>) -> Option<()> {
    let at = bytes.word()? % 0x10_0000;
    let _ = memory.write_slice(bytes.run()?, GuestAddress(at.into()));
    Some(())
}

fn give_back(queue: &mut Queue, held: &mut Vec<Completion>) {
    let all = held.drain(..).map(|done| (done, 7));
    let _ = queue.give_back_all(all);
    let _ = queue.needs_interrupt();
    assert_eq!(queue.in_flight(), 0);
}

fn check(chain: &devices::virtio::chain::Chain, state: QueueState, is_alone: bool) {
    let len = chain.readable.len() + chain.writable.len();
    if is_alone {
        // Every descriptor may name all of guest memory, and a chain has no more of them than the queue.
        assert!(len <= MEMORY * usize::from(state.size));
        assert!(
            chain.fault().is_none() || len == 0,
            "part of a chain that is malformed"
        );
    }
    let mut seen = [0; 64];
    assert_eq!(
        chain.readable.copy_to(0, &mut seen),
        chain.readable.len().min(64)
    );
}
