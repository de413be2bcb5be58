//! Streams between `socat` in the guest and Unix sockets of the host.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use crate::Bench;
use crate::host;
use crate::process::wait_until;
use crate::vm::{LONG, Vm};

const BIG_MIB: usize = 8;
/// Short connections, one after the other.
const FROM_HOST: usize = 200;
const FROM_GUEST: usize = 40;
/// Ports of the guest and of the host.
const CHECKSUM: u32 = 6000;
const ECHO: u32 = 6001;
const BIG: u32 = 5000;
const COUNT: u32 = 5001;
const MANY: u32 = 5002;

/// Big streams arrive whole, each direction ends on its own, and after hundreds of connections nothing is left.
pub fn vsock_carries_streams(bench: &Bench) -> Result<()> {
    let mut vm = Vm::start(bench)?;
    vm.machine(1, 256)?;
    vm.kernel("vmlinux")?;
    let socket = vm.scratch("v.sock");
    vm.put("/vsock", &json!({"guest_cid": 3, "uds_path": socket}))?;
    vm.tools()?;
    vm.boot()?;
    vm.mount_tools()?;
    vm.run(&format!(
        "socat VSOCK-LISTEN:{CHECKSUM},fork SYSTEM:sha256sum & \
         socat VSOCK-LISTEN:{ECHO},fork,backlog=128 PIPE & sleep 2"
    ))?;
    let before = vm.process().open_files()?;

    from_guest(&mut vm, &socket)?;
    half_close_from_guest(&mut vm, &socket)?;
    from_host(&mut vm, &socket)?;
    many_from_host(&socket)?;
    many_from_guest(&mut vm, &socket)?;
    refusals(&mut vm, &socket)?;

    let process = vm.process();
    let mut after = 0;
    let is_clean = wait_until(Duration::from_secs(20), || {
        after = process.open_files()?;
        Ok(after <= before)
    })?;
    println!("open files of the monitor: {before} before, {after} after");
    ensure!(
        is_clean,
        "the monitor had {before} files open, and has {after}"
    );
    vm.run("kill %1 %2")?;
    vm.reboot()
}

/// The guest sends a big stream.
fn from_guest(vm: &mut Vm, socket: &Path) -> Result<()> {
    vm.run_long(&format!(
        "dd if=/dev/urandom of=/tmp/big bs=1M count={BIG_MIB}"
    ))?;
    let sent = vm.run("sha256sum < /tmp/big")?;
    let received = vm.scratch("received");
    let into = received.clone();
    let receiver = serve(socket, BIG, 1, move |stream| {
        io::copy(stream, &mut File::create(&into)?)?;
        Ok(())
    })?;
    vm.run_long(&format!("socat -u OPEN:/tmp/big VSOCK-CONNECT:2:{BIG}"))?;
    join(receiver)?;
    let arrived = host::sha256(&received)?;
    ensure!(
        sent.starts_with(&arrived),
        "the guest sent {sent}, {arrived} arrived"
    );
    Ok(())
}

/// The guest ends its direction, and still gets an answer.
fn half_close_from_guest(vm: &mut Vm, socket: &Path) -> Result<()> {
    let answerer = serve(socket, COUNT, 1, |stream| {
        let mut text = Vec::new();
        stream.read_to_end(&mut text)?;
        Ok(stream.write_all(format!("{} bytes\n", text.len()).as_bytes())?)
    })?;
    let answer = vm.run(&format!(
        "echo 0123456789 | socat -t 20 - VSOCK-CONNECT:2:{COUNT}"
    ))?;
    join(answerer)?;
    ensure!(
        answer == "11 bytes",
        "the guest got {answer:?} after it ended its direction"
    );
    Ok(())
}

