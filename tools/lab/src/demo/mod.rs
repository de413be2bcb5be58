//! `lab demo`: one microVM from the first request to its end, and what it cost.
//!
//! ```text
//! needs      what the machine must have, asked before anything is started
//! machine    the monitor's process, its socket and the guest's console
//! console    the guest's lines, with the time each came
//! network    the host's end of the tap; pings and datagrams
//! figures    start-up times and memory
//! ```
//!
//! Every number shown was measured a moment before. The first thing that is not as it should be ends it.

mod console;
mod figures;
mod machine;
mod needs;
mod network;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::leftovers::Leftovers;
use crate::screen::{Screen, time};
use figures::{Memory, StartUp};
use machine::Machine;
use network::Network;

/// The guest's memory, MiB.
const MEMORY_MIB: u64 = 128;
/// The guest's disk, bytes.
const DISK_BYTES: u64 = 16 << 20;
/// Datagrams sent one after another.
const DATAGRAMS: usize = 500;
const PINGS: u16 = 20;
/// How long a paused guest is given to answer, which it must not do.
const SILENCE: Duration = Duration::from_millis(300);

/// What is shown, and where.
pub struct Demo<'a> {
    /// The monitor.
    pub monitor: &'a Path,
    /// The directory of the test kernels.
    pub guests: PathBuf,
    /// What must be gone in the end.
    pub leftovers: &'a Leftovers,
    /// Where it is shown.
    pub screen: &'a mut Screen,
}

