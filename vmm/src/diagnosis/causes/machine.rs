//! What the end of the machine, and where its vCPUs are, says of the cause.

use vm_config::DeviceTransport;

use super::super::vcpu::{Place, VcpuFacts};
use super::drivers::are_untouched;
use super::{SIGN_OF_LIFE, has_word, seen};
use crate::ExitReason;
use crate::diagnosis::facts::Facts;
use crate::diagnosis::report::{Activity, Cause, CauseCode, Confidence, Phase};

/// `KVM_INTERNAL_ERROR_EMULATION`.
const EMULATION: u32 = 1;
/// A vCPU that moved less than this between two looks is in one place, bytes.
const ONE_PLACE: u64 = 256;

/// Why a vCPU could not go on.
pub(super) fn end(facts: &Facts) -> Option<Cause> {
    let end = facts.end.as_ref()?;
    let (index, code, summary) = match end {
        ExitReason::TripleFault { vcpu } => (
            *vcpu,
            CauseCode::TripleFault,
            format!(
                "vCPU {vcpu} met a fault while there was no way to handle faults (triple fault)"
            ),
        ),
        ExitReason::InternalError { vcpu, suberror, .. } if *suberror == EMULATION => (
            *vcpu,
            CauseCode::KvmInternalError,
            format!("vCPU {vcpu} met an instruction that KVM can neither run nor emulate"),
        ),
        ExitReason::InternalError { vcpu, .. } => (
            *vcpu,
            CauseCode::KvmInternalError,
            format!("KVM gave vCPU {vcpu} up"),
        ),
        ExitReason::Vcpu { vcpu, .. } => (
            *vcpu,
            CauseCode::VcpuStopped,
            format!("vCPU {vcpu} cannot go on"),
        ),
        ExitReason::Reset | ExitReason::PowerOff | ExitReason::EventLoop(_) => return None,
        #[cfg(feature = "gdb")]
        ExitReason::Killed => return None,
    };
    let mut evidence = vec![seen(end.to_string())];
    let vcpu = facts.vcpus.iter().find(|vcpu| vcpu.index == index);
    let place = vcpu.and_then(|vcpu| vcpu.place.as_ref());
    let is_early = facts.is_silent() && !facts.devices.iter().any(|d| d.is_driver_ok());
    if is_early {
        evidence.push(seen("it had not written a byte and used no device"));
    }
    let (mut code, mut summary) = (code, summary);
    match place {
        Some(place) if place.is_reset() => evidence.push(seen(
            "the host's KVM resets a vCPU in this case: where it was is not known",
        )),
        Some(place) => {
            evidence.push(seen(format!(
                "its next instruction at {:#x}: {}",
                place.instruction, place.walk
            )));
            if !place.is_in_memory() {
                code = CauseCode::JumpedOutsideMemory;
                summary = format!(
                    "vCPU {index} went to {:#x}, where it has no memory",
                    place.instruction
                );
            }
        }
        None => {}
    }
    Some(Cause {
        code,
        confidence: Confidence::Certain,
        summary,
        remedy: remedy_of_end(code, is_early).to_owned(),
        evidence,
    })
}

fn remedy_of_end(code: CauseCode, is_early: bool) -> &'static str {
    match code {
        CauseCode::KvmInternalError => {
            "use a host with hardware virtualization (vmx or svm in /proc/cpuinfo); without it KVM lacks instructions that kernels use"
        }
        CauseCode::VcpuStopped => "see what the message names",
        _ if is_early => {
            "check that the kernel is an uncompressed x86_64 one built for this entry (PVH note or 64-bit), that mem_size_mib is enough for it, and add earlyprintk=serial,ttyS0 console=ttyS0 to boot_args to see more"
        }
        _ => {
            "look at what the guest did last, above all in the kernel's log; earlyprintk=serial,ttyS0 in boot_args shows more of it"
        }
    }
}

/// It reset the machine before it used anything.
pub(super) fn early_reset(facts: &Facts) -> Option<Cause> {
    let is_early = facts.uptime.is_some_and(|uptime| uptime < SIGN_OF_LIFE);
    let is_reset = facts.end == Some(ExitReason::Reset);
    if !(is_early && is_reset && are_untouched(facts)) {
        return None;
    }
    let mut evidence = vec![
        seen("the guest reset the machine"),
        seen("no driver used any device"),
    ];
    if facts.is_silent() {
        evidence.push(seen("it wrote nothing to a console"));
    }
    Some(Cause {
        code: CauseCode::EarlyReset,
        confidence: Confidence::Possible,
        summary: "the guest reset itself before it used any device".to_owned(),
        remedy: "add console=ttyS0 to boot_args to see why, and leave panic=1 out to keep the machine after a panic".to_owned(),
        evidence,
    })
}

/// The vCPUs that the guest started, if all of them said where they are.
fn started(facts: &Facts) -> Option<Vec<(&VcpuFacts, &Place)>> {
    let placed = facts
        .vcpus
        .iter()
        .map(|vcpu| Some((vcpu, vcpu.place.as_ref()?)));
    let mut placed = placed.collect::<Option<Vec<_>>>()?;
    placed.retain(|(_, place)| place.activity != Activity::NotStarted);
    Some(placed).filter(|placed| !placed.is_empty())
}

