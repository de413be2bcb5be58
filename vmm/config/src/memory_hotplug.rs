//! Memory that a guest can be given while it runs, as a user states it.

use serde::{Deserialize, Serialize};

use crate::{Explain, FaultCode, FaultKind};

const MIN_BLOCK_MIB: u32 = 2;
const MIN_SLOT_MIB: u32 = 128;

fn default_block_size_mib() -> u32 {
    MIN_BLOCK_MIB
}

fn default_slot_size_mib() -> u32 {
    MIN_SLOT_MIB
}

/// `PUT /hotplug/memory`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct MemoryHotplugConfig {
    /// The most the guest can have beyond its RAM; whole slots.
    #[cfg_attr(feature = "openapi", schema(minimum = 128, multiple_of = 128))]
    pub total_size_mib: u32,
    /// What it plugs at a time: a power of 2, at least 2.
    #[serde(default = "default_block_size_mib")]
    #[cfg_attr(feature = "openapi", schema(minimum = 2))]
    pub block_size_mib: u32,
    /// What the host gives it at a time: whole blocks, at least 128.
    #[serde(default = "default_slot_size_mib")]
    #[cfg_attr(feature = "openapi", schema(minimum = 128))]
    pub slot_size_mib: u32,
}

/// Sizes that do not go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryHotplugError {
    /// Too small a block.
    #[error("Block size must not be lower than {MIN_BLOCK_MIB} MiB")]
    SmallBlock,
    /// An odd block.
    #[error("Block size must be a power of 2")]
    OddBlock,
    /// Too small a slot.
    #[error("Slot size must not be lower than {MIN_SLOT_MIB} MiB")]
    SmallSlot,
    /// Part of a block.
    #[error("Slot size must be a multiple of block size ({0} MiB)")]
    OddSlot(u32),
    /// Less than a slot.
    #[error("Total size must not be lower than slot size ({0} MiB)")]
    SmallTotal(u32),
    /// Part of a slot.
    #[error("Total size must be a multiple of slot size ({0} MiB)")]
    OddTotal(u32),
}

impl Explain for MemoryHotplugError {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(match self {
            Self::SmallBlock
            | Self::OddBlock
            | Self::SmallSlot
            | Self::OddSlot(_)
            | Self::SmallTotal(_)
            | Self::OddTotal(_) => FaultCode::HotplugMemorySize,
        })
    }
}

impl MemoryHotplugConfig {
    /// Checks that the sizes go together.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check(&self) -> Result<(), MemoryHotplugError> {
        let Self {
            total_size_mib: total,
            block_size_mib: block,
            slot_size_mib: slot,
        } = *self;
        let rules = [
            (block >= MIN_BLOCK_MIB, MemoryHotplugError::SmallBlock),
            (block.is_power_of_two(), MemoryHotplugError::OddBlock),
            (slot >= MIN_SLOT_MIB, MemoryHotplugError::SmallSlot),
            (
                slot.is_multiple_of(block),
                MemoryHotplugError::OddSlot(block),
            ),
            (total >= slot, MemoryHotplugError::SmallTotal(slot)),
            (
                total.is_multiple_of(slot),
                MemoryHotplugError::OddTotal(slot),
            ),
        ];
        let broken = rules.into_iter().find(|(is_kept, _)| !is_kept);
        broken.map_or(Ok(()), |(_, error)| Err(error))
    }
}

/// `PATCH /hotplug/memory`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct MemoryHotplugPatch {
    /// What the guest is to have beyond its RAM; whole blocks.
    pub requested_size_mib: u32,
}

/// `GET /hotplug/memory`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MemoryHotplugStatus {
    /// What the guest plugs at a time.
    pub block_size_mib: u64,
    /// The most it can have.
    pub total_size_mib: u64,
    /// What the host gives it at a time.
    pub slot_size_mib: u64,
    /// What it has.
    pub plugged_size_mib: u64,
    /// What it is to have.
    pub requested_size_mib: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_do_not_go_together_are_refused_by_the_first_rule() {
        for (total, block, slot, words) in [
            (128, 1, 128, "Block size must not be lower than 2 MiB"),
            (128, 0, 128, "Block size must not be lower than 2 MiB"),
            (128, 3, 128, "Block size must be a power of 2"),
            (128, 2, 64, "Slot size must not be lower than 128 MiB"),
            (
                128,
                64,
                160,
                "Slot size must be a multiple of block size (64 MiB)",
            ),
            (
                0,
                2,
                128,
                "Total size must not be lower than slot size (128 MiB)",
            ),
            (
                200,
                2,
                128,
                "Total size must be a multiple of slot size (128 MiB)",
            ),
        ] {
            let config = MemoryHotplugConfig {
                total_size_mib: total,
                block_size_mib: block,
                slot_size_mib: slot,
            };
            assert_eq!(config.check().unwrap_err().to_string(), words);
        }
        let least: MemoryHotplugConfig = serde_json::from_str(r#"{"total_size_mib":256}"#).unwrap();
        assert_eq!((least.block_size_mib, least.slot_size_mib), (2, 128));
        assert_eq!(least.check(), Ok(()));
    }
}