impl Demo<'_> {
    /// Shows a test kernel at work.
    ///
    /// # Errors
    /// When the machine lacks something, or anything is not as it should be.
    pub fn run(mut self) -> Result<()> {
        needs::check()?;
        let kernel = self.kernel("demo")?;
        let first_byte = self.kernel("first_byte")?;
        let log = self.leftovers.path("log");
        let memory = self
            .one_machine(&kernel)
            .with_context(|| last_words(&log))?;
        self.figures(&first_byte, &memory)
    }

    fn one_machine(&mut self, kernel: &Path) -> Result<Memory> {
        self.screen.heading("Start the monitor");
        let mut machine = Machine::start(self.monitor, self.leftovers, self.screen)?;

        self.screen.heading("Describe a machine");
        let network = Network::new();
        let disk = self.leftovers.path("disk.img");
        self.describe(&mut machine, kernel, &disk, &network)?;

        self.screen.heading("Start it");
        self.start(&mut machine)?;

        self.screen.heading("Its disk");
        self.check_disk(&mut machine, &disk)?;

        self.screen.heading("Its network");
        machine.until_guest_says(self.screen, "net: ")?;
        self.use_network(&network)?;

        self.screen.heading("Pause and resume");
        self.pause_and_resume(&mut machine, &network)?;
        let memory = Memory::beyond_guest(machine.pid(), MEMORY_MIB)?;

        self.screen.heading("End");
        self.screen
            .note("a datagram `quit` lets the guest end: it resets the machine");
        network.connect()?.send(b"quit")?;
        machine.until_guest_says(self.screen, "PASS")?;
        self.end(machine, &network)?;
        Ok(memory)
    }

    fn describe(
        &self,
        machine: &mut Machine,
        kernel: &Path,
        disk: &Path,
        network: &Network,
    ) -> Result<()> {
        let screen = &*self.screen;
        File::create(disk)
            .and_then(|file| file.set_len(DISK_BYTES))
            .context("cannot create a disk image")?;
        let body = json!({"vcpu_count": 1, "mem_size_mib": MEMORY_MIB});
        machine.put(screen, "/machine-config", &body)?;
        let body =
            json!({"kernel_image_path": kernel, "boot_args": format!("ip={}", network.guest_ip())});
        machine.put(screen, "/boot-source", &body)?;
        let body = json!({
            "drive_id": "disk", "path_on_host": disk, "is_root_device": false, "cache_type": "Writeback",
        });
        machine.put(screen, "/drives/disk", &body)?;
        let body = json!({
            "iface_id": "eth0", "host_dev_name": network.tap(), "guest_mac": network.guest_mac(),
        });
        machine.put(screen, "/network-interfaces/eth0", &body)?;
        screen.note("the monitor made the tap; its address is the host's business:");
        network.up(screen)?;
        machine.get(screen, "/vm/config")?;
        Ok(())
    }

    fn start(&self, machine: &mut Machine) -> Result<()> {
        machine.expect_state(self.screen, "Not started")?;
        let asked = Instant::now();
        let start = json!({"action_type": "InstanceStart"});
        machine.put(self.screen, "/actions", &start)?;
        let first = machine.until_guest_says(self.screen, "")?;
        self.screen.done(&format!(
            "the guest's first byte came {} after InstanceStart was sent",
            time(first.at.saturating_duration_since(asked))
        ));
        machine.expect_state(self.screen, "Running")
    }

    fn check_disk(&self, machine: &mut Machine, disk: &Path) -> Result<()> {
        let begin = machine.until_guest_says(self.screen, "disk: ")?;
        let end = machine.until_guest_says(self.screen, "disk_fnv1a64=")?;
        let told = end.value("disk_fnv1a64")?;
        let bytes = fs::read(disk).context("cannot read the disk image")?;
        let found = fnv1a64(&bytes);
        ensure!(
            told == found,
            "the guest read {told} from its disk, but the file on the host has {found}"
        );
        let bytes = u64::try_from(bytes.len())?;
        ensure!(
            end.value("disk_bytes")? == bytes.to_string(),
            "the guest saw a disk of another size than {bytes} bytes"
        );
        self.screen.done(&format!(
            "written, flushed and read back in {}; the file on the host has the same {} MiB, {found}",
            time(end.at.saturating_duration_since(begin.at)),
            bytes >> 20
        ));
        Ok(())
    }

    fn use_network(&self, network: &Network) -> Result<()> {
        let pings = network.ping(PINGS)?;
        self.screen
            .done(&format!("{PINGS} pings answered; round trip {pings}"));
        let trips = network.echo(DATAGRAMS)?;
        self.screen.done(&format!(
            "{DATAGRAMS} datagrams of 1 to {} bytes came back unchanged; round trip {trips}",
            network::MAX_DATAGRAM
        ));
        Ok(())
    }

    fn pause_and_resume(&self, machine: &mut Machine, network: &Network) -> Result<()> {
        let screen = &*self.screen;
        machine.patch(screen, "/vm", &json!({"state": "Paused"}))?;
        machine.expect_state(screen, "Paused")?;
        let socket = network.connect()?;
        socket.send(b"are you there?")?;
        socket.set_read_timeout(Some(SILENCE))?;
        let mut answer = [0; 64];
        ensure!(
            socket.recv(&mut answer).is_err(),
            "the guest answered while it was paused"
        );
        screen.done(&format!(
            "a datagram to the paused guest: no answer within {}",
            time(SILENCE)
        ));
        let asked = Instant::now();
        machine.patch(screen, "/vm", &json!({"state": "Resumed"}))?;
        socket.set_read_timeout(Some(network::PATIENCE))?;
        let len = socket
            .recv(&mut answer)
            .context("the guest did not answer after it was resumed")?;
        ensure!(
            answer.get(..len) == Some(b"are you there?"),
            "the guest answered something else after it was resumed"
        );
        screen.done(&format!(
            "the same datagram was answered {} after the request to resume",
            time(asked.elapsed())
        ));
        Ok(())
    }

    fn end(&self, machine: Machine, network: &Network) -> Result<()> {
        let socket = machine.socket().to_owned();
        let status = machine.wait()?;
        ensure!(status.code() == Some(0), "the monitor ended with {status}");
        // The kernel takes a tap down in its own time.
        let gone = (0..100).any(|_| {
            let is_gone = !network.exists();
            if !is_gone {
                thread::sleep(Duration::from_millis(10));
            }
            is_gone
        });
        ensure!(gone, "the tap {} is left behind", network.tap());
        ensure!(!socket.exists(), "the socket is left behind");
        self.screen
            .done("the monitor ended with exit code 0; its socket and its tap are gone");
        Ok(())
    }

    fn figures(&mut self, first_byte: &Path, memory: &Memory) -> Result<()> {
        self.screen.heading("Measured on this machine, just now");
        let times = StartUp::measure(self.monitor, first_byte, self.leftovers)?;
        for (name, samples) in [
            ("process start to socket", &times.to_socket),
            ("InstanceStart to first guest byte", &times.start_to_byte),
            ("process start to first guest byte", &times.to_byte),
            ("process start to exit", &times.to_exit),
        ] {
            self.screen
                .figure(name, &time(samples.median()), &samples.spread());
        }
        self.screen.figure(
            "memory beyond the guest's",
            &format!("{} KiB", memory.private_kib),
            &format!(
                "in the run above; {} KiB its own, the rest the program, which monitors share",
                memory.own_kib
            ),
        );
        let program = fs::metadata(self.monitor)?.len() >> 10;
        self.screen
            .figure("the program", &format!("{program} KiB"), "needs no library");
        Ok(())
    }

    fn kernel(&self, name: &str) -> Result<PathBuf> {
        self.guests
            .join(name)
            .canonicalize()
            .with_context(|| format!("the test kernel `{name}` is not built; run `make guests`"))
    }
}

/// The end of the monitor's log, for an error.
fn last_words(log: &Path) -> String {
    let tail = crate::outer::tail(log, 10);
    if tail.is_empty() {
        "the demonstration failed".to_owned()
    } else {
        format!("the demonstration failed; the monitor's log ends with:\n{tail}\n")
    }
}

/// The checksum that test kernels print: FNV-1a, 64 bits, as sixteen hexadecimal digits.
fn fnv1a64(bytes: &[u8]) -> String {
    let sum = bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum: u64, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    format!("{sum:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_fnv1a() {
        assert_eq!(fnv1a64(b"a"), "af63dc4c8601ec8c");
    }
}
