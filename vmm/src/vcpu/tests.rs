//! A vCPU of KVM, and what its owner asks of it while it runs.

use std::sync::atomic::AtomicUsize;
use std::sync::{OnceLock, Weak};
use std::time::Duration;

use devices::Registers;
use vm_config::{CpuConfig, HugePages, Machine};
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::arch::x86_64::layout::ram_regions;
use crate::arch::x86_64::regs::{BootMode, boot_fpu, boot_regs, set_boot_sregs};
use crate::event_loop::{EventLoop, channel};
use crate::kvm::{EntryState, Host};
use crate::memory::{self, AboveRam, Sharing};
use crate::processors::Processors;

const CODE: GuestAddress = GuestAddress(1 << 20);
/// A window of two pages without memory.
const WINDOW: u64 = 0xd000_0000;
/// `mov [WINDOW + 0xffe], eax`, which KVM tells page by page, and then nothing for ever.
const PROGRAM: [u8; 7] = [0xa3, 0xfe, 0x0f, 0x00, 0xd0, 0xeb, 0xfe];

/// Has the vCPU say where it is, and then park, while one instruction writes here twice.
#[derive(Default)]
struct Asks {
    /// The vCPU's thread has this, and must not be the one that joins it.
    vcpu: OnceLock<Weak<Handle>>,
    writes: AtomicUsize,
}

impl Registers for Asks {
    fn read(&self, _offset: u64, _data: &mut [u8]) {}

    fn write(&self, _offset: u64, _data: &[u8]) {
        let vcpu = self.vcpu.get().and_then(Weak::upgrade);
        let vcpu = vcpu.expect("the test holds it");
        match self.writes.fetch_add(1, Ordering::Relaxed) {
            0 => vcpu.look(7),
            1 => vcpu.park(),
            _ => {}
        }
    }
}

/// A vCPU that will run the program.
fn vcpu(sender: Sender) -> Handle {
    let host = Host::open(&[]).expect("this host has KVM");
    let ram = ram_regions(2);
    let memory = memory::allocate(&ram, None, HugePages::None, Sharing::Private).unwrap();
    memory.write_slice(&PROGRAM, CODE).unwrap();
    let vm = host.create_vm(Arc::new(memory), AboveRam::new(&ram), false);
    let vm = host.add_controllers(vm.unwrap()).unwrap();
    let entry = EntryState {
        regs: boot_regs(BootMode::Pvh, CODE),
        sregs: Box::new(|sregs| set_boot_sregs(BootMode::Pvh, sregs)),
        fpu: boot_fpu(),
    };
    let processors = Processors::new(&host, &Machine::default(), &CpuConfig::default()).unwrap();
    let vcpu = Handle::spawn(vm.create_vcpu(0).unwrap(), 0, sender).unwrap();
    let booted = vcpu.boot(processors.boot_state(0, Some(entry)).unwrap());
    booted.recv().unwrap().unwrap();
    vcpu
}

#[test]
fn a_wish_that_comes_while_an_access_is_finished_is_heard() {
    install_kick_signal().unwrap();
    let (sender, receiver) = channel().unwrap();
    let mut event_loop = EventLoop::new(receiver).unwrap();
    let vcpu = Arc::new(vcpu(sender.clone()));
    let asks = Arc::new(Asks::default());
    assert!(asks.vcpu.set(Arc::downgrade(&vcpu)).is_ok());
    let mut mmio = Bus::default();
    mmio.add(WINDOW, 0x2000, asks.clone());
    vcpu.run(Surroundings {
        ports: Arc::default(),
        mmio: Arc::new(mmio),
        end: Arc::new(MachineEnd::new(sender)),
    });
    let (said, parked) = mpsc::channel();
    let waits = std::thread::spawn(move || {
        event_loop.wait_until_parked(1);
        said.send(()).unwrap();
    });
    let is_parked = parked.recv_timeout(Duration::from_secs(10));
    // One that missed it would go on for ever.
    vcpu.park();
    waits.join().unwrap();
    assert!(is_parked.is_ok(), "it ran on");
    assert_eq!(asks.writes.load(Ordering::Relaxed), 2);
}
