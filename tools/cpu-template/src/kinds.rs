//! Which registers say what hosts can have in common, and how.

use vm_config::CpuidRegister::{self, Eax, Ebx, Ecx, Edx};

use crate::registers::Place;

/// What a register says, and so what hosts have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A bit each; the bits named here mean the lack of something, so that one host's are everybody's.
    Features { inverse: u64 },
    /// One number.
    Limit,
    /// A number in each byte.
    Limits,
    /// Who the processor is.
    Model,
}

const FEATURES: Kind = Kind::Features { inverse: 0 };

/// Intel SDM vol. 2A, `CPUID`; AMD APM vol. 3 appendix E; Linux `Documentation/virt/kvm/x86/cpuid.rst`.
const CPUID: &[(u32, u32, CpuidRegister, Kind)] = &[
    (0x0, 0, Eax, Kind::Limit),
    (0x1, 0, Eax, Kind::Model),
    (0x1, 0, Ecx, FEATURES),
    (0x1, 0, Edx, FEATURES),
    (0x6, 0, Eax, FEATURES),
    (0x7, 0, Eax, Kind::Limit),
    // FDP_EXCPTN_ONLY and ZERO_FCS_FDS.
    (
        0x7,
        0,
        Ebx,
        Kind::Features {
            inverse: 1 << 6 | 1 << 13,
        },
    ),
    (0x7, 0, Ecx, FEATURES),
    (0x7, 0, Edx, FEATURES),
    (0x7, 1, Eax, FEATURES),
    (0x7, 1, Ebx, FEATURES),
    (0x7, 1, Ecx, FEATURES),
    (0x7, 1, Edx, FEATURES),
    (0x7, 2, Edx, FEATURES),
    (0xd, 0, Eax, FEATURES),
    (0xd, 0, Ecx, Kind::Limit),
    (0xd, 0, Edx, FEATURES),
    (0xd, 1, Eax, FEATURES),
    (0xd, 1, Ecx, FEATURES),
    (0xd, 1, Edx, FEATURES),
    (0x4000_0001, 0, Eax, FEATURES),
    (0x8000_0000, 0, Eax, Kind::Limit),
    (0x8000_0001, 0, Ecx, FEATURES),
    (0x8000_0001, 0, Edx, FEATURES),
    (0x8000_0007, 0, Edx, FEATURES),
    (0x8000_0008, 0, Eax, Kind::Limits),
    (0x8000_0008, 0, Ebx, FEATURES),
    (0x8000_000a, 0, Edx, FEATURES),
    (0x8000_0021, 0, Eax, FEATURES),
];

/// `IA32_ARCH_CAPABILITIES`, where RSBA and RRSBA say that something must be done.
const MSRS: &[(u32, Kind)] = &[(
    0x10a,
    Kind::Features {
        inverse: 1 << 2 | 1 << 19,
    },
)];

/// None where hosts have nothing in common but by chance.
pub(crate) fn kind(place: Place) -> Option<Kind> {
    match place {
        Place::Cpuid(leaf, subleaf, register) => CPUID
            .iter()
            .find(|row| (row.0, row.1, row.2) == (leaf, subleaf, register))
            .map(|row| row.3),
        Place::Msr(index) => MSRS.iter().find(|row| row.0 == index).map(|row| row.1),
    }
}
