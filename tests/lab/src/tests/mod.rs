//! The tests. To add one: a function in a file here, and its line in [`ALL`].

mod balloon;
mod bench;
mod boot;
mod cpu;
mod diagnosis;
mod disk;
mod drives;
mod everything;
mod fio;
mod hotplug;
mod iperf;
mod memory;
mod metadata;
mod net;
mod pci;
mod power;
mod queues;
mod vhost;
mod vsock;

use anyhow::Result;

use crate::Bench;

/// One test.
pub struct Test {
    /// The function's name.
    pub name: &'static str,
    /// Seconds after which it has failed.
    pub timeout_s: u64,
    /// Fails with an error that explains itself.
    pub run: fn(&Bench) -> Result<()>,
}

/// A test takes its name from its function, so the two cannot differ.
macro_rules! tests {
    ($($module:ident::$name:ident $timeout_s:literal,)*) => {
        /// Every test, those that take longest first.
        pub const ALL: &[Test] = &[
            $(Test { name: stringify!($name), timeout_s: $timeout_s, run: $module::$name },)*
        ];
    };
}

tests! {
    net::moves_100_mb_each_way 300,
    balloon::balloon_takes_and_gives 600,
    vsock::vsock_carries_streams 600,
    iperf::iperf3_moves_streams 400,
    vhost::host_kernel_moves_frames_on_mmio 500,
    vhost::host_kernel_moves_frames_on_pci 500,
    queues::two_cpus_use_two_queues 400,
    drives::disks_shrink_and_change 400,
    everything::all_devices_on_mmio 600,
    everything::all_devices_on_pci 600,
    memory::memory_grows_and_shrinks 400,
    metadata::linux_reads_metadata_with_tokens 300,
    metadata::linux_reads_metadata_as_text_on_pci 300,
    boot::sees_four_cpus 180,
    boot::sees_two_cpus 180,
    cpu::template_hides_flags 400,
    hotplug::devices_come_and_go_by_themselves 240,
    disk::file_system_keeps_a_file 180,
    disk::bare_disk_is_the_image_file 180,
    disk::read_only_disk_stays_as_it_is 180,
    net::pings_the_host 180,
    pci::sees_disk_and_network_on_pci 180,
    pci::two_cpus_share_pci_interrupts 180,
    boot::boots_from_root_disk 180,
    boot::boots_from_bzimage 180,
    boot::boots_from_elf 180,
    boot::sees_one_cpu 180,
    diagnosis::sound_guest_has_no_cause 180,
    diagnosis::wrong_init_is_explained 180,
    diagnosis::tiny_memory_is_explained 180,
    diagnosis::missing_driver_is_explained 180,
    diagnosis::lost_root_is_explained 180,
    power::console_carries_long_lines 180,
    power::ctrl_alt_del_shuts_down 180,
    power::power_button_switches_off 180,
    power::panic_is_told 180,
    power::reboot_ends_the_monitor 180,
    bench::the_bench_is_complete 20,
}
