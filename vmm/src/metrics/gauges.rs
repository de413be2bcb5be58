//! What is so at the moment, for `GET /metrics` alone.

use std::time::Duration;

use devices::metric_groups;
use devices::metrics::Group;
use devices::virtio::{Balloon, Mem};
use rustix::time::{ClockId, clock_gettime};

use crate::Vm;
use crate::configuration::{balloon_id, mem_id};

const MIB: u64 = 1 << 20;

metric_groups! {
/// The microVM.
pub(crate) struct VmGauges = "vm" {
    /// CPU time of the process: its vCPUs and its devices.
    pub cpu_time: Counter in Micros,
    /// vCPUs.
    pub vcpus: Store,
    /// Memory that the guest boots with.
    pub memory: Store in Bytes,
}

/// The balloon.
pub(crate) struct BalloonGauges = "balloon" {
    /// Memory that the guest is asked to give up.
    pub target: Store in Bytes,
    /// Memory that the guest says it gave up.
    pub actual: Store in Bytes,
}

/// Memory that is plugged while the guest runs.
pub(crate) struct PlugGauges = "memory_hotplug" {
    /// Memory that the guest is asked to plug.
    pub requested: Store in Bytes,
    /// Memory that the guest has plugged.
    pub plugged: Store in Bytes,
    /// Memory that it can plug.
    pub total: Store in Bytes,
}
}

/// What is so at the moment.
pub(crate) struct Gauges(Vec<Box<dyn Group>>);

impl Gauges {
    /// Of `vm`. What cannot be seen just now, because its driver starts or resets it, is left out.
    pub(crate) fn of(vm: &Vm) -> Self {
        let mut groups: Vec<Box<dyn Group>> = vec![Box::new(vm_gauges(vm))];
        if let Some(machine) = &vm.machine {
            let balloon = machine.look(&balloon_id(), |balloon: &Balloon| {
                let gauges = BalloonGauges::new();
                gauges.target.set(balloon.target_bytes());
                gauges.actual.set(balloon.actual_bytes());
                gauges
            });
            if let Some(balloon) = balloon {
                groups.push(Box::new(balloon));
            }
            if let Some(status) = machine.look(&mem_id(), Mem::status) {
                let gauges = PlugGauges::new();
                gauges
                    .requested
                    .set(status.requested_size_mib.saturating_mul(MIB));
                gauges
                    .plugged
                    .set(status.plugged_size_mib.saturating_mul(MIB));
                gauges.total.set(status.total_size_mib.saturating_mul(MIB));
                groups.push(Box::new(gauges));
            }
        }
        Self(groups)
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = &dyn Group> {
        self.0.iter().map(|group| &**group)
    }
}

fn vm_gauges(vm: &Vm) -> VmGauges {
    let gauges = VmGauges::new();
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    // A clock that counts from 0 is never negative.
    let spent = Duration::try_from(spent).unwrap_or_default();
    let spent_us = u64::try_from(spent.as_micros()).unwrap_or(u64::MAX);
    gauges.cpu_time.add(spent_us);
    let machine = &vm.config.machine;
    gauges.vcpus.set(machine.vcpu_count.into());
    gauges
        .memory
        .set((machine.mem_size_mib as u64).saturating_mul(MIB));
    gauges
}
