//! `/balloon`.

use devices::virtio::balloon::BalloonError;
use devices::virtio::{Balloon, Changed};
use vm_config::{
    BalloonConfig, BalloonPatch, BalloonStatistics, BalloonStatisticsPatch, DeviceId, Explain,
    FaultCode, FaultKind, HintingStart, HintingStatus,
};

use super::{AFTER_START, ANY_STATE, BEFORE_START, Command, CommandError};
use crate::configuration::balloon_id;
use crate::machine::RunningMachine;
use crate::{Lifecycle, Vm};

/// `PUT /balloon`.
pub struct PutBalloon(pub BalloonConfig);
/// `GET /balloon`.
pub struct GetBalloon;
/// `PATCH /balloon`.
pub struct PatchBalloon(pub BalloonPatch);
/// `GET /balloon/statistics`.
pub struct GetBalloonStatistics;
/// `PATCH /balloon/statistics`.
pub struct PatchBalloonStatistics(pub BalloonStatisticsPatch);
/// `PATCH /balloon/hinting/start`.
pub struct StartHinting(pub HintingStart);
/// `PATCH /balloon/hinting/stop`.
pub struct StopHinting;
/// `GET /balloon/hinting/status`.
pub struct GetHintingStatus;

/// A balloon that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum BalloonConfigError {
    /// More than the guest has.
    #[error("Amount of pages requested is too large.")]
    TooLarge,
    /// None was put.
    #[error("No balloon device found.")]
    NotFound,
}

impl Explain for BalloonConfigError {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(match self {
            Self::TooLarge => FaultCode::BalloonTooLarge,
            Self::NotFound => FaultCode::DeviceNotFound,
        })
    }
}

/// Something that a started balloon cannot do.
#[derive(Debug, thiserror::Error)]
pub enum BalloonUpdateError {
    /// There is none.
    #[error("Failed perform action on device: Device not found")]
    NotFound,
    /// The device says so.
    #[error("Balloon")]
    Device(#[from] BalloonError),
}

impl Explain for BalloonUpdateError {
    fn kind(&self) -> FaultKind<'_> {
        match self {
            Self::NotFound => FaultKind::Code(FaultCode::DeviceNotFound),
            Self::Device(inner) => FaultKind::Inner(inner),
        }
    }
}

impl Command for PutBalloon {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = BEFORE_START;
    const CONFIGURES: bool = true;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        if !is_within(self.0.amount_mib, vm.config.machine.mem_size_mib) {
            return Err(BalloonConfigError::TooLarge.into());
        }
        vm.config.balloon = Some(self.0);
        Ok(())
    }
}

impl Command for GetBalloon {
    type Reply = BalloonConfig;
    const ALLOWED: &'static [Lifecycle] = ANY_STATE;
    const CHANGES: bool = false;

    fn run(self, vm: &mut Vm) -> Result<BalloonConfig, CommandError> {
        let config = vm.config.balloon.clone();
        config.ok_or_else(|| match vm.lifecycle {
            Lifecycle::NotStarted => BalloonConfigError::NotFound.into(),
            Lifecycle::Running | Lifecycle::Paused => {
                CommandError::Internal(BalloonUpdateError::NotFound)
            }
        })
    }
}

impl Command for PatchBalloon {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = AFTER_START;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        let amount_mib = self.0.amount_mib;
        let limit_mib = most_mib(vm);
        update(vm, |balloon| {
            if !is_within(amount_mib, limit_mib) {
                let limit_mib = u32::try_from(limit_mib).unwrap_or(u32::MAX);
                return Err(BalloonError::TooMuch { limit_mib });
            }
            balloon.set_target(amount_mib);
            Ok(Then::TellDriver)
        })?;
        if let Some(config) = &mut vm.config.balloon {
            config.amount_mib = amount_mib;
        }
        Ok(())
    }
}

impl Command for GetBalloonStatistics {
    type Reply = BalloonStatistics;
    const ALLOWED: &'static [Lifecycle] = AFTER_START;
    const CHANGES: bool = false;

