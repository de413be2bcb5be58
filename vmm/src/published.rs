//! What the microVM is now, for whoever asks without waiting for a turn on the event loop.
//!
//! The loop puts up a new notice after each command, before it answers: whoever has the answer reads what it did.

use std::sync::{Arc, Mutex, PoisonError};

use devices::acpi::PanicNotice;

use crate::Lifecycle;
use crate::control::VmConfig;

/// What the microVM is now.
#[derive(Clone)]
pub struct VmState {
    /// Where it is in its life.
    pub lifecycle: Lifecycle,
    /// All that was configured.
    pub config: VmConfig,
    /// What the guest tells of its own end, once there is a guest.
    panic: Option<Arc<PanicNotice>>,
}

impl VmState {
    /// A microVM with `config` and no guest.
    #[must_use]
    pub fn new(lifecycle: Lifecycle, config: VmConfig) -> Self {
        Self {
            lifecycle,
            config,
            panic: None,
        }
    }

    /// The same, with the guest that tells `panic`.
    pub(crate) fn with_guest(self, panic: Option<Arc<PanicNotice>>) -> Self {
        Self { panic, ..self }
    }

    /// Whether the guest said that its kernel panicked; it may say so at any time.
    #[must_use]
    pub fn has_guest_panicked(&self) -> bool {
        self.panic.as_ref().is_some_and(|panic| panic.is_told())
    }
}

/// Where the state is put up.
#[derive(Clone)]
pub(crate) struct NoticeBoard(Arc<Mutex<Arc<VmState>>>);

impl Default for NoticeBoard {
    fn default() -> Self {
        let state = VmState::new(Lifecycle::NotStarted, VmConfig::default());
        Self(Arc::new(Mutex::new(Arc::new(state))))
    }
}

impl NoticeBoard {
    pub(crate) fn put_up(&self, state: VmState) {
        let state = Arc::new(state);
        let old = {
            let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *shown, state)
        };
        // Freed after the lock.
        drop(old);
    }

    pub(crate) fn read(&self) -> Arc<VmState> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Pause, PutMachine};
    use crate::vm::tests::vm;

    #[test]
    fn what_a_command_changed_is_shown_when_it_is_answered() {
        let mut vm = vm();
        assert_eq!(vm.board.read().config.machine.mem_size_mib, 128);
        let machine = serde_json::from_str(r#"{"vcpu_count": 1, "mem_size_mib": 64}"#).unwrap();
        vm.execute(PutMachine(machine)).unwrap();
        let shown = vm.board.read();
        assert_eq!(shown.config.machine.mem_size_mib, 64);
        assert_eq!(shown.lifecycle, Lifecycle::NotStarted);
        assert!(!shown.has_guest_panicked());
    }

    #[test]
    fn what_is_not_allowed_shows_nothing_new() {
        let mut vm = vm();
        let before = vm.board.read();
        assert!(vm.execute(Pause).is_err());
        assert!(Arc::ptr_eq(&before, &vm.board.read()));
    }
}
