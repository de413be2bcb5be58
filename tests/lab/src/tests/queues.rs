//! Several queues for several processors.

use anyhow::{Result, ensure};

use super::fio;
use super::iperf::{self, FromHost, ToHost};
use super::net;
use crate::Bench;
use crate::vm::Vm;

/// A guest with two processors is told of two queues of a disk and two pairs of a network interface, and uses them all.
pub fn two_cpus_use_two_queues(bench: &Bench) -> Result<()> {
    let mut vm = Vm::start(bench)?;
    fio::attach(&mut vm, "Async", 2)?;
    let _server = iperf::boot(&mut vm, 2)?;
    let queues = vm.run("ls /sys/block/vda/mq")?;
    ensure!(
        queues.split_whitespace().eq(["0", "1"]),
        "the disk's queues are {queues:?}, not 0 and 1"
    );
    fio::verifies(&mut vm, "Async")?;
    pairs_share_streams(&mut vm)?;
    vm.reboot()
}

fn pairs_share_streams(vm: &mut Vm) -> Result<()> {
    let channels = vm.run("ethtool -l eth0 | sed -n 's/^Combined:[[:space:]]*//p'")?;
    ensure!(
        channels == "2\n2",
        "most and present pairs of queues are {channels:?}, not 2 and 2"
    );
    for direction in [ToHost, FromHost] {
        iperf::moves(vm, 4, direction)?;
    }
    for counter in ["rx_queue_0", "rx_queue_1", "tx_queue_0", "tx_queue_1"] {
        let name = format!("{counter}_packets");
        let count = vm.run(&format!("ethtool -S eth0 | sed -n 's/^ *{name}: //p'"))?;
        println!("{name}: {count}");
        ensure!(
            count.parse::<u64>().is_ok_and(|count| count > 0),
            "{name} is {count:?}"
        );
    }
    // One pair, then two again: the device follows while it runs.
    for pairs in [1, 2] {
        vm.run(&format!("ethtool -L eth0 combined {pairs}"))?;
        vm.run(&format!("ping -c 2 -W 5 {}", net::HOST))?;
    }
    Ok(())
}
