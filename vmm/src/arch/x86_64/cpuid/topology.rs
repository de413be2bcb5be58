//! Which vCPU this is, and how vCPUs form cores.

use super::Leaves;

/// APIC ids are this wide: room for 32 vCPUs, whatever their number (leaf 0xb, subleaf 1).
pub(super) const APIC_ID_BITS: u32 = 5;
const LEVEL_SMT: u32 = 1;
const LEVEL_CORE: u32 = 2;

/// One vCPU's place among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VcpuTopology {
    /// Which one, from 0; also its APIC id.
    pub index: u8,
    /// How many there are: 1..=32.
    pub count: u8,
    /// Pairs of vCPUs are threads of one core.
    pub smt: bool,
}

impl VcpuTopology {
    pub(super) fn apic_id(&self) -> u32 {
        self.index.into()
    }

    /// Threads of one core: 1 or 2.
    pub(super) fn threads_per_core(&self) -> u32 {
        if self.smt && self.count > 1 { 2 } else { 1 }
    }

    pub(super) fn cores(&self) -> u32 {
        u32::from(self.count).div_ceil(self.threads_per_core())
    }

    /// How many vCPUs share a cache of `level`: the threads of a core up to level 2, everyone above.
    pub(super) fn sharing(&self, level: u32) -> u32 {
        if level <= 2 {
            self.threads_per_core()
        } else {
            self.count.into()
        }
    }
}

/// Leaf 0xb: the levels of the topology, and how far to shift the APIC id to pass each (SDM vol. 3 §9.9).
pub(super) fn set_extended_topology(leaves: &mut Leaves, topology: &VcpuTopology) {
    leaves.set_subleaves(0xb, &extended_topology(topology));
    leaves.reach(0xb);
}

pub(super) fn extended_topology(topology: &VcpuTopology) -> [[u32; 4]; 3] {
    let threads = topology.threads_per_core();
    let id = topology.apic_id();
    [
        [threads.ilog2(), threads, LEVEL_SMT << 8, id],
        [APIC_ID_BITS, topology.count.into(), LEVEL_CORE << 8 | 1, id],
        [0, 0, 2, id],
    ]
}
