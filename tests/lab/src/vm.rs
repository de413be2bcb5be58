//! One microVM under test: the monitor's process, its socket, and the guest's console.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use api_client::{Client, Response};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Bench;
use crate::console::Console;
use crate::kernel_log;
use crate::process::Process;

/// Boots in about 10 s in an idle lab; on a busy machine the lab's clock may run fast besides.
pub const BOOT: Duration = Duration::from_secs(240);
/// For a command that does not do much, and for ending.
pub const SHORT: Duration = Duration::from_secs(30);
/// For a command that moves many bytes.
pub const LONG: Duration = Duration::from_secs(150);
/// Longer than any request may take, shorter than a test.
const REQUEST: Duration = Duration::from_secs(60);

/// What a stock kernel needs to hear: where to print, how to reset, and that there is no mouse.
const KERNEL_ARGUMENTS: &str =
    "console=ttyS0 reboot=k panic=-1 i8042.noaux i8042.nomux i8042.dumbkbd";

/// A microVM. Dropping it kills the monitor.
pub struct Vm {
    monitor: Child,
    api: Client,
    console: Console,
    images: PathBuf,
    scratch: TempDir,
    log: PathBuf,
}

impl Vm {
    /// Starts the monitor and waits for its socket. Nothing is configured yet.
    pub fn start(bench: &Bench) -> Result<Self> {
        Self::start_with(bench, &[])
    }

    /// The same, with more on the monitor's command line.
    pub fn start_with(bench: &Bench, arguments: &[&str]) -> Result<Self> {
        let scratch = tempfile::tempdir()?;
        let socket = scratch.path().join("api.sock");
        let mut command = Command::new(&bench.monitor);
        command
            .arg("--api-sock")
            .arg(&socket)
            .args(["--id", "lab", "--level", "Debug"]);
        command
            .arg("--log-path")
            .arg(bench.logs.join("monitor.log"))
            .args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut monitor = command
            .spawn()
            .with_context(|| format!("cannot start {}", bench.monitor.display()))?;
        let (Some(input), Some(output)) = (monitor.stdin.take(), monitor.stdout.take()) else {
            bail!("the monitor was started without pipes");
        };
        let console = Console::new(input, output, &bench.logs.join("serial.log"))?;
        let api = connect(&mut monitor, &socket)?;
        Ok(Self {
            monitor,
            api,
            console,
            images: bench.images.clone(),
            scratch,
            log: bench.logs.join("monitor.log"),
        })
    }

    /// Sends a request that must succeed.
    pub fn put(&mut self, path: &str, body: &Value) -> Result<()> {
        println!("PUT {path} {body}");
        let answer = self.api.put(path, Some(body))?;
        ensure!(answer.status == 204, unexpected("PUT", path, &answer));
        Ok(())
    }

    /// Changes something; the request must succeed.
    pub fn patch(&mut self, path: &str, body: &Value) -> Result<()> {
        println!("PATCH {path} {body}");
        let answer = self.api.patch(path, Some(body))?;
        ensure!(
            matches!(answer.status, 200 | 204),
            unexpected("PATCH", path, &answer)
        );
        Ok(())
    }

    /// Removes something that must go.
    pub fn delete(&mut self, path: &str) -> Result<()> {
        println!("DELETE {path}");
        let answer = self.api.delete(path, None)?;
        ensure!(answer.status == 204, unexpected("DELETE", path, &answer));
        Ok(())
    }

    /// Asks for something that must be there.
    pub fn get(&mut self, path: &str) -> Result<Value> {
        let answer = self.api.get(path, None)?;
        ensure!(answer.status == 200, unexpected("GET", path, &answer));
        answer
            .body
            .with_context(|| format!("GET {path} was answered without a body"))
    }

    /// The monitor's process, seen from outside.
    pub fn process(&self) -> Process {
        Process(self.monitor.id())
    }

    /// Sets processors and memory.
    pub fn machine(&mut self, vcpus: u8, memory_mib: u32) -> Result<()> {
        self.put(
            "/machine-config",
            &json!({"vcpu_count": vcpus, "mem_size_mib": memory_mib}),
        )
    }

    /// Takes a kernel image, and the initramfs that leads to the driver.
    pub fn kernel(&mut self, image: &str) -> Result<()> {
        self.kernel_with(image, "")
    }

    /// The same, with more on its command line.
    pub fn kernel_with(&mut self, image: &str, arguments: &str) -> Result<()> {
        let body = json!({
            "kernel_image_path": self.images.join(image),
            "initrd_path": self.images.join("initramfs.cpio"),
            "boot_args": format!("{arguments} {KERNEL_ARGUMENTS}"),
        });
        self.put("/boot-source", &body)
    }

    /// Takes the kernel without an initramfs, with `arguments` on its command line.
    pub fn bare_kernel(&mut self, arguments: &str) -> Result<()> {
        let body = json!({
            "kernel_image_path": self.images.join("vmlinux"),
            "boot_args": format!("{arguments} {KERNEL_ARGUMENTS}"),
        });
        self.put("/boot-source", &body)
    }

