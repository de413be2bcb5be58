//! `fctools`: models, a process and a connection of its own. It has the metrics file parsed into its own types.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::PathBuf;
use std::time::Duration;

use clients::Files;
use fctools::process_spawner::DirectProcessSpawner;
use fctools::runtime::tokio::TokioRuntime;
use fctools::vm::Vm;
use fctools::vm::api::{VmApi, VmApiError};
use fctools::vm::configuration::{InitMethod, VmConfiguration, VmConfigurationData};
use fctools::vm::models::*;
use fctools::vm::shutdown::{VmShutdownAction, VmShutdownMethod};
use fctools::vmm::arguments::{VmmApiSocket, VmmArguments, VmmLogLevel};
use fctools::vmm::executor::unrestricted::UnrestrictedVmmExecutor;
use fctools::vmm::installation::VmmInstallation;
use fctools::vmm::ownership::VmmOwnershipModel;
use fctools::vmm::resource::system::ResourceSystem;
use fctools::vmm::resource::{CreatedResourceType, MovedResourceType, Resource, ResourceType};
use integration::{Tap, guest_kernel, monitor};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

type Resources = ResourceSystem<DirectProcessSpawner, TokioRuntime>;
type Machine = Vm<UnrestrictedVmmExecutor, DirectProcessSpawner, TokioRuntime>;

/// A file that is there already.
fn given(resources: &mut Resources, path: impl Into<PathBuf>) -> Resource {
    let kind = ResourceType::Moved(MovedResourceType::HardLinkedOrCopied);
    resources.create_resource(path.into(), kind).unwrap()
}

/// A file that the library makes before the start.
fn made(resources: &mut Resources, path: PathBuf) -> Resource {
    let kind = ResourceType::Created(CreatedResourceType::File);
    resources.create_resource(path, kind).unwrap()
}

/// One of every device that the library knows.
fn described(resources: &mut Resources, files: &Files, tap: &Tap) -> VmConfigurationData {
    VmConfigurationData {
        boot_source: BootSource {
            kernel_image: given(resources, guest_kernel("ctrl_alt_del")),
            boot_args: Some("console=ttyS0 reboot=k panic=1 pci=off".to_owned()),
            initrd: None,
        },
        drives: vec![Drive {
            drive_id: "rootfs".to_owned(),
            is_root_device: true,
            cache_type: Some(DriveCacheType::Writeback),
            partuuid: None,
            is_read_only: Some(false),
            block: Some(given(resources, files.disk("rootfs", 4))),
            rate_limiter: None,
            io_engine: Some(DriveIoEngine::Sync),
            socket: None,
        }],
        machine_configuration: MachineConfiguration {
            vcpu_count: 2,
            mem_size_mib: 128,
            smt: Some(true),
            track_dirty_pages: Some(true),
            huge_pages: Some(HugePages::None),
        },
        cpu_template: Some(CpuTemplate {
            kvm_capabilities: Vec::new(),
            cpuid_modifiers: Vec::new(),
            msr_modifiers: Vec::new(),
        }),
        network_interfaces: vec![NetworkInterface {
            iface_id: "eth0".to_owned(),
            host_dev_name: tap.name().to_owned(),
            guest_mac: Some("06:00:ac:10:00:02".to_owned()),
            rx_rate_limiter: None,
            tx_rate_limiter: None,
        }],
        balloon_device: Some(BalloonDevice {
            amount_mib: 0,
            deflate_on_oom: false,
            stats_polling_interval_s: Some(1),
        }),
        vsock_device: Some(VsockDevice {
            guest_cid: 3,
            uds: resources
                .create_resource(files.path("vsock"), ResourceType::Produced)
                .unwrap(),
        }),
        logger_system: Some(LoggerSystem {
            logs: Some(made(resources, files.path("log"))),
            level: Some(VmmLogLevel::Debug),
            show_level: Some(true),
            show_log_origin: Some(true),
            module: None,
        }),
        metrics_system: Some(MetricsSystem {
            metrics: made(resources, files.path("metrics")),
        }),
        mmds_configuration: Some(MmdsConfiguration {
            version: MmdsVersion::V2,
            network_interfaces: vec!["eth0".to_owned()],
            ipv4_address: None,
        }),
        entropy_device: Some(EntropyDevice { rate_limiter: None }),
    }
}

/// Starts a microVM with everything in it.
async fn started(files: &Files, tap: &Tap, init_method: InitMethod) -> Machine {
    let mut resources = Resources::new(
        DirectProcessSpawner,
        TokioRuntime,
        VmmOwnershipModel::Shared,
    );
    let data = described(&mut resources, files, tap);
    let socket = VmmApiSocket::Enabled(files.path("api.sock"));
    let executor = UnrestrictedVmmExecutor::new(VmmArguments::new(socket));
    // It asks for the jailer and the snapshot editor too, and does not use them here.
    let installation = VmmInstallation::new(monitor(), monitor(), monitor());
    let configuration = VmConfiguration::New { init_method, data };
    let mut vm = Machine::prepare(executor, resources, installation, configuration)
        .await
        .unwrap();
    vm.start(PATIENCE).await.unwrap();
    vm
}

