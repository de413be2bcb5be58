//! A template as a table: each register, and what is said of its bits.

use std::collections::BTreeMap;
use std::fmt;

use vm_config::{Bitmap, CpuConfig, CpuidModifier, CpuidRegister, MsrModifier, RegisterModifier};

/// Which register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// Leaf, subleaf, register.
    Cpuid(u32, u32, CpuidRegister),
    /// Number.
    Msr(u32),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpuid(leaf, subleaf, register) => {
                let name = match register {
                    CpuidRegister::Eax => "eax",
                    CpuidRegister::Ebx => "ebx",
                    CpuidRegister::Ecx => "ecx",
                    CpuidRegister::Edx => "edx",
                };
                write!(f, "CPUID leaf {leaf:#x}, subleaf {subleaf:#x}, {name}")
            }
            Self::Msr(index) => write!(f, "MSR {index:#x}"),
        }
    }
}

/// The registers of a template. In a dump every bit of a register is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Registers {
    pub(crate) bits: BTreeMap<Place, Bitmap<64>>,
    /// KVM's flags of a CPUID entry.
    flags: BTreeMap<(u32, u32), u32>,
}

impl Registers {
    /// Of two changes to one bit the later has the last word.
    pub(crate) fn of(template: &CpuConfig) -> Self {
        let mut registers = Self::default();
        for entry in &template.cpuid_modifiers {
            let at = (entry.leaf, entry.subleaf);
            registers.flags.insert(at, entry.flags);
            for change in &entry.modifiers {
                let place = Place::Cpuid(entry.leaf, entry.subleaf, change.register);
                let (set, changed) = (change.bitmap.set(), change.bitmap.changed());
                registers.say(place, set, changed);
            }
        }
        for msr in &template.msr_modifiers {
            registers.say(Place::Msr(msr.addr), msr.bitmap.set(), msr.bitmap.changed());
        }
        registers
    }

    /// Says of the bits in `changed` that those in `set` are 1 and the others 0.
    pub(crate) fn say(&mut self, place: Place, set: u64, changed: u64) {
        let bits = self.bits.entry(place).or_default();
        let set = bits.set() & !changed | set;
        let changed = bits.changed() | changed;
        *bits = Bitmap::new(set, changed & !set);
    }

    /// A register's value, if it is there.
    pub(crate) fn value(&self, place: Place) -> Option<u64> {
        self.bits.get(&place).map(|bits| bits.set())
    }

    /// Takes the flags of CPUID entries from `other`.
    pub(crate) fn with_flags_of(mut self, other: &Self) -> Self {
        self.flags.clone_from(&other.flags);
        self
    }

    /// As a template; registers of which nothing is said are left out.
    pub(crate) fn to_template(&self) -> CpuConfig {
        let mut template = CpuConfig::default();
        for (&place, bits) in self.bits.iter().filter(|(_, bits)| bits.changed() != 0) {
            let (set, clear) = (bits.set(), bits.changed() & !bits.set());
            match place {
                Place::Msr(addr) => template.msr_modifiers.push(MsrModifier {
                    addr,
                    bitmap: Bitmap::new(set, clear),
                }),
                Place::Cpuid(leaf, subleaf, register) => {
                    let change = RegisterModifier {
                        register,
                        bitmap: Bitmap::new(set, clear),
                    };
                    self.push(&mut template.cpuid_modifiers, (leaf, subleaf), change);
                }
            }
        }
        template
    }

    /// Places come in order, so an entry's registers come one after the other.
    fn push(&self, entries: &mut Vec<CpuidModifier>, at: (u32, u32), change: RegisterModifier) {
        match entries.last_mut() {
            Some(entry) if (entry.leaf, entry.subleaf) == at => entry.modifiers.push(change),
            _ => entries.push(CpuidModifier {
                leaf: at.0,
                subleaf: at.1,
                flags: self.flags.get(&at).copied().unwrap_or(0),
                modifiers: vec![change],
            }),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    /// A dump with these registers: leaf, name and value.
    pub(crate) fn dump(registers: &[(&str, &str, u64)]) -> CpuConfig {
        let mut all = Registers::default();
        for (leaf, register, value) in registers {
            let entry = json!({ "cpuid_modifiers": [{ "leaf": leaf, "subleaf": "0x0", "flags": 0,
                "modifiers": [{ "register": register, "bitmap": "0b" }] }] });
            let entry = Registers::of(&serde_json::from_value(entry).unwrap());
            for place in entry.bits.keys() {
                all.say(*place, *value, u64::from(u32::MAX));
            }
        }
        all.to_template()
    }
}
