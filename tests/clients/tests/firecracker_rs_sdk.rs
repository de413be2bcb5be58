//! `firecracker-rs-sdk`: another author's types and another way to speak HTTP (a raw socket, no keep-alive of its own).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::time::{Duration, Instant};

use clients::{Files, text};
use firecracker_rs_sdk::firecracker::FirecrackerOption;
use firecracker_rs_sdk::instance::Instance;
use firecracker_rs_sdk::models::*;
use integration::{Tap, guest_kernel, monitor};

fn configure(instance: &mut Instance, files: &Files, tap: &Tap) {
    instance
        .put_logger(&Logger {
            level: Some(LogLevel::Warning),
            log_path: files.path("log"),
            show_level: Some(true),
            show_log_origin: Some(true),
            module: None,
        })
        .unwrap();
    instance
        .put_metrics(&Metrics {
            metrics_path: files.path("metrics"),
        })
        .unwrap();
    instance
        .put_machine_configuration(&MachineConfiguration {
            cpu_template: Some(CPUTemplate(CPUTemplateString::None)),
            smt: Some(false),
            mem_size_mib: 128,
            track_dirty_pages: Some(false),
            vcpu_count: 1,
            huge_pages: Some(HugePageOption::None),
        })
        .unwrap();
    instance
        .put_guest_boot_source(&BootSource {
            boot_args: Some("console=ttyS0 reboot=k panic=1 pci=off".into()),
            initrd_path: None,
            kernel_image_path: guest_kernel("ctrl_alt_del"),
        })
        .unwrap();
    instance
        .put_guest_drive_by_id(&Drive {
            drive_id: "rootfs".into(),
            partuuid: None,
            is_root_device: true,
            cache_type: Some(CacheType::Unsafe),
            is_read_only: false,
            path_on_host: files.disk("rootfs", 4).into(),
            rate_limiter: None,
            io_engine: Some(IoEngine::Sync),
            socket: None,
        })
        .unwrap();
    instance
        .put_guest_network_interface_by_id(&NetworkInterface {
            guest_mac: Some("06:00:AC:10:00:03".into()),
            host_dev_name: tap.name().into(),
            iface_id: "eth0".into(),
            rx_rate_limiter: None,
            tx_rate_limiter: None,
        })
        .unwrap();
    instance
        .put_guest_vsock(&Vsock {
            guest_cid: 3,
            uds_path: files.path("vsock"),
            vsock_id: None,
        })
        .unwrap();
    instance
        .put_balloon(&Balloon {
            amount_mib: 0,
            deflate_on_oom: false,
            stats_polling_interval_s: Some(0),
        })
        .unwrap();
    instance
        .put_entropy_device(&EntropyDevice { rate_limiter: None })
        .unwrap();
    instance
        .put_mmds_config(&MmdsConfig {
            version: Some(MmdsConfigVersion::V1),
            ipv4_address: Some("169.254.170.2".parse().unwrap()),
            network_interfaces: vec!["eth0".into()],
        })
        .unwrap();
}

/// Waits until the process is gone; it is a child of the library, which does not wait for it.
fn wait_gone(instance: &mut Instance) {
    let begin = Instant::now();
    while instance.describe_instance().is_ok() {
        assert!(begin.elapsed() < Duration::from_secs(60), "it does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn configures_runs_and_stops() {
    let files = Files::new();
    let tap = Tap::new();
    let mut instance = FirecrackerOption::new(monitor())
        .api_sock(files.path("api.sock"))
        .id("rs-sdk-1")
        .stdout(files.path("console"))
        .build()
        .unwrap();
    instance.start_vmm().unwrap();
    let version = instance.get_firecracker_version().unwrap();
    assert!(version.firecracker_version.starts_with("1."));
    assert_eq!(
        instance.describe_instance().unwrap().state,
        InstanceState::NotStarted
    );

    configure(&mut instance, &files, &tap);
    instance.start().unwrap();
    assert_eq!(
        instance.describe_instance().unwrap().state,
        InstanceState::Running
    );
    assert_eq!(
        instance.get_machine_configuration().unwrap().mem_size_mib,
        128
    );
    assert_eq!(instance.describe_balloon_config().unwrap().amount_mib, 0);
    let config = instance.get_export_vm_config().unwrap();
    assert_eq!(config.network_interfaces.unwrap()[0].iface_id, "eth0");

    instance.pause().unwrap();
    assert_eq!(
        instance.describe_instance().unwrap().state,
        InstanceState::Paused
    );
    instance.resume().unwrap();

    let refused = instance.create_snapshot(&SnapshotCreateParams {
        mem_file_path: files.path("memory"),
        snapshot_path: files.path("state"),
        snapshot_type: Some(SnapshotType::Full),
        version: None,
    });
    // The library has no type for a refusal, so all it can tell is that there was one.
    assert!(refused.is_err(), "a running microVM cannot be saved");
    assert!(!files.path("state").exists());

    instance
        .create_sync_action(ActionType::FlushMetrics)
        .unwrap();
    let metrics = std::fs::read_to_string(files.path("metrics")).unwrap();
    assert!(metrics.ends_with("}\n"), "{metrics}");

    instance.stop().unwrap();
    wait_gone(&mut instance);
    let console = std::fs::read_to_string(files.path("console")).unwrap();
    assert!(
        console.contains("scancode=71"),
        "{}: {console}",
        text(&files.path("console"))
    );
}