/// The host sends a big stream, ends its direction, and gets the checksum that the guest made of it.
fn from_host(vm: &mut Vm, socket: &Path) -> Result<()> {
    let file = vm.scratch("received");
    let expected = host::sha256(&file)?;
    let mut stream = connect(socket, CHECKSUM)?;
    stream.write_all(&fs::read(&file)?)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(
        answer.starts_with(&expected),
        "sent {expected}, the guest got {answer:?}"
    );
    Ok(())
}

fn many_from_host(socket: &Path) -> Result<()> {
    for number in 0..FROM_HOST {
        let mut stream = connect(socket, ECHO).with_context(|| format!("connection {number}"))?;
        let text = format!("{number}\n");
        stream.write_all(text.as_bytes())?;
        // Every other one is closed by the host while the guest still has it open.
        if number % 2 == 0 {
            stream.shutdown(Shutdown::Write)?;
            let mut echo = String::new();
            stream.read_to_string(&mut echo)?;
            ensure!(echo == text, "sent {text:?}, got {echo:?}");
        } else {
            let mut echo = vec![0; text.len()];
            stream.read_exact(&mut echo)?;
            ensure!(echo == text.as_bytes(), "sent {text:?}, got {echo:?}");
        }
    }
    Ok(())
}

fn many_from_guest(vm: &mut Vm, socket: &Path) -> Result<()> {
    let answerer = serve(socket, MANY, FROM_GUEST, |stream| {
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(stream.write_all(text.as_bytes())?)
    })?;
    let answers = vm.run_long(&format!(
        "for n in $(seq {FROM_GUEST}); do echo $n | socat -t 20 - VSOCK-CONNECT:2:{MANY}; done | sha256sum"
    ))?;
    join(answerer)?;
    let expected = vm.run(&format!("seq {FROM_GUEST} | sha256sum"))?;
    ensure!(
        answers == expected,
        "not all of {FROM_GUEST} connections got their number back"
    );
    Ok(())
}

/// Where nobody listens, both sides are refused at once.
fn refusals(vm: &mut Vm, socket: &Path) -> Result<()> {
    let command = "socat -u OPEN:/dev/null VSOCK-CONNECT:2:5999 2> /dev/null";
    let (_, status) = vm.console().try_run(command, LONG)?;
    ensure!(status != 0, "the guest reached a port without a listener");
    ensure!(
        connect(socket, 6999).is_err(),
        "the host reached a port without a listener"
    );
    Ok(())
}

/// A connection to a port of the guest.
fn connect(socket: &Path, port: u32) -> Result<UnixStream> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(LONG))?;
    stream.set_write_timeout(Some(LONG))?;
    stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
    let mut line = String::new();
    // No byte after the line comes before something is sent, so none stays in the buffer.
    BufReader::new(&stream).read_line(&mut line)?;
    ensure!(
        line.starts_with("OK "),
        "the guest's port {port} answers {line:?}"
    );
    Ok(stream)
}

/// Serves a number of connections from the guest to a port, then closes it.
fn serve(
    socket: &Path,
    port: u32,
    count: usize,
    mut each: impl FnMut(&mut UnixStream) -> Result<()> + Send + 'static,
) -> Result<JoinHandle<Result<()>>> {
    let path = format!("{}_{port}", socket.display());
    let listener = UnixListener::bind(&path)?;
    listener.set_nonblocking(true)?;
    Ok(thread::spawn(move || {
        for _ in 0..count {
            let mut next = None;
            wait_until(LONG, || match listener.accept() {
                Ok((stream, _)) => {
                    next = Some(stream);
                    Ok(true)
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
                Err(error) => Err(error.into()),
            })?;
            let mut stream = next.context("the guest did not connect")?;
            stream.set_nonblocking(false)?;
            stream.set_read_timeout(Some(LONG))?;
            each(&mut stream)?;
        }
        Ok(fs::remove_file(path)?)
    }))
}

fn join(thread: JoinHandle<Result<()>>) -> Result<()> {
    match thread.join() {
        Ok(result) => result,
        Err(_) => bail!("the thread at the other end panicked"),
    }
}
