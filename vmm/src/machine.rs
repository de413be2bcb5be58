//! The machine once it exists: vCPU threads, devices, and how they stand still and go on together.

use std::sync::Arc;

use devices::legacy::I8042;
use devices::virtio::{MmioTransport, Worker, WorkerId};

use crate::attach::Attached;
use crate::control::CommandError;
use crate::event_loop::EventLoop;
use crate::kvm::KvmVm;
use crate::vcpu::{self, Surroundings};

/// The machine once it exists.
pub(crate) struct RunningMachine {
    vcpus: Vec<vcpu::Handle>,
    around: Surroundings,
    transports: Vec<Arc<MmioTransport>>,
    keyboard: Arc<I8042>,
    /// Reads the console's input; on the loop once the machine runs.
    console: Option<(WorkerId, Box<dyn Worker>)>,
    /// Holds the VM, and with it guest memory, as long as the vCPUs.
    _vm: KvmVm,
}

impl RunningMachine {
    /// A machine that was just built and stands still.
    pub(crate) fn new(vm: KvmVm, vcpus: Vec<vcpu::Handle>, attached: Attached) -> Self {
        Self {
            console: attached.console_input(),
            vcpus,
            around: Surroundings {
                ports: Arc::new(attached.ports),
                mmio: Arc::new(attached.mmio),
                end: attached.end,
            },
            transports: attached.transports,
            keyboard: attached.keyboard,
            _vm: vm,
        }
    }

    /// Lets a machine that was just built run.
    pub(crate) fn start(&mut self, event_loop: &mut EventLoop) {
        if let Some((id, console)) = self.console.take() {
            event_loop.start(id, console);
        }
        self.run_vcpus();
    }

    /// Stops the vCPUs, then the devices.
    pub(crate) fn pause(&mut self, event_loop: &mut EventLoop) {
        for vcpu in &self.vcpus {
            vcpu.park();
        }
        event_loop.wait_until_parked(self.vcpus.len());
        for transport in &self.transports {
            let queues = event_loop.stop(transport.id());
            transport.park(queues);
        }
    }

    /// Starts the devices, then the vCPUs.
    pub(crate) fn resume(&mut self, event_loop: &mut EventLoop) {
        for transport in &self.transports {
            if let Some(worker) = transport.unpark() {
                event_loop.start(transport.id(), worker);
            }
        }
        self.run_vcpus();
    }

    pub(crate) fn press_ctrl_alt_del(&self) -> Result<(), CommandError> {
        self.keyboard
            .press_ctrl_alt_del()
            .map_err(CommandError::Keyboard)
    }

    fn run_vcpus(&self) {
        for vcpu in &self.vcpus {
            vcpu.run(self.around.clone());
        }
    }
}
