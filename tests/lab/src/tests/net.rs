//! The network, through a tap.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::Bench;
use crate::host;
use crate::vm::Vm;

const TAP: &str = "lab0";
const MAC: &str = "06:00:ac:10:00:02";
pub(super) const HOST: &str = "172.16.0.1";
const GUEST: &str = "172.16.0.2";

pub(super) const TRANSFER: usize = 100_000_000;
const TRANSFER_LIMIT: Duration = Duration::from_secs(120);

/// Guest and host reach each other.
pub fn pings_the_host(bench: &Bench) -> Result<()> {
    let mut vm = boot_with_network(bench)?;
    let mac = vm.run("cat /sys/class/net/eth0/address")?;
    ensure!(mac == MAC, "the guest's MAC address is {mac}");
    vm.run(&format!("ping -c 3 -W 5 {HOST}"))?;
    host::run("ping", &["-c", "3", "-W", "5", GUEST])?;
    vm.run(&format!("ping -c 2 -W 5 -s 8000 {HOST}"))?;
    vm.reboot()
}

/// 100 MB arrive whole in the guest, and come back whole.
pub fn moves_100_mb_each_way(bench: &Bench) -> Result<()> {
    let mut vm = boot_with_network(bench)?;
    moves_files(&mut vm, |_| Ok(()))?;
    vm.reboot()
}

/// The same; `meanwhile` happens while the guest receives.
pub(super) fn moves_files(
    vm: &mut Vm,
    meanwhile: impl FnOnce(&mut Vm) -> Result<()>,
) -> Result<()> {
    let sent = vm.scratch("sent");
    random_file(&sent)?;
    let checksum = host::sha256(&sent)?;

    let listener = TcpListener::bind((HOST, 0))?;
    let port = listener.local_addr()?.port();
    let started = Instant::now();
    let sender = thread::spawn(move || {
        let mut stream = accept(&listener)?;
        io::copy(&mut File::open(sent)?, &mut stream).context("sending to the guest")
    });
    vm.run(&format!("nc {HOST} {port} < /dev/null > /tmp/file & nc=$!"))?;
    meanwhile(vm)?;
    vm.console().run("wait $nc", TRANSFER_LIMIT)?;
    join(sender)?;
    report("to the guest", started);
    let in_guest = vm.console().run("sha256sum < /tmp/file", TRANSFER_LIMIT)?;
    ensure!(
        in_guest.starts_with(&checksum),
        "sent {checksum}, the guest got {in_guest}"
    );

    // Of the guest's programs `httpd` sends large pieces; `nc` writes 1 KiB at a time.
    vm.run("httpd -p 80 -h /tmp")?;
    let received = vm.scratch("received");
    let started = Instant::now();
    fetch("/file", &received)?;
    report("from the guest", started);
    let back = host::sha256(&received)?;
    ensure!(back == checksum, "sent {checksum}, {back} came back");
    Ok(())
}

/// A guest with an address on a tap whose other end has one too.
fn boot_with_network(bench: &Bench) -> Result<Vm> {
    let mut vm = Vm::start(bench)?;
    vm.machine(1, 512)?;
    vm.kernel("vmlinux")?;
    connect(&mut vm)?;
    vm.boot()?;
    give_address(&mut vm)?;
    Ok(vm)
}

/// Adds a network interface on a tap of the host that is up and has an address.
pub(super) fn connect(vm: &mut Vm) -> Result<()> {
    connect_pairs(vm, 1)
}

/// The same, with this many pairs of queues.
pub(super) fn connect_pairs(vm: &mut Vm, pairs: u8) -> Result<()> {
    connect_with(vm, &json!({ "num_queues": pairs }))
}

/// The same, with `more` about it.
pub(super) fn connect_with(vm: &mut Vm, more: &Value) -> Result<()> {
    let mut interface = json!({ "iface_id": "eth0", "host_dev_name": TAP, "guest_mac": MAC });
    if let (Some(all), Some(more)) = (interface.as_object_mut(), more.as_object()) {
        all.extend(more.clone());
    }
    vm.put("/network-interfaces/eth0", &interface)?;
    host::run("ip", &["addr", "add", &format!("{HOST}/24"), "dev", TAP])?;
    host::run("ip", &["link", "set", TAP, "up"])?;
    Ok(())
}

/// Brings the guest's end up.
pub(super) fn give_address(vm: &mut Vm) -> Result<()> {
    vm.run(&format!(
        "ip addr add {GUEST}/24 dev eth0 && ip link set eth0 up"
    ))?;
    Ok(())
}

/// Copies what the guest's HTTP server answers to `path` into a file.
fn fetch(path: &str, into: &Path) -> Result<()> {
    let stream = TcpStream::connect((GUEST, 80)).context("the guest's httpd")?;
    stream.set_read_timeout(Some(TRANSFER_LIMIT))?;
    (&stream).write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())?;
    let mut answer = BufReader::new(stream);
    let mut line = String::new();
    answer.read_line(&mut line)?;
    ensure!(line.contains(" 200 "), "the guest's httpd answers {line:?}");
    while !line.trim_end().is_empty() {
        line.clear();
        answer.read_line(&mut line)?;
    }
    io::copy(&mut answer, &mut File::create(into)?).context("receiving from the guest")?;
    Ok(())
}

fn random_file(path: &Path) -> Result<()> {
    let mut bytes = vec![0; TRANSFER];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(fs::write(path, bytes)?)
}

/// The guest's connection, or an error if it does not come: a thread cannot be ended otherwise.
fn accept(listener: &TcpListener) -> Result<TcpStream> {
    listener.set_nonblocking(true)?;
    let deadline = Instant::now() + TRANSFER_LIMIT;
    while Instant::now() < deadline {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(10));
            }
            Err(error) => return Err(error.into()),
        }
    }
    bail!("the guest did not connect")
}

fn join(thread: thread::JoinHandle<Result<u64>>) -> Result<()> {
    let Ok(result) = thread.join() else {
        bail!("the thread at the other end panicked")
    };
    let moved = result?;
    ensure!(
        usize::try_from(moved)? == TRANSFER,
        "{moved} bytes instead of {TRANSFER}"
    );
    Ok(())
}

fn report(direction: &str, started: Instant) {
    println!(
        "100 MB {direction} in {:.1} s",
        started.elapsed().as_secs_f64()
    );
}