    /// A path in a directory that goes away with the microVM.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// A copy of an image that the guest may write.
    pub fn copy_image(&self, image: &str, name: &str) -> Result<PathBuf> {
        let copy = self.scratch(name);
        let from = self.images.join(image);
        std::fs::copy(&from, &copy).with_context(|| format!("cannot copy {}", from.display()))?;
        Ok(copy)
    }

    /// Gives the guest one more disk, last of all, with programs that busybox does not have; see [`Vm::mount_tools`].
    pub fn tools(&mut self) -> Result<()> {
        let drive = json!({
            "drive_id": "tools",
            "path_on_host": self.images.join("tools.ext4"),
            "is_root_device": false,
            "is_read_only": true,
            "serial": "tools",
        });
        self.put("/drives/tools", &drive)
    }

    /// Starts the guest and waits until its driver takes commands.
    pub fn boot(&mut self) -> Result<()> {
        let started = Instant::now();
        self.put("/actions", &json!({"action_type": "InstanceStart"}))?;
        self.console.wait_ready(BOOT)?;
        println!(
            "the guest booted in {:.1} s",
            started.elapsed().as_secs_f64()
        );
        Ok(())
    }

    /// Puts the programs of [`Vm::tools`] where the guest's shell finds them.
    pub fn mount_tools(&mut self) -> Result<()> {
        self.run(
            "disk=$(grep -lx tools /sys/block/vd*/serial) && disk=${disk%/serial} && \
             mount -t ext4 -o ro /dev/${disk##*/} /tools && PATH=$PATH:/usr/bin:/usr/sbin",
        )?;
        Ok(())
    }

    /// Runs a command in the guest that must succeed; returns what it printed.
    pub fn run(&mut self, command: &str) -> Result<String> {
        self.console.run(command, SHORT)
    }

    /// The same, for a command that takes its time.
    pub fn run_long(&mut self, command: &str) -> Result<String> {
        self.console.run(command, LONG)
    }

    /// The guest's console, for what takes longer or may fail.
    pub fn console(&mut self) -> &mut Console {
        &mut self.console
    }

    /// Checks the guest's kernel log, reboots it, and expects the monitor to end as it should.
    pub fn reboot(&mut self) -> Result<()> {
        self.check_kernel_log()?;
        self.console.send("reboot")?;
        self.ends_well()
    }

    /// Fails if the guest's kernel complained about anything.
    pub fn check_kernel_log(&mut self) -> Result<()> {
        let found = self.console.run(kernel_log::SEARCH, SHORT)?;
        let complaints = kernel_log::complaints(&found);
        ensure!(
            complaints.is_empty(),
            "the guest's kernel complains:\n{}",
            complaints.join("\n")
        );
        Ok(())
    }

    /// Waits for the guest to shut down and the monitor to end with exit code 0.
    pub fn ends_well(&mut self) -> Result<()> {
        self.ends_saying("")
    }

    /// The same; its kernel must also say how it ends.
    pub fn ends_saying(&mut self, words: &str) -> Result<()> {
        let last_words = self.console.until_closed(SHORT)?;
        ensure!(
            last_words.contains("guest: shutting down"),
            "the guest ended without shutting down"
        );
        ensure!(
            last_words.contains(words),
            "the guest did not say `{words}` when it ended"
        );
        let status = self.wait()?;
        ensure!(status.code() == Some(0), "the monitor ended with {status}");
        Ok(())
    }

    /// Starts a guest that fails to boot, and waits for the end: the first cause in the monitor's log must be `code`, and
    /// the log have these `words`.
    pub fn ends_explained(&mut self, code: &str, words: &str) -> Result<()> {
        self.put("/actions", &json!({"action_type": "InstanceStart"}))?;
        self.console.until_closed(BOOT)?;
        self.wait()?;
        let log = std::fs::read_to_string(&self.log)?;
        let lines: Vec<_> = log
            .lines()
            .skip_while(|line| !line.contains("Boot diagnosis"))
            .collect();
        let found = lines.join("\n");
        println!("{found}");
        let first = lines.iter().find(|line| line.contains("ause, "));
        ensure!(
            first.is_some_and(|line| line.contains(&format!("ause, {code}: "))),
            "the first cause is not {code}"
        );
        ensure!(
            found.contains(words),
            "the diagnosis does not say `{words}`"
        );
        Ok(())
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + SHORT;
        while Instant::now() < deadline {
            if let Some(status) = self.monitor.try_wait()? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(20));
        }
        bail!("the monitor closed the console and did not end")
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        // Errors mean that it has ended.
        let _ = self.monitor.kill();
        let _ = self.monitor.wait();
    }
}

fn unexpected(method: &str, path: &str, answer: &Response) -> String {
    let Response { status, body, .. } = answer;
    match body {
        Some(body) => format!("{method} {path} was answered {status}: {body}"),
        None => format!("{method} {path} was answered {status}"),
    }
}

fn connect(monitor: &mut Child, socket: &Path) -> Result<Client> {
    let deadline = Instant::now() + SHORT;
    loop {
        match Client::connect(socket) {
            Ok(mut client) => {
                client.set_timeout(Some(REQUEST))?;
                return Ok(client);
            }
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
        if let Some(status) = monitor.try_wait()? {
            bail!("the monitor ended with {status} before its socket was there");
        }
    }
}
