//! A debugger at work: the remote serial protocol (GDB manual appendix E), spoken to a guest that runs.

#![cfg(feature = "gdb")]
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a test that cannot go on has failed"
)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use api_client::Client;
use serde_json::{Value, json};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

/// Places in the register packet (GDB `64bit-core.xml`): 16 general registers, then rip.
const RBX: usize = 1;
const RSI: usize = 4;
const RDI: usize = 5;
const R10: usize = 10;
const RIP: usize = 16;

/// How long a guest has to come to a breakpoint that it meets at once.
const SOON: Duration = Duration::from_secs(2);

/// Whether the host is known to stop a vCPU for a breakpoint in ring 3: a processor with virtualization that is none of
/// QEMU's emulator, whose SVM neither intercepts `int3` nor loads a guest's debug registers.
fn must_stop() -> bool {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap();
    let has = |flag: &str| info.split_whitespace().any(|word| word == flag);
    (has("vmx") || has("svm")) && !info.contains("QEMU TCG")
}

/// An address that the test kernel does not map.
const UNMAPPED: u64 = 0x1234_5678_9000;

/// A monitor whose guest waits for a debugger.
struct Debugged {
    folder: TempDir,
    monitor: Child,
    client: Client,
}

impl Debugged {
    fn start(vcpus: u8) -> Self {
        let folder = TempDir::new().unwrap();
        let at = |name: &str| folder.path().join(name);
        let monitor = Command::new(env!("CARGO_BIN_EXE_cloister-vmm"))
            .arg("--api-sock")
            .arg(at("api.sock"))
            .arg("--log-path")
            .arg(at("log"))
            .stdin(Stdio::null())
            .stdout(File::create(at("console")).unwrap())
            .spawn()
            .unwrap();
        let mut client = Client::connect_within(at("api.sock"), PATIENCE).unwrap();
        client.set_timeout(Some(PATIENCE)).unwrap();
        let mut debugged = Self {
            folder,
            monitor,
            client,
        };
        let kernel = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../tests/guest/target/x86_64-unknown-linux-gnu/release/debugged");
        assert!(kernel.exists(), "{kernel:?} is missing; run `make guests`");
        debugged.put("/boot-source", &json!({ "kernel_image_path": kernel }));
        let socket = debugged.folder.path().join("gdb.sock");
        let machine = json!({ "vcpu_count": vcpus, "mem_size_mib": 64, "gdb_socket_path": socket });
        debugged.put("/machine-config", &machine);
        debugged.put("/actions", &json!({ "action_type": "InstanceStart" }));
        debugged
    }

    fn put(&mut self, path: &str, body: &Value) {
        let answer = self.client.put(path, Some(body)).unwrap();
        assert_eq!(answer.status, 204, "{path}: {:?}", answer.body);
    }

    fn set_state(&mut self, state: &str) {
        let answer = self
            .client
            .patch("/vm", Some(&json!({ "state": state })))
            .unwrap();
        assert_eq!(answer.status, 204, "{:?}", answer.body);
    }

    fn console(&self) -> String {
        fs::read_to_string(self.folder.path().join("console")).unwrap()
    }

