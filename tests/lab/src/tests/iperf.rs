//! `iperf3` between the guest and the host, for many frames at once in both directions.

use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

pub(super) use Direction::{FromHost, ToHost};

use super::net;
use crate::Bench;
use crate::vm::Vm;

const SECONDS: u32 = 2;

/// One stream and four, to the host and from it; figures are told and not judged, for they are the machine's.
pub fn iperf3_moves_streams(bench: &Bench) -> Result<()> {
    let mut vm = Vm::start_with(bench, &["--enable-pci"])?;
    let _server = boot(&mut vm, 1)?;
    for streams in [1, 4] {
        for direction in [ToHost, FromHost] {
            moves(&mut vm, streams, direction)?;
        }
    }
    vm.reboot()
}

/// Where the bytes go.
#[derive(Clone, Copy, Debug)]
pub(super) enum Direction {
    ToHost,
    FromHost,
}

/// Boots a guest with as many processors as it has pairs of queues.
pub(super) fn boot(vm: &mut Vm, pairs: u8) -> Result<Server> {
    vm.machine(pairs, 256)?;
    vm.kernel("vmlinux")?;
    net::connect_pairs(vm, pairs)?;
    vm.tools()?;
    vm.boot()?;
    vm.mount_tools()?;
    net::give_address(vm)?;
    Server::start()
}

/// Lets a number of streams run for a while.
pub(super) fn moves(vm: &mut Vm, streams: usize, direction: Direction) -> Result<()> {
    let reverse = match direction {
        ToHost => "",
        FromHost => "--reverse",
    };
    // The program's own words are many, and each is an exit.
    let said = vm.run_long(&format!(
        "iperf3 -c {} -t {SECONDS} -P {streams} {reverse} -f m > /tmp/iperf.log || \
         {{ tail -n 5 /tmp/iperf.log; false; }}; grep -E 'sender|receiver' /tmp/iperf.log",
        net::HOST
    ))?;
    all_arrive(&said, streams)?;
    let total = said.lines().last().unwrap_or_default();
    println!("{streams} streams, {direction:?}: {total}");
    let errors = vm.run("cat /sys/class/net/eth0/statistics/?x_errors | sort -u")?;
    ensure!(errors == "0", "the guest counts errors: {errors}");
    Ok(())
}

/// Each stream has a line of its receiver, and a rate above nothing.
fn all_arrive(said: &str, streams: usize) -> Result<()> {
    let rates = said
        .lines()
        .filter(|line| line.contains("receiver") && !line.contains("SUM"))
        .map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            let unit = words.iter().position(|word| *word == "Mbits/sec")?;
            words.get(unit.checked_sub(1)?)?.parse::<f64>().ok()
        })
        .collect::<Option<Vec<_>>>()
        .with_context(|| format!("iperf3 says:\n{said}"))?;
    ensure!(
        rates.len() == streams && rates.iter().all(|rate| *rate > 0.0),
        "of {streams} streams these arrive: {rates:?}\n{said}"
    );
    Ok(())
}

/// The end at the host. Dropping it ends it.
pub(super) struct Server(Child);

impl Server {
    pub(super) fn start() -> Result<Self> {
        let mut command = Command::new("/usr/bin/iperf3");
        command.args(["--server", "--bind", net::HOST]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Ok(Self(command.spawn().context("cannot start iperf3")?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Errors mean that it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