/// The metrics file's last line, in the library's types and as it is.
fn last_metrics(files: &Files) -> Value {
    let text = std::fs::read_to_string(files.path("metrics")).unwrap();
    let last = text.lines().last().expect("a line is written at the start");
    serde_json::from_str(last).unwrap()
}

fn refusal<T>(result: Result<T, VmApiError>) -> String {
    match result {
        Err(VmApiError::ReceivedErrorResponse {
            status_code,
            fault_message,
        }) => format!("{} {fault_message}", status_code.as_u16()),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was not refused"),
    }
}

#[tokio::test]
async fn configures_runs_and_stops() {
    let (files, tap) = (Files::new(), Tap::new());
    let mut vm = started(&files, &tap, InitMethod::ViaApiCalls).await;

    let info = vm.get_info().await.unwrap();
    assert_eq!(
        (info.is_paused, info.id.as_str()),
        (false, "anonymous-instance")
    );
    assert!(
        vm.get_firecracker_version()
            .await
            .unwrap()
            .starts_with("1.")
    );
    let machine = vm.get_machine_configuration().await.unwrap();
    assert_eq!((machine.vcpu_count, machine.smt), (2, Some(true)));
    assert_eq!(vm.get_balloon_device().await.unwrap().amount_mib, 0);

    let store = json!({ "latest": { "meta-data": { "instance-id": "i-1", "tags": ["a"] } } });
    vm.create_mmds_untyped(&store).await.unwrap();
    vm.update_mmds_untyped(&json!({ "latest": { "meta-data": { "tags": null } } }))
        .await
        .unwrap();
    assert_eq!(
        vm.get_mmds_untyped().await.unwrap(),
        json!({ "latest": { "meta-data": { "instance-id": "i-1" } } })
    );

    vm.pause().await.unwrap();
    assert!(vm.get_info().await.unwrap().is_paused);
    vm.resume().await.unwrap();
    assert!(!vm.get_info().await.unwrap().is_paused);
    let limit = TokenBucket {
        size: 1000,
        one_time_burst: None,
        refill_time: 100,
    };
    let rate_limiter = Some(RateLimiter {
        bandwidth: limit.clone(),
        ops: limit,
    });
    vm.update_drive(UpdateDrive {
        drive_id: "rootfs".to_owned(),
        block: None,
        rate_limiter: rate_limiter.clone(),
    })
    .await
    .unwrap();
    vm.update_network_interface(UpdateNetworkInterface {
        iface_id: "eth0".to_owned(),
        rx_rate_limiter: rate_limiter,
        tx_rate_limiter: None,
    })
    .await
    .unwrap();

    vm.flush_metrics().await.unwrap();
    let metrics = last_metrics(&files);
    assert_eq!(metrics["patch_api_requests"]["drive_count"], 1);
    assert_eq!(metrics["patch_api_requests"]["mmds_count"], 1);

    stop(vm).await;
    let log = std::fs::read_to_string(files.path("log")).unwrap();
    assert!(
        log.contains("The API server received a Put request on \"/entropy\""),
        "{log}"
    );
}

/// Ctrl, Alt and Delete; the guest ends when it has seen them.
async fn stop(mut vm: Machine) {
    let outcome = vm
        .shutdown([VmShutdownAction {
            method: VmShutdownMethod::CtrlAltDel,
            timeout: Some(PATIENCE),
            graceful: true,
        }])
        .await
        .unwrap();
    assert_eq!(outcome.exit_status.code(), Some(0));
}

#[tokio::test]
async fn starts_from_a_file_that_the_library_writes() {
    let (files, tap) = (Files::new(), Tap::new());
    let file = InitMethod::ViaJsonConfiguration(files.path("config.json"));
    let mut vm = started(&files, &tap, file).await;
    assert_eq!(
        vm.get_machine_configuration().await.unwrap().mem_size_mib,
        128
    );
    stop(vm).await;
}

#[tokio::test]
async fn hears_why_it_is_refused() {
    let (files, tap) = (Files::new(), Tap::new());
    let mut vm = started(&files, &tap, InitMethod::ViaApiCalls).await;
    let inflate = UpdateBalloonDevice { amount_mib: 64 };
    let why = refusal(vm.update_balloon_device(inflate).await);
    assert!(
        why.starts_with("400 ") && why.contains("Device not activated yet"),
        "{why}"
    );
    let unknown = UpdateDrive {
        drive_id: "nobody".to_owned(),
        block: None,
        rate_limiter: None,
    };
    let why = refusal(vm.update_drive(unknown).await);
    assert!(
        why.starts_with("400 ") && why.contains("Device not found"),
        "{why}"
    );
    stop(vm).await;
}
