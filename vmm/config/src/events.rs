//! What happens to a microVM, as `GET /events` tells it.

use serde::Serialize;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum VmEvent {
    /// The machine is being built.
    Starting,
    /// It could not be; the microVM is as before.
    StartFailed {
        /// Why, as the request that asked for it was told.
        message: String,
    },
    /// The vCPUs run for the first time.
    Running,
    /// vCPUs and devices stand still.
    Paused,
    /// They go on.
    Resumed,
    /// A device was added to the machine while it existed.
    DeviceAdded(DeviceName),
    /// A device left the machine.
    DeviceRemoved(DeviceName),
    /// The guest did not let go of a device that was to leave; it stays.
    DeviceRemovalRefused(DeviceName),
    /// A driver in the guest runs the device. At most one a second for each device.
    DriverReady(DeviceName),
    /// The device gave up and waits for its driver to reset it: its rings make no sense, or what is behind it failed.
    /// At most one a second for each device.
    DeviceNeedsReset(DeviceName),
    /// The guest's kernel said that it panicked.
    GuestPanicked {
        /// A crash kernel takes over.
        has_crash_kernel: bool,
    },
    /// The microVM is over and the process ends. The last event.
    Exited {
        /// Why.
        reason: ExitCause,
        /// Why, in words.
        message: String,
        /// The process's exit code.
        exit_code: u8,
    },
    /// Events that nobody can read any more: more happened since than is kept.
    Dropped {
        /// How many.
        count: u64,
    },
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeviceName {
    /// What it is.
    pub kind: DeviceKind,
    /// Its id; a fixed one for devices that a microVM has one of.
    pub id: String,
}

/// The kinds of virtio devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum DeviceKind {
    /// Of `/drives`.
    Drive,
    /// Of `/network-interfaces`.
    NetworkInterface,
    /// Of `/pmem`.
    Pmem,
    /// Of `/vsock`.
    Vsock,
    /// Of `/entropy`.
    Entropy,
    /// Of `/balloon`.
    Balloon,
    /// Of `/hotplug/memory`.
    MemoryHotplug,
    /// Of `/console`.
    Console,
    /// Another.
    Other,
}

/// Why a microVM ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ExitCause {
    /// The guest reset the machine.
    GuestReset,
    /// The guest switched the machine off.
    GuestPowerOff,
    /// A vCPU shut down.
    TripleFault,
    /// KVM or a vCPU could not go on, or the event loop failed.
    Failure,
}