/// All of them sleep, and no interrupt can wake them.
pub(super) fn asleep(facts: &Facts) -> Option<Cause> {
    if facts.phase == Phase::Ended {
        return None;
    }
    let placed = started(facts)?;
    let sleeps = |place: &Place| place.activity == Activity::Halted && !place.interrupts_enabled;
    if !placed.iter().all(|(_, place)| sleeps(place)) {
        return None;
    }
    let evidence = placed.iter().take(8).map(|(vcpu, place)| {
        seen(format!(
            "vCPU {} is halted with interrupts off at {:#x}",
            vcpu.index, place.instruction
        ))
    });
    Some(Cause {
        code: CauseCode::HaltedForever,
        confidence: Confidence::Certain,
        summary: "every vCPU sleeps with interrupts off: nothing can wake the guest".to_owned(),
        remedy: "the guest stopped itself: its last lines say why; with reboot=k panic=1 in boot_args a kernel that gives up ends the microVM instead".to_owned(),
        evidence: evidence.collect(),
    })
}

/// A vCPU does not move, in a guest that shows no other sign of life.
pub(super) fn spinning(facts: &Facts, earlier: Option<&Facts>) -> Option<Cause> {
    let earlier = earlier.filter(|_| facts.phase == Phase::Running)?;
    if facts.devices.iter().any(|device| device.is_driver_ok()) {
        return None;
    }
    let placed = started(facts)?;
    let (vcpu, place, before) = placed.into_iter().find_map(|(vcpu, place)| {
        let before = earlier
            .vcpus
            .iter()
            .find(|other| other.index == vcpu.index)?;
        let at = before.place.as_ref()?.instruction;
        let is_one_place = place.instruction.abs_diff(at) < ONE_PLACE;
        let is_awake = place.activity == Activity::Runs;
        let is_deaf = !place.interrupts_enabled || facts.is_silent();
        (is_one_place && is_awake && is_deaf).then_some((vcpu, place, before))
    })?;
    let mut evidence = vec![seen(format!(
        "vCPU {} is around {:#x} with interrupts {}",
        vcpu.index,
        place.instruction,
        if place.interrupts_enabled {
            "on"
        } else {
            "off"
        }
    ))];
    let polled = vcpu.last_exits();
    if vcpu.accesses() > before.accesses()
        && let [.., last] = &polled[..]
        && let Some(address) = &last.address
    {
        evidence.push(seen(format!("it goes on to access {address}")));
    }
    Some(Cause {
        code: CauseCode::Spinning,
        confidence: Confidence::Possible,
        summary: format!("vCPU {} does not get on: it runs in one place", vcpu.index),
        remedy: "see which function that is (boot a vmlinux with symbols); early in a boot it is often a kernel for other hardware, or a processor that is emulated and slow".to_owned(),
        evidence,
    })
}

/// Nothing was heard of it for long.
pub(super) fn silent(facts: &Facts) -> Option<Cause> {
    let line = facts.command_line.as_deref()?;
    let is_used = facts.devices.iter().any(|device| device.is_driver_ok());
    let is_old = facts.uptime.is_some_and(|uptime| uptime >= SIGN_OF_LIFE);
    if !facts.is_silent() || facts.phase == Phase::Ended || !(is_used || is_old) {
        return None;
    }
    let has_console = line
        .split_ascii_whitespace()
        .any(|word| word.starts_with("console="));
    let is_off = has_word(line, "8250.nr_uarts=0") && !line.contains("console=hvc");
    let mut evidence = vec![seen("not a byte came out of the serial port")];
    let (code, summary, remedy) = if !has_console {
        evidence.push(seen("the command line has no console="));
        (
            CauseCode::NoConsole,
            "the kernel was told of no console",
            "add console=ttyS0 to boot_args, and leave 8250.nr_uarts=0 out",
        )
    } else if is_off {
        evidence.push(seen(
            "8250.nr_uarts=0 in the command line turns the serial port off",
        ));
        (
            CauseCode::NoConsole,
            "the kernel was told to leave its serial port alone",
            "take 8250.nr_uarts=0 out of boot_args",
        )
    } else {
        (
            CauseCode::Silent,
            "nothing was heard of the guest",
            "add earlyprintk=serial,ttyS0 to boot_args; if it stays silent, check that the kernel has CONFIG_SERIAL_8250_CONSOLE and is for x86_64, and that the host has hardware virtualization",
        )
    };
    if is_used {
        evidence.push(seen("a driver runs a device, so the kernel is up"));
    }
    if are_untouched(facts) {
        let bus = match facts.transport {
            DeviceTransport::Mmio => "MMIO",
            DeviceTransport::Pci => "PCI",
        };
        evidence.push(seen(format!("no driver has looked at a device on {bus}")));
    }
    Some(Cause {
        code,
        confidence: if is_used {
            Confidence::Likely
        } else {
            Confidence::Possible
        },
        summary: summary.to_owned(),
        remedy: remedy.to_owned(),
        evidence,
    })
}
