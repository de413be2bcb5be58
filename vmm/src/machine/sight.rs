//! What the machine shows to whoever wants to know how its guest fares.

use std::sync::Arc;
use std::time::Duration;

use devices::GuestMemory;
use devices::legacy::Serial;

use super::RunningMachine;
use crate::attach::VirtioAttachment;
use crate::event_loop::EventLoop;
use crate::vcpu::{self, Sight};

impl RunningMachine {
    /// Where the vCPUs are, those that say so within `patience`. They go on as before.
    pub(crate) fn look_at_vcpus(
        &self,
        event_loop: &mut EventLoop,
        question: u32,
        patience: Duration,
    ) -> Vec<Sight> {
        for vcpu in &self.vcpus {
            vcpu.look(question);
        }
        event_loop.wait_until_seen(self.vcpus.len(), question, patience)
    }

    pub(crate) fn vcpus(&self) -> &[vcpu::Handle] {
        &self.vcpus
    }

    pub(crate) fn memory(&self) -> &Arc<GuestMemory> {
        self.vm.memory()
    }

    /// In attach order.
    pub(crate) fn virtio(&self) -> &[VirtioAttachment] {
        &self.virtio
    }

    pub(crate) fn serial(&self) -> &Serial {
        &self.serial
    }

    /// The kernel's, as the guest was given it.
    pub(crate) fn command_line(&self) -> &str {
        &self.command_line
    }
}