    fn run(self, vm: &mut Vm) -> Result<BalloonStatistics, CommandError> {
        look(vm, Balloon::statistics)
    }
}

impl Command for PatchBalloonStatistics {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = AFTER_START;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        let seconds = self.0.stats_polling_interval_s;
        change(vm, |_, balloon| {
            balloon.set_interval(seconds).map(|()| Then::Nothing)
        })?;
        if let Some(config) = &mut vm.config.balloon {
            config.stats_polling_interval_s = seconds;
        }
        Ok(())
    }
}

impl Command for StartHinting {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = AFTER_START;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        update(vm, |balloon| {
            balloon.start_hinting(self.0).map(|()| Then::TellDriver)
        })
    }
}

impl Command for StopHinting {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = AFTER_START;

    fn run(self, vm: &mut Vm) -> Result<(), CommandError> {
        update(vm, |balloon| {
            balloon.stop_hinting().map(|()| Then::TellDriver)
        })
    }
}

impl Command for GetHintingStatus {
    type Reply = HintingStatus;
    const ALLOWED: &'static [Lifecycle] = AFTER_START;
    const CHANGES: bool = false;

    fn run(self, vm: &mut Vm) -> Result<HintingStatus, CommandError> {
        look(vm, Balloon::hinting_status)
    }
}

/// What follows from a change.
enum Then {
    Nothing,
    /// The configuration space changed.
    TellDriver,
}

/// The most memory the guest can have, MiB.
fn most_mib(vm: &Vm) -> usize {
    let hotplug = vm
        .config
        .memory_hotplug
        .map_or(0, |stated| stated.total_size_mib);
    let hotplug = usize::try_from(hotplug).unwrap_or(usize::MAX);
    vm.config.machine.mem_size_mib.saturating_add(hotplug)
}

/// Whether a guest has that much memory to give.
pub(super) fn is_within(amount_mib: u32, mem_size_mib: usize) -> bool {
    usize::try_from(amount_mib).is_ok_and(|amount| amount <= mem_size_mib)
}

fn look<R>(
    vm: &mut Vm,
    look: impl Fn(&Balloon) -> Result<R, BalloonError>,
) -> Result<R, CommandError> {
    let not_found = || CommandError::Internal(BalloonUpdateError::NotFound);
    if vm.config.balloon.is_none() {
        return Err(not_found());
    }
    let looked = vm.look_at(&balloon_id(), look)?;
    looked
        .ok_or_else(not_found)?
        .map_err(|error| CommandError::Internal(error.into()))
}

/// Changes a balloon that a driver runs.
fn update(
    vm: &mut Vm,
    change_it: impl FnOnce(&mut Balloon) -> Result<Then, BalloonError>,
) -> Result<(), CommandError> {
    change(vm, |has_driver, balloon| {
        if !has_driver {
            return Err(BalloonError::NotActive);
        }
        change_it(balloon)
    })
}

/// Changes the balloon while the machine stands still. `change` hears whether a driver runs it.
fn change(
    vm: &mut Vm,
    change: impl FnOnce(bool, &mut Balloon) -> Result<Then, BalloonError>,
) -> Result<(), CommandError> {
    let id = balloon_id();
    if vm.config.balloon.is_none() {
        return Err(BalloonUpdateError::NotFound.into());
    }
    vm.change_machine(|machine| Ok(change_in(machine, &id, change)?))
}

fn change_in(
    machine: &RunningMachine,
    id: &DeviceId,
    change: impl FnOnce(bool, &mut Balloon) -> Result<Then, BalloonError>,
) -> Result<(), BalloonUpdateError> {
    let slot = machine.slot::<Balloon>(id);
    let has_driver = slot.ok_or(BalloonUpdateError::NotFound)?.has_driver();
    let changed = machine.change_device(id, |balloon| match change(has_driver, balloon) {
        Ok(Then::Nothing) => Changed::Inside(Ok(())),
        Ok(Then::TellDriver) => Changed::Configuration(Ok(())),
        Err(error) => Changed::Inside(Err(error)),
    });
    changed.ok_or(BalloonUpdateError::NotFound)??;
    Ok(())
}
