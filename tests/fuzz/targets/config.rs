//! What a user states, as JSON: a value that is taken is written out as one that is taken again and says
//! the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;
use vm_config::{
    BalloonConfig, BalloonPatch, BalloonStatisticsPatch, BootSource, Drive, DrivePatch, Entropy,
    HintingStart, InstanceId, LoggerConfig, Machine, MachinePatch, NetworkInterface,
    NetworkInterfacePatch, RateLimiter, SerialConfig, Vsock,
};

fuzz_target!(|input: &[u8]| {
    let Some((kind, json)) = input.split_first() else {
        return;
    };
    match kind % 16 {
        0 => round::<BalloonConfig>(json),
        1 => round::<BootSource>(json),
        2 => patch_drive(json),
        3 => round::<DrivePatch>(json),
        4 => round::<Entropy>(json),
        5 => round::<Machine>(json),
        6 => patch_machine(json),
        7 => round::<NetworkInterface>(json),
        8 => round::<NetworkInterfacePatch>(json),
        9 => limit(json),
        10 => round::<Vsock>(json),
        11 => drop(serde_json::from_slice::<LoggerConfig>(json)),
        12 => drop(serde_json::from_slice::<SerialConfig>(json)),
        13 => drop(
            serde_json::from_slice::<HintingStart>(json).map(|start| start.acknowledge_on_stop),
        ),
        14 => {
            let _ = serde_json::from_slice::<BalloonPatch>(json);
            let _ = serde_json::from_slice::<BalloonStatisticsPatch>(json);
        }
        _ => drop(std::str::from_utf8(json).map(str::parse::<InstanceId>)),
    }
});

fn round<T: DeserializeOwned + Serialize>(json: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(json) {
        again(&value);
    }
}

/// What is only taken for old clients' sake need not be written.
fn again<T: DeserializeOwned + Serialize>(value: &T) {
    let text = serde_json::to_string(value).expect("plain data");
    let next: T = serde_json::from_str(&text).expect("what was written is taken");
    assert_eq!(serde_json::to_string(&next).expect("plain data"), text);
}

/// A drive, and the same after a patch of the same text.
fn patch_drive(json: &[u8]) {
    let Ok(drive) = serde_json::from_slice::<Drive>(json) else {
        return;
    };
    again(&drive);
    if let Ok(patch) = serde_json::from_slice::<DrivePatch>(json) {
        again(&drive.patched(&patch));
    }
}

fn patch_machine(json: &[u8]) {
    let machine = serde_json::from_slice::<Machine>(json).unwrap_or_default();
    if let Ok(patch) = serde_json::from_slice::<MachinePatch>(json) {
        let _ = machine.patched(&patch);
    }
}

fn limit(json: &[u8]) {
    let Ok(limiter) = serde_json::from_slice::<RateLimiter>(json) else {
        return;
    };
    again(&limiter);
    let once = RateLimiter::patched(None, Some(limiter));
    assert_eq!(
        RateLimiter::patched(once, once),
        once,
        "a patch with what is there changes it"
    );
}
