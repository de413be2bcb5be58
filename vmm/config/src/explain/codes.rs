//! The codes, one a kind of failure. `docs/errors.md` is made from this table.
//!
//! A code that clients have seen keeps its name and its meaning.

use serde::{Serialize, Serializer};

macro_rules! codes {
    ($($code:ident $name:literal: $meaning:literal, $remedy:literal;)*) => {
        /// A kind of failure; `snake_case` for clients.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum FaultCode {
            $(#[doc = $meaning] $code,)*
        }

        impl FaultCode {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$code),*];

            /// The name that clients see.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$code => $name,)* }
            }

            /// What it means.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$code => $meaning,)* }
            }

            /// What to do when the failure itself says nothing better.
            #[must_use]
            pub fn remedy(self) -> &'static str {
                match self { $(Self::$code => $remedy,)* }
            }
        }
    };
}

impl Serialize for FaultCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

codes! {
    // The request.
    UnsupportedMethod "unsupported_method": "the HTTP method is none of this interface", "use GET, PUT, PATCH or DELETE";
    MalformedHttp "malformed_http": "what was sent is not an HTTP request", "send HTTP/1.1 with one header a line and a Content-Length";
    PayloadTooLarge "payload_too_large": "the body is larger than the server reads", "send a smaller body, or raise --http-api-max-payload-size";
    BodyNotAllowed "body_not_allowed": "a GET or DELETE has a body", "leave the body out";
    BodyMissing "body_missing": "a PUT or PATCH has no body, or one that changes nothing", "send the fields to set as a JSON object, with a Content-Length";
    UnknownPath "unknown_path": "no endpoint has this method and path", "see the table of requests in docs/api.md";
    UnknownQuery "unknown_query": "the query is none that the endpoint has", "leave the query out";
    TooManyStreams "too_many_streams": "as many clients as are served read events already", "close one of the connections that read GET /events";
    IdMissing "id_missing": "the path has no id", "put the device's id behind the last slash";
    IdInvalid "id_invalid": "the id in the path has a character that ids cannot have", "use letters, digits and underscores";
    IdMismatch "id_mismatch": "path and body name different ids", "use the same id in both";
    JsonSyntax "json_syntax": "the body is not JSON", "correct the body at the line and column that are named";
    JsonContent "json_content": "the body is JSON, but not what the endpoint takes", "correct the field that is named; resources/openapi/cloister.json has the types";
    NotInThisBuild "not_in_this_build": "the endpoint or field is part of the interface, and not of this build", "leave the request or field out";
    // The state.
    NotStarted "not_started": "the microVM must be started for this", "send InstanceStart first";
    AlreadyStarted "already_started": "the microVM must not be started for this", "configure it before InstanceStart, in a new process";
    MicrovmEnded "microvm_ended": "the microVM ended before it answered", "see the log for why it ended, and start a new process";
    SnapshotWhileRunning "snapshot_while_running": "a microVM that runs cannot be saved", "PATCH /vm to Paused first";
    SnapshotOfVhostUser "snapshot_of_vhost_user": "another process has the state of a device", "use drives with path_on_host";
    SnapshotAfterConfiguration "snapshot_after_configuration": "a microVM was configured in this process", "load the snapshot in a new process";
    // The machine and what it boots.
    VcpuCountInvalid "vcpu_count_invalid": "vcpu_count is not one that a machine can have", "use 1 to 32 vCPUs, 1 or an even number with smt";
    MemorySizeInvalid "memory_size_invalid": "mem_size_mib is 0 or not whole pages", "use whole MiB above 0, an even number with huge_pages";
    MemoryBelowBalloon "memory_below_balloon": "mem_size_mib is less than the balloon is to take", "PUT /balloon with a smaller amount_mib first";
    CpuTemplateProcessor "cpu_template_processor": "cpu_template was made for other processors than the host's", "leave cpu_template out, or PUT /cpu-config";
    CpuTemplateCpuid "cpu_template_cpuid": "the CPU template changes a CPUID entry that the host's KVM does not have", "take the leaf that is named out of cpuid_modifiers";
    CpuTemplateMsr "cpu_template_msr": "the CPU template changes a model-specific register in a way that the host's KVM does not", "take the register that is named out of msr_modifiers, or change its bitmap";
    DebuggerSocket "debugger_socket": "the socket for a debugger cannot be made", "remove the file at gdb_socket_path, or name another";
    KernelMissing "kernel_missing": "no kernel is configured", "PUT /boot-source before InstanceStart";
    KernelFile "kernel_file": "the kernel's file cannot be opened", "check kernel_image_path, as this process sees it";
    KernelInvalid "kernel_invalid": "the kernel's file is no kernel that boots here, or is damaged", "point kernel_image_path at a 64-bit ELF vmlinux or a bzImage";
    KernelDoesNotFit "kernel_does_not_fit": "the kernel does not fit the guest's memory", "raise mem_size_mib";
    InitrdFile "initrd_file": "the initial RAM disk cannot be opened or read", "check initrd_path, as this process sees it";
    InitrdDoesNotFit "initrd_does_not_fit": "the initial RAM disk does not fit the guest's memory", "raise mem_size_mib, or make the initrd smaller";
    BootArgsInvalid "boot_args_invalid": "the kernel command line is too long or has a NUL", "shorten boot_args";
    GuestMemoryTooSmall "guest_memory_too_small": "the tables that every guest gets do not fit its memory", "raise mem_size_mib";
    // The host.
    HostMemoryShort "host_memory_short": "the host has no room for the guest's memory", "ask for less memory, or free some on the host";
    HugePagesShort "huge_pages_short": "the host's pool of huge pages is too small", "raise /proc/sys/vm/nr_hugepages, or set huge_pages to None";
    KvmMissing "kvm_missing": "the host has no /dev/kvm", "load the kvm_intel or kvm_amd module, or turn on virtualization";
    KvmPermission "kvm_permission": "this process may not open /dev/kvm", "add its user to the group that `ls -l /dev/kvm` shows";
    KvmTooOld "kvm_too_old": "the host's KVM lacks something that is needed", "use a newer host kernel";
    KvmFailed "kvm_failed": "a call to the host's KVM failed", "see the host's kernel log, and use a newer host kernel if it is old";
    HostLimit "host_limit": "the host gives no thread, event or descriptor", "raise the limits of the process (`ulimit -n`, `ulimit -u`, its cgroup)";
    HostRandom "host_random": "the host gives no random numbers", "see why getrandom(2) fails on the host";
    InternalError "internal_error": "something that should not happen", "report this with the log";
    // Devices in general.
    TooManyDevices "too_many_devices": "there is no place left for a device", "remove a device, or start with --enable-pci";
    DeviceIdInUse "device_id_in_use": "another device has the id", "choose another id, or DELETE the device that has it";
    DeviceNotFound "device_not_found": "no device has the id, or none was configured", "use the id that the device was made with, see GET /vm/config";
    PciDisabled "pci_disabled": "devices come and go only on a PCI bus", "start with --enable-pci";
    RootDeviceExists "root_device_exists": "another device is the guest's root", "make is_root_device (root_device) false";
    RootDeviceFixed "root_device_fixed": "the guest's root neither comes nor goes after the start", "choose the root before InstanceStart";
    UnplugGuestPaused "unplug_guest_paused": "a paused guest cannot let go of the device", "resume it, or send the DELETE with ?force=true";
    UnplugNoAnswer "unplug_no_answer": "the guest did not let go of the device in time", "take it out of use in the guest, or send the DELETE with ?force=true";
    DeviceNotActive "device_not_active": "no driver in the guest runs the device yet", "wait until the guest has booted, and check that its kernel has the driver";
    // Drives.
    DriveBackendInvalid "drive_backend_invalid": "fields of the drive contradict each other or are out of range", "give path_on_host, or socket without the fields of a file";
    DriveFile "drive_file": "the drive's file cannot be used", "check path_on_host, as this process sees it";
    DriveSize "drive_size": "the drive's file is not whole sectors", "run `truncate -s %512` on it";
    DriveOverlay "drive_overlay": "the drive's overlay cannot be used", "see docs/devices/overlay.md";
    IoUringUnavailable "io_uring_unavailable": "the host has no io_uring for this process", "set io_engine to Sync";
    VhostUserFailed "vhost_user_failed": "the drive's back end in another process failed", "see the back end's log";
    VhostUserPrivateMemory "vhost_user_private_memory": "the guest's memory is not shared with other processes", "have a drive with socket at the start";
    DriveNothingToChange "drive_nothing_to_change": "the patch names nothing that this drive can change", "give path_on_host, overlay_path or rate_limiter";
    DriveBackEndDecides "drive_back_end_decides": "a back end in another process decides this itself", "give drive_id alone";
    // Network interfaces.
    MacInUse "mac_in_use": "another interface has the MAC address", "use another guest_mac";
    TapName "tap_name": "host_dev_name is no name that an interface can have", "use 1 to 15 bytes without '/', ':', '%' or spaces";
    TapUnusable "tap_unusable": "the host refused the tap", "check the host's network set-up";
    MtuInvalid "mtu_invalid": "mtu is out of range", "use 68 to 65535";
    QueueCountInvalid "queue_count_invalid": "num_queues is out of range", "use 1 to 32";
    VhostNetUnusable "vhost_net_unusable": "the host's vhost-net cannot be used", "leave backend out";
    VhostNetLimits "vhost_net_limits": "what is asked for does not go with backend Vhost", "leave out the limiters, num_queues or backend";
    // The metadata service.
    MmdsEmpty "mmds_empty": "there is no metadata to change or to read", "PUT /mmds first; a guest that runs needs an interface in /mmds/config besides";
    MmdsTooLarge "mmds_too_large": "the metadata is larger than the store", "make it smaller, or raise --mmds-size-limit";
    MmdsInterfaces "mmds_interfaces": "network_interfaces of /mmds/config is empty, or names an interface that cannot have the service", "PUT /network-interfaces/{id} first, without backend Vhost, and name it";
    MmdsAddress "mmds_address": "ipv4_address is not one that the service can have", "use 169.254.1.0 to 169.254.254.255";
    // Vsock, console, serial, logger, metrics.
    VsockSocket "vsock_socket": "the vsock device's socket cannot be made", "check uds_path, as this process sees it";
    ConsoleFile "console_file": "the console's file cannot be opened", "check output_path, as this process sees it";
    SerialFile "serial_file": "the serial port's file or standard output cannot be used", "check serial_out_path, as this process sees it";
    LoggerFile "logger_file": "the log's target cannot be opened", "check log_path, as this process sees it";
    MetricsFile "metrics_file": "the metrics file cannot be opened", "check metrics_path, as this process sees it";
    MetricsAgain "metrics_again": "there is a metrics file already", "configure it once: --metrics-path, the configuration file or PUT /metrics";
    KeyboardFull "keyboard_full": "the guest does not read its keyboard", "try again once the guest has booted, or use SendPowerButton";
    // Balloon and memory hotplug.
    BalloonTooLarge "balloon_too_large": "amount_mib is more than the guest has", "use a smaller amount_mib";
    BalloonStatisticsOff "balloon_statistics_off": "the balloon has no statistics", "PUT /balloon with stats_polling_interval_s before InstanceStart";
    BalloonStatisticsFixed "balloon_statistics_fixed": "statistics go on or off only before the start", "use an interval above 0 if they are on, 0 if they are off";
    BalloonHintingOff "balloon_hinting_off": "the balloon has no free page hinting", "PUT /balloon with free_page_hinting before InstanceStart";
    HotplugMemorySize "hotplug_memory_size": "sizes of hotplug memory do not go together", "use whole blocks and slots, see docs/devices/mem.md";
    HotplugMemorySharing "hotplug_memory_sharing": "hotplug memory does not go with a drive that has a socket", "leave one of the two out";
    // Persistent memory.
    PmemFile "pmem_file": "the file of a pmem device cannot be used", "check path_on_host: a regular file that is not empty";
    PmemDoesNotFit "pmem_does_not_fit": "the file does not fit the guest's address space", "use a smaller file";
}
