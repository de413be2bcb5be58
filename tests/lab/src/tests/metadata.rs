//! The metadata service, as stock Linux sees it.

use std::io::ErrorKind;
use std::net::TcpListener;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::net::{HOST, connect, give_address};
use crate::Bench;
use crate::host;
use crate::vm::{SHORT, Vm};

const SERVICE: &str = "169.254.169.254";
/// Longer than any window: many segments, and acknowledgements between them.
const LONG: usize = 40_000;
/// More programs at a time than a window has segments, fewer than the service has connections.
const READERS: usize = 20;

/// Version 2 on MMIO: a token, text, JSON, many readers at a time, and data that changes.
pub fn linux_reads_metadata_with_tokens(bench: &Bench) -> Result<()> {
    let mut vm = Vm::start(bench)?;
    boot(&mut vm, &json!({ "version": "V2" }))?;
    // The host has the address too: nothing must reach it.
    let listener = listen_at_the_same_address()?;

    let url = format!("http://{SERVICE}/latest");
    let (said, status) = vm
        .console()
        .try_run(&format!("wget -O - {url}/name"), SHORT)?;
    ensure!(
        status != 0 && said.contains("401"),
        "without a token: {said}"
    );
    vm.run(&format!(
        "TOKEN=$(printf 'PUT /latest/api/token HTTP/1.1\\r\\nX-metadata-token-ttl-seconds: 300\\r\\nConnection: close\\r\\n\\r\\n' | nc {SERVICE} 80 | tail -n 1)"
    ))?;
    let len = vm.run("echo ${#TOKEN}")?;
    ensure!(len == "48", "a token of {len} characters");
    vm.run("get() { wget -q -O - --header \"X-metadata-token: $TOKEN\" \"$@\"; }")?;
    let name = vm.run(&format!("get {url}/name; echo"))?;
    ensure!(name == "lab", "the name is {name:?}");
    let names = vm.run(&format!("get {url}/; echo"))?;
    ensure!(names == "name\ntags/\nuser-data", "the names are {names:?}");
    let json = vm.run(&format!(
        "get --header 'Accept: application/json' {url}/tags; echo"
    ))?;
    ensure!(json == r#"{"n":1,"role":"web"}"#, "the tags are {json}");

    reads_at_the_same_time(&mut vm, &format!("get {url}/user-data"))?;

    vm.patch("/mmds", &json!({ "latest": { "name": "changed" } }))?;
    let name = vm.run(&format!("get {url}/name; echo"))?;
    ensure!(name == "changed", "the name is still {name:?}");
    vm.run(&format!("ping -c 2 -W 5 {HOST}"))?;
    match listener.accept() {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        other => anyhow::bail!("something reached the host: {other:?}"),
    }
    vm.reboot()
}

/// Version 1 on PCI, as other clouds do it: text, whatever is accepted.
pub fn linux_reads_metadata_as_text_on_pci(bench: &Bench) -> Result<()> {
    let mut vm = Vm::start_with(bench, &["--enable-pci"])?;
    boot(&mut vm, &json!({ "version": "V1", "imds_compat": true }))?;
    let url = format!("http://{SERVICE}/latest");
    let tags = vm.run(&format!(
        "wget -q -O - --header 'Accept: application/json' {url}/tags; echo"
    ))?;
    ensure!(tags == "n\nrole", "the tags are {tags:?}");
    let (said, status) = vm
        .console()
        .try_run(&format!("wget -O - {url}/tags/n"), SHORT)?;
    ensure!(
        status != 0 && said.contains("501"),
        "a number as text: {said}"
    );
    reads_at_the_same_time(&mut vm, &format!("wget -q -O - {url}/user-data"))?;
    vm.reboot()
}

/// A guest with a route to the service, configured as `more` says.
fn boot(vm: &mut Vm, more: &Value) -> Result<()> {
    vm.machine(1, 512)?;
    vm.kernel("vmlinux")?;
    connect(vm)?;
    let mut config = json!({ "network_interfaces": ["eth0"] });
    if let (Some(all), Some(more)) = (config.as_object_mut(), more.as_object()) {
        all.extend(more.clone());
    }
    vm.put("/mmds/config", &config)?;
    let user_data = "metadata".repeat(LONG / 8);
    let latest = json!({
        "name": "lab", "tags": { "role": "web", "n": 1 }, "user-data": user_data,
    });
    vm.put("/mmds", &json!({ "latest": latest }))?;
    vm.boot()?;
    give_address(vm)?;
    vm.run(&format!("ip route add {SERVICE} dev eth0"))?;
    Ok(())
}

/// Many programs run `command` at a time, and each gets all of the long node.
fn reads_at_the_same_time(vm: &mut Vm, command: &str) -> Result<()> {
    vm.run_long(&format!(
        "for i in $(seq {READERS}); do {command} > /tmp/read.$i & done; wait"
    ))?;
    let sums = vm.run("cat /tmp/read.* | wc -c; sha256sum < /tmp/read.1; for f in /tmp/read.*; do cmp /tmp/read.1 $f || exit 1; done")?;
    let expected = (LONG * READERS).to_string();
    ensure!(
        sums.lines().next() == Some(&expected),
        "the readers got {sums} bytes together"
    );
    Ok(())
}

fn listen_at_the_same_address() -> Result<TcpListener> {
    host::run(
        "ip",
        &["addr", "add", &format!("{SERVICE}/32"), "dev", "lab0"],
    )?;
    let listener = TcpListener::bind((SERVICE, 80))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
