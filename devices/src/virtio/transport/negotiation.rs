//! Device status and features: what the two sides agree on before a device runs (virtio 1.2 §2.1, §2.2,
//! §3.1.1). The same on every transport.
//!
//! ```text
//!  0 -> ACKNOWLEDGE -> DRIVER -> FEATURES_OK -> DRIVER_OK      one bit at a time, none taken back;
//!                                                              FAILED at any time; 0 resets
//! ```

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK,
    VIRTIO_CONFIG_S_FAILED, VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_F_VERSION_1,
};

use super::halves::low;

/// What a driver sets by writing the status register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing to do beyond the register, or the write was refused.
    Stay,
    /// Reset the device.
    Reset,
    /// Start the device.
    Start,
}

/// Status and features. Part of each transport's state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Negotiation {
    /// Device status, without DEVICE_NEEDS_RESET.
    status: u32,
    /// Which half of the offered features the driver reads.
    device_word: u32,
    /// Which half of its own features the driver writes.
    driver_word: u32,
    /// What the driver wrote, taken only at FEATURES_OK.
    driver_features: u64,
}

impl Negotiation {
    pub(super) fn status(&self) -> u32 {
        self.status
    }

    /// Features that both sides accepted; final once FEATURES_OK is set.
    pub(super) fn features(&self) -> u64 {
        self.driver_features
    }

    /// The driver found the device and may read and write its configuration.
    pub(super) fn has_driver(&self) -> bool {
        self.has(VIRTIO_CONFIG_S_DRIVER) && !self.has(VIRTIO_CONFIG_S_FAILED)
    }

    /// The driver may set queues up (virtio 1.2 §3.1.1, step 7).
    pub(super) fn may_set_queues(&self) -> bool {
        self.has(VIRTIO_CONFIG_S_FEATURES_OK)
            && !self.has(VIRTIO_CONFIG_S_DRIVER_OK)
            && !self.has(VIRTIO_CONFIG_S_FAILED)
    }

    /// The driver started the device.
    pub(super) fn is_driver_ok(&self) -> bool {
        self.has(VIRTIO_CONFIG_S_DRIVER_OK)
    }

    /// Saved values that some driver could have led to.
    pub(super) fn is_possible(&self, offered: u64) -> bool {
        let ladder = self.status & !VIRTIO_CONFIG_S_FAILED;
        matches!(ladder, 0 | 1 | 3) || (matches!(ladder, 11 | 15) && self.is_acceptable(offered))
    }

    pub(super) fn select_device_word(&mut self, word: u32) {
        self.device_word = word;
    }

    pub(super) fn select_driver_word(&mut self, word: u32) {
        self.driver_word = word;
    }

    /// Which half of the offered features the driver reads.
    pub(super) fn device_word(&self) -> u32 {
        self.device_word
    }

    /// Which half of its own features the driver writes.
    pub(super) fn driver_word(&self) -> u32 {
        self.driver_word
    }

    /// The selected half of what the driver wrote.
    pub(super) fn driver_features(&self) -> u32 {
        match self.driver_word {
            0 => low(self.driver_features),
            1 => low(self.driver_features >> 32),
            _ => 0,
        }
    }

    /// The selected half of `offered`; there are no features beyond bit 63.
    pub(super) fn device_features(&self, offered: u64) -> u32 {
        match self.device_word {
            0 => low(offered),
            1 => low(offered >> 32),
            _ => 0,
        }
    }

    /// The driver's choice for the selected half; only between DRIVER and FEATURES_OK.
    pub(super) fn set_driver_features(&mut self, bits: u32) {
        if !self.has_driver() || self.has(VIRTIO_CONFIG_S_FEATURES_OK) {
            return;
        }
        let kept = match self.driver_word {
            0 => self.driver_features & !u64::from(u32::MAX),
            1 => self.driver_features & u64::from(u32::MAX),
            _ => return,
        };
        let shift = 32 * self.driver_word;
        self.driver_features = kept | u64::from(bits) << shift;
    }