    fn wait_for(&self, text: &str) {
        let start = Instant::now();
        while !self.console().contains(text) {
            assert!(
                start.elapsed() < PATIENCE,
                "no {text:?} in {}",
                self.console()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The number that the guest printed.
    fn printed(&self, key: &str) -> u64 {
        let console = self.console();
        let value = console
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{key}=")));
        u64::from_str_radix(value.unwrap().trim_start_matches("0x"), 16).unwrap()
    }

    fn debugger(&self) -> Debugger {
        let stream = UnixStream::connect(self.folder.path().join("gdb.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Debugger(stream)
    }

    /// The exit code, when it has ended.
    fn ends(&mut self) -> Option<i32> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(status) = self.monitor.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("it goes on: {}", self.console());
    }
}

impl Drop for Debugged {
    fn drop(&mut self) {
        let _ = self.monitor.kill();
        let _ = self.monitor.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            println!("console:\n{}\nlog:\n{log}", self.console());
        }
    }
}

/// The debugger's end of the protocol.
struct Debugger(UnixStream);

impl Debugger {
    fn byte(&mut self) -> u8 {
        let mut byte = [0];
        self.0.read_exact(&mut byte).unwrap();
        byte[0]
    }

    fn send(&mut self, packet: &str) {
        let sum = packet.bytes().fold(0_u8, u8::wrapping_add);
        write!(self.0, "${packet}#{sum:02x}").unwrap();
        assert_eq!(self.byte(), b'+', "{packet}");
    }

    fn receive(&mut self) -> String {
        while self.byte() != b'$' {}
        self.rest_of_packet()
    }

    fn rest_of_packet(&mut self) -> String {
        let mut text = Vec::new();
        loop {
            match self.byte() {
                b'#' => break,
                // Run-length encoding: the character before, as often as the next one says.
                b'*' => {
                    let (count, last) = (self.byte() - 29, *text.last().unwrap());
                    text.extend(std::iter::repeat_n(last, count.into()));
                }
                byte => text.push(byte),
            }
        }
        let _sum = [self.byte(), self.byte()];
        // Nobody hears it after a detach.
        let _ = self.0.write_all(b"+");
        String::from_utf8(text).unwrap()
    }

    fn ask(&mut self, packet: &str) -> String {
        self.send(packet);
        self.receive()
    }

    fn registers(&mut self) -> Vec<u64> {
        let text = self.ask("g");
        let bytes: Vec<u8> = (0..text.len() / 2)
            .map(|index| u8::from_str_radix(&text[2 * index..2 * index + 2], 16).unwrap())
            .collect();
        let words = bytes.chunks_exact(8).take(17);
        words
            .map(|word| u64::from_le_bytes(word.try_into().unwrap()))
            .collect()
    }

    fn set_register(&mut self, number: usize, value: u64) {
        let mut all = self.ask("g");
        let start = number * 16;
        all.replace_range(start..start + 16, &format!("{:016x}", value.swap_bytes()));
        assert_eq!(self.ask(&format!("G{all}")), "OK");
    }

    fn read_u64(&mut self, at: u64) -> u64 {
        let text = self.ask(&format!("m{at:x},8"));
        let value = u64::from_str_radix(&text, 16).unwrap_or_else(|_| panic!("{text}"));
        value.swap_bytes()
    }

    fn write_u64(&mut self, at: u64, value: u64) {
        let text = format!("M{at:x},8:{:016x}", value.swap_bytes());
        assert_eq!(self.ask(&text), "OK");
    }

    /// Lets the guest go on, and gives why it stopped.
    fn goes_on(&mut self) -> String {
        self.ask("vCont;c")
    }

    /// The same for a guest that meets a `trap` in ring 3 at once. `None` where KVM is known to pass over it: whoever asks
    /// then checks what happens instead.
    fn comes_to(&mut self, trap: &str) -> Option<String> {
        self.send("vCont;c");
        self.0.set_read_timeout(Some(SOON)).unwrap();
        let mut first = [0];
        let heard = self.0.read(&mut first);
        self.0.set_read_timeout(Some(PATIENCE)).unwrap();
        if matches!(heard, Ok(1)) {
            assert_eq!(first, *b"$");
            return Some(self.rest_of_packet());
        }
        assert!(!must_stop(), "{trap} did not stop the guest");
        println!(
            "NOT VERIFIED: that {trap} stops a guest in ring 3; this host's KVM passes over it"
        );
        None
    }

    /// Lets the guest run until there is more than `least` at `place`; it stands still then.
    fn sees_more_than(&mut self, least: u64, place: u64) {
        let start = Instant::now();
        while self.read_u64(place) <= least {
            assert!(start.elapsed() < PATIENCE, "it does not count");
            self.send("vCont;c");
            std::thread::sleep(Duration::from_millis(5));
            self.interrupt();
        }
    }

    fn interrupt(&mut self) -> String {
        self.0.write_all(&[3]).unwrap();
        self.receive()
    }
}

/// A guest that counts, interrupted; with the debugger.
fn counting(vcpus: u8) -> (Debugged, Debugger) {
    let debugged = Debugged::start(vcpus);
    let mut debugger = debugged.debugger();
    debugger.ask("qSupported:multiprocess+;swbreak+;hwbreak+;vContSupported+");
    debugger.ask("?");
    debugger.send("vCont;c");
    debugged.wait_for("counting");
    let stop = debugger.interrupt();
    assert!(stop.starts_with("T02") || stop.starts_with("S02"), "{stop}");
    debugger.sees_more_than(0, debugged.printed("count"));
    (debugged, debugger)
}

#[test]
fn the_guest_waits_at_its_first_instruction() {
    let mut debugged = Debugged::start(1);
    let mut debugger = debugged.debugger();
    debugger.ask("?");
    let before = debugger.registers();
    // PVH: the start info's address is in rbx.
    assert_eq!(before[RBX], 0x6000);
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(debugger.registers()[RIP], before[RIP]);
    assert_eq!(debugged.console(), "");
    // The API goes on.
    debugged.set_state("Paused");
    debugged.set_state("Resumed");
    assert_eq!(debugger.registers()[RIP], before[RIP]);
    // Nobody is left to answer.
    debugger.0.write_all(b"$k#6b").unwrap();
    assert_eq!(debugged.ends(), Some(0));
}

#[test]
fn memory_is_read_and_written_and_the_guest_sees_it() {
    let (mut debugged, mut debugger) = counting(1);
    let count = debugged.printed("count");
    let counted = debugger.read_u64(count);
    assert!(counted > 0);
    assert_eq!(debugger.read_u64(count), counted, "it stands still");
    assert!(debugger.ask("mfffffffffffffff0,8").starts_with('E'));
    debugger.write_u64(debugged.printed("enough"), 1);
    debugger.send("D");
    assert_eq!(debugger.receive(), "OK");
    assert_eq!(debugged.ends(), Some(0));
    debugged.wait_for("last=");
}

#[test]
fn a_breakpoint_in_the_code_stops_each_time_and_does_not_show() {
    let (debugged, mut debugger) = counting(1);
    let (tick, count) = (debugged.printed("tick"), debugged.printed("count"));
    let code = debugger.ask(&format!("m{tick:x},4"));
    assert_eq!(debugger.ask(&format!("Z0,{tick:x},1")), "OK");
    assert_eq!(debugger.ask(&format!("m{tick:x},4")), code);
    // Where the guest's own handler of `int3` goes.
    debugger.set_register(R10, UNMAPPED);
    let Some(stop) = debugger.comes_to("a breakpoint in the code") else {
        debugged.wait_for(&format!("{UNMAPPED:#x}"));
        return;
    };
    assert!(
        stop.starts_with("T05") && stop.contains("swbreak"),
        "{stop}"
    );
    let registers = debugger.registers();
    assert_eq!(registers[RIP], tick);
    let counted = debugger.read_u64(count);
    assert_eq!(registers[RDI], counted);
    // Over it, as debuggers do: without it one step, then again with it.
    assert_eq!(debugger.ask(&format!("z0,{tick:x},1")), "OK");
    debugger.ask("vCont;s:p1.1");
    assert_ne!(debugger.registers()[RIP], tick);
    assert_eq!(debugger.ask(&format!("Z0,{tick:x},1")), "OK");
    debugger.goes_on();
    assert_eq!(debugger.registers()[RIP], tick);
    assert_eq!(debugger.read_u64(count), counted + 1);
}

#[test]
fn a_step_is_one_instruction() {
    let debugged = Debugged::start(1);
    let mut debugger = debugged.debugger();
    debugger.ask("qSupported:multiprocess+;swbreak+;hwbreak+;vContSupported+");
    debugger.ask("?");
    for _ in 0..5 {
        let before = debugger.registers()[RIP];
        let stop = debugger.ask("vCont;s:p1.1");
        assert!(stop.starts_with("T05"), "{stop}");
        assert_ne!(debugger.registers()[RIP], before);
    }
}

#[test]
fn a_breakpoint_in_the_processor_stops_in_ring_0() {
    let mut places = Vec::new();
    {
        let debugged = Debugged::start(1);
        let mut debugger = debugged.debugger();
        debugger.ask("?");
        for _ in 0..6 {
            debugger.ask("vCont;s:p1.1");
            places.push(debugger.registers()[RIP]);
        }
    }
    let debugged = Debugged::start(1);
    let mut debugger = debugged.debugger();
    debugger.ask("qSupported:multiprocess+;swbreak+;hwbreak+;vContSupported+");
    debugger.ask("?");
    // One before the guest comes to it, all four at once, and the first one that it meets.
    for place in [places[5], places[3], places[4], places[2]] {
        assert_eq!(debugger.ask(&format!("Z1,{place:x},1")), "OK");
    }
    let stop = debugger.goes_on();
    assert!(
        stop.starts_with("T05") && stop.contains("hwbreak"),
        "{stop}"
    );
    assert_eq!(debugger.registers()[RIP], places[2]);
    for place in &places[2..5] {
        assert_eq!(debugger.ask(&format!("z1,{place:x},1")), "OK");
    }
    let stop = debugger.goes_on();
    assert!(stop.contains("hwbreak"), "{stop}");
    assert_eq!(debugger.registers()[RIP], places[5]);
    assert_eq!(debugged.console(), "");
}

#[test]
fn a_breakpoint_in_the_processor_stops() {
    let (debugged, mut debugger) = counting(1);
    let tick = debugged.printed("tick");
    assert_eq!(debugger.ask(&format!("Z1,{tick:x},1")), "OK");
    let count = debugged.printed("count");
    let before = debugger.read_u64(count);
    if let Some(stop) = debugger.comes_to("a breakpoint in the processor") {
        assert!(
            stop.starts_with("T05") && stop.contains("hwbreak"),
            "{stop}"
        );
        assert_eq!(debugger.registers()[RIP], tick);
    } else {
        debugger.interrupt();
        assert!(debugger.read_u64(count) > before, "it runs on");
    }
    assert_eq!(debugger.ask(&format!("z1,{tick:x},1")), "OK");
    assert!(debugger.ask(&format!("z1,{tick:x},1")).starts_with('E'));
    // There are four.
    for offset in 0..4 {
        assert_eq!(
            debugger.ask(&format!("Z1,{:x},1", tick + 0x100 + offset)),
            "OK"
        );
    }
    assert!(
        debugger
            .ask(&format!("Z1,{:x},1", tick + 0x200))
            .starts_with('E')
    );
}

#[test]
fn a_watched_place_stops_who_writes_it() {
    let (debugged, mut debugger) = counting(1);
    let count = debugged.printed("count");
    let before = debugger.read_u64(count);
    assert_eq!(debugger.ask(&format!("Z2,{count:x},8")), "OK");
    let Some(stop) = debugger.comes_to("a watchpoint") else {
        debugger.interrupt();
        assert!(debugger.read_u64(count) > before, "it runs on");
        return;
    };
    assert!(
        stop.starts_with("T05") && stop.contains(&format!("watch:{count:x}")),
        "{stop}"
    );
    let after = debugger.read_u64(count);
    assert!(after == before || after == before + 1, "{before} {after}");
}

#[test]
fn every_vcpu_is_a_thread_and_stops_with_the_others() {
    let (debugged, mut debugger) = counting(2);
    assert_eq!(debugger.ask("qfThreadInfo"), "mp01.01,p01.02");
    assert_eq!(debugger.ask("qsThreadInfo"), "l");
    let other = debugged.printed("other_count");
    let counted = debugger.read_u64(other);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(debugger.read_u64(other), counted);
    assert_eq!(debugger.ask("Hgp1.2"), "OK");
    let second = debugger.registers();
    assert_eq!(debugger.ask("Hgp1.1"), "OK");
    assert_ne!(
        debugger.registers()[7],
        second[7],
        "each has a stack of its own"
    );
}

#[test]
fn registers_that_are_set_are_read_back() {
    let (_debugged, mut debugger) = counting(1);
    debugger.set_register(RDI, 0x1122_3344_5566_7788);
    assert_eq!(debugger.registers()[RDI], 0x1122_3344_5566_7788);
}

#[test]
fn the_guest_goes_on_with_registers_that_were_set() {
    let debugged = Debugged::start(1);
    let mut debugger = debugged.debugger();
    debugger.ask("?");
    let entry = debugger.registers()[RIP];
    debugger.ask("vCont;s:p1.1");
    let second = debugger.registers()[RIP];
    debugger.set_register(RIP, entry);
    debugger.ask("vCont;s:p1.1");
    assert_eq!(debugger.registers()[RIP], second);
    // The test kernel's entry hands rbx on in rsi.
    debugger.set_register(RBX, 0x1122_3344);
    let was_handed_on = (0..30).any(|_| {
        debugger.ask("vCont;s:p1.1");
        debugger.registers()[RSI] == 0x1122_3344
    });
    assert!(was_handed_on);
}

#[test]
fn a_debugger_that_goes_away_leaves_a_guest_that_runs() {
    let (mut debugged, mut debugger) = counting(1);
    let tick = debugged.printed("tick");
    assert_eq!(debugger.ask(&format!("Z0,{tick:x},1")), "OK");
    drop(debugger);
    let mut second = debugged.debugger();
    second.ask("?");
    let count = debugged.printed("count");
    let counted = second.read_u64(count);
    second.sees_more_than(counted, count);
    // Nonsense is the debugger's own harm.
    second.0.write_all(b"$zzz#00$m,#11garbage\x03\x03").unwrap();
    drop(second);
    let mut third = debugged.debugger();
    third.ask("?");
    third.write_u64(debugged.printed("enough"), 1);
    third.send("vCont;c");
    assert_eq!(debugged.ends(), Some(0));
}

#[test]
fn a_socket_that_cannot_be_made_fails_the_start_which_can_be_repeated() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut monitor = Command::new(env!("CARGO_BIN_EXE_cloister-vmm"))
        .arg("--api-sock")
        .arg(at("api.sock"))
        .arg("--log-path")
        .arg(at("log"))
        .spawn()
        .unwrap();
    let mut client = Client::connect_within(at("api.sock"), PATIENCE).unwrap();
    let mut ask = |path: &str, body: Value| client.put(path, Some(&body)).unwrap();
    let kernel = at("kernel");
    fs::write(&kernel, "no kernel").unwrap();
    ask("/boot-source", json!({ "kernel_image_path": kernel }));
    let machine =
        |socket: &Path| json!({ "vcpu_count": 1, "mem_size_mib": 64, "gdb_socket_path": socket });
    let start = json!({ "action_type": "InstanceStart" });
    ask("/machine-config", machine(Path::new("/nonexistent/gdb")));
    let refused = ask("/actions", start.clone()).body.unwrap().to_string();
    assert!(
        refused.contains("cannot listen for a debugger at"),
        "{refused}"
    );
    ask("/machine-config", machine(&at("gdb.sock")));
    for _ in 0..2 {
        let refused = ask("/actions", start.clone()).body.unwrap().to_string();
        assert!(refused.contains("invalid kernel image"), "{refused}");
        assert!(!at("gdb.sock").exists());
    }
    monitor.kill().unwrap();
    monitor.wait().unwrap();
}
