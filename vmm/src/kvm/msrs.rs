//! A vCPU's model-specific registers: read, set, and changed as a CPU template says.

use std::collections::BTreeMap;

use kvm_bindings::{KVM_MAX_MSR_ENTRIES, Msrs, kvm_msr_entry};
use vm_config::{Explain, FaultCode, FaultKind, MsrModifier};

use super::{KvmError, Vcpu};

/// What `KVM_GET_MSRS` and `KVM_SET_MSRS` take at once.
const BATCH: usize = KVM_MAX_MSR_ENTRIES;

/// Registers that have another value a moment later: the time stamp counter, and the deadline of its timer.
const MOVING: [u32; 2] = [0x10, 0x6e0];

/// A change to a model-specific register that KVM does not make.
#[derive(Debug, thiserror::Error)]
pub enum MsrChangeError {
    /// There is no such register.
    #[error(
        "Template changes an MSR entry not supported by KVM: Register Address: {0:x}; take the entry out of msr_modifiers, or use a host that has it"
    )]
    None(u32),
    /// KVM refuses the value.
    #[error(
        "Template changes an MSR entry not supported by KVM: Register Address: {index:x} does not take {value:#x}; change its bitmap"
    )]
    Refused {
        /// The register.
        index: u32,
        /// What the template makes of it.
        value: u64,
    },
    /// KVM took the value, and has another.
    #[error(
        "Template changes an MSR entry not supported by KVM: Register Address: {index:x} is to be {asked:#x} and stays {found:#x}; keep (x) the bits that differ"
    )]
    Ignored {
        /// The register.
        index: u32,
        /// What the template makes of it.
        asked: u64,
        /// What it is.
        found: u64,
    },
    /// KVM fails.
    #[error(transparent)]
    Kvm(#[from] KvmError),
}

impl Explain for MsrChangeError {
    fn kind(&self) -> FaultKind<'_> {
        match self {
            Self::None(_) | Self::Refused { .. } | Self::Ignored { .. } => {
                FaultKind::Code(FaultCode::CpuTemplateMsr)
            }
            Self::Kvm(inner) => FaultKind::Inner(inner),
        }
    }
}

impl Vcpu {
    /// Sets registers.
    ///
    /// # Errors
    /// Names the first one that KVM refuses.
    pub(super) fn set_msrs(&self, entries: &[kvm_msr_entry]) -> Result<(), KvmError> {
        for batch in entries.chunks(BATCH) {
            let msrs = Msrs::from_entries(batch).expect("a batch fits the list");
            let count = (self.fd.set_msrs(&msrs)).map_err(KvmError::call("KVM_SET_MSRS"))?;
            if let Some(&kvm_msr_entry { index, .. }) = batch.get(count) {
                return Err(KvmError::Msr { index });
            }
        }
        Ok(())
    }

    /// Reads registers up to the first that there is none of.
    ///
    /// # Errors
    /// When KVM fails.
    pub(super) fn msrs(&self, indices: &[u32]) -> Result<Vec<kvm_msr_entry>, KvmError> {
        let mut found = Vec::with_capacity(indices.len());
        for batch in indices.chunks(BATCH) {
            let asked: Vec<_> = (batch.iter())
                .map(|&index| kvm_msr_entry {
                    index,
                    ..kvm_msr_entry::default()
                })
                .collect();
            let mut msrs = Msrs::from_entries(&asked).expect("a batch fits the list");
            let count = (self.fd.get_msrs(&mut msrs)).map_err(KvmError::call("KVM_GET_MSRS"))?;
            found.extend(msrs.as_slice().iter().take(count));
            if count < batch.len() {
                break;
            }
        }
        Ok(found)
    }

    /// Reads those registers that there are.
    ///
    /// # Errors
    /// When KVM fails.
    pub fn readable_msrs(&self, mut indices: &[u32]) -> Result<Vec<kvm_msr_entry>, KvmError> {
        let mut found = Vec::new();
        while !indices.is_empty() {
            let read = self.msrs(indices)?;
            // Behind those that were read is one that there is none of.
            indices = indices.get(read.len() + 1..).unwrap_or_default();
            found.extend(read);
        }
        Ok(found)
    }

    /// Makes the changes of a CPU template, and looks whether KVM made them.
    ///
    /// # Errors
    /// Names the register whose change is not made.
    pub(super) fn change_msrs(&self, changes: &[MsrModifier]) -> Result<(), MsrChangeError> {
        let mut indices: Vec<u32> = changes.iter().map(|change| change.addr).collect();
        indices.sort_unstable();
        indices.dedup();
        let read = self.msrs(&indices)?;
        if let Some(index) = indices.get(read.len()) {
            return Err(MsrChangeError::None(*index));
        }
        let mut values: BTreeMap<u32, u64> = read.iter().map(|msr| (msr.index, msr.data)).collect();
        let mut changed: BTreeMap<u32, u64> = BTreeMap::new();
        for change in changes {
            if let Some(value) = values.get_mut(&change.addr) {
                *value = change.bitmap.apply(*value);
                *changed.entry(change.addr).or_default() |= change.bitmap.changed();
            }
        }
        // What is as asked already is not written: some registers can only be read.
        let mut to_set = values.clone();
        for msr in &read {
            if to_set.get(&msr.index) == Some(&msr.data) {
                to_set.remove(&msr.index);
            }
        }
        self.set_changed(&to_set)?;
        for msr in self.msrs(&indices)? {
            let asked = values.get(&msr.index).copied().unwrap_or(msr.data);
            let bits = changed.get(&msr.index).copied().unwrap_or(0);
            if (asked ^ msr.data) & bits != 0 && !MOVING.contains(&msr.index) {
                return Err(MsrChangeError::Ignored {
                    index: msr.index,
                    asked,
                    found: msr.data,
                });
            }
        }
        Ok(())
    }

    fn set_changed(&self, values: &BTreeMap<u32, u64>) -> Result<(), MsrChangeError> {
        let entries: Vec<_> = (values.iter())
            .map(|(&index, &data)| kvm_msr_entry {
                index,
                data,
                ..kvm_msr_entry::default()
            })
            .collect();
        self.set_msrs(&entries).map_err(|error| match error {
            KvmError::Msr { index } => MsrChangeError::Refused {
                index,
                value: values.get(&index).copied().unwrap_or(0),
            },
            other => other.into(),
        })
    }
}