    /// A write to the status register. A step that is not allowed changes nothing, and the driver sees so
    /// when it reads the register back.
    pub(super) fn set_status(&mut self, status: u32, offered: u64) -> Step {
        if status == 0 {
            return Step::Reset;
        }
        let added = status & !self.status;
        if self.status & !status != 0 || added == 0 {
            return Step::Stay;
        }
        if added == VIRTIO_CONFIG_S_FAILED {
            self.status = status;
            return Step::Stay;
        }
        let is_next = match added {
            VIRTIO_CONFIG_S_ACKNOWLEDGE => self.status == 0,
            VIRTIO_CONFIG_S_DRIVER => self.status == VIRTIO_CONFIG_S_ACKNOWLEDGE,
            VIRTIO_CONFIG_S_FEATURES_OK => {
                self.status == VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER
                    && self.is_acceptable(offered)
            }
            VIRTIO_CONFIG_S_DRIVER_OK => self.may_set_queues(),
            _ => false,
        };
        if !is_next {
            return Step::Stay;
        }
        self.status = status;
        if added == VIRTIO_CONFIG_S_DRIVER_OK {
            Step::Start
        } else {
            Step::Stay
        }
    }

    /// Only what was offered, and VERSION_1 (virtio 1.2 §2.2.2, §6.2).
    fn is_acceptable(&self, offered: u64) -> bool {
        let accepted = self.driver_features;
        accepted & !offered == 0 && accepted & (1 << VIRTIO_F_VERSION_1) != 0
    }

    fn has(&self, bit: u32) -> bool {
        self.status & bit != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFERED: u64 = 1 << VIRTIO_F_VERSION_1 | 1 << 5;

    fn with_features(features: u64) -> Negotiation {
        let mut both = Negotiation::default();
        both.set_status(1, OFFERED);
        both.set_status(3, OFFERED);
        for word in 0..2 {
            both.select_driver_word(word);
            both.set_driver_features(low(features >> (32 * word)));
        }
        both
    }

    #[test]
    fn ladder_leads_to_start() {
        let mut both = with_features(OFFERED);
        assert_eq!(both.set_status(11, OFFERED), Step::Stay);
        assert_eq!(both.set_status(15, OFFERED), Step::Start);
        assert_eq!(both.set_status(0, OFFERED), Step::Reset);
    }

    #[test]
    fn steps_are_not_skipped_or_taken_back() {
        let mut both = Negotiation::default();
        for status in [2, 3, 8, 15, 0x40, 0x100, u32::MAX] {
            assert_eq!(both.set_status(status, OFFERED), Step::Stay);
            assert_eq!(both.status(), 0, "{status:#x}");
        }
        both.set_status(1, OFFERED);
        both.set_status(3, OFFERED);
        both.set_status(1, OFFERED);
        assert_eq!(both.status(), 3);
    }

    #[test]
    fn features_are_refused_without_version_1_or_beyond_the_offer() {
        for features in [1 << 5, OFFERED | 1 << 6, OFFERED | 1 << 63, 0] {
            let mut both = with_features(features);
            both.set_status(11, OFFERED);
            assert_eq!(both.status(), 3, "{features:#x}");
        }
    }

    #[test]
    fn features_are_fixed_once_agreed() {
        let mut both = with_features(OFFERED);
        both.set_status(11, OFFERED);
        both.select_driver_word(0);
        both.set_driver_features(u32::MAX);
        assert_eq!(both.features(), OFFERED);
    }

    #[test]
    fn failed_is_taken_at_any_time_and_stops_the_ladder() {
        let mut both = with_features(OFFERED);
        both.set_status(0x83, OFFERED);
        both.set_status(0x8b, OFFERED);
        assert_eq!(both.status(), 0x83);
    }
}
