//! The metrics file.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use devices::metrics::{NetMetrics, VhostUserBlockMetrics};
use rustix::fs::{CWD, Mode, mkfifoat};
use serde_json::json;

use super::*;

fn keys(value: &Value) -> Vec<&str> {
    let object = value.as_object().unwrap();
    object.keys().map(String::as_str).collect()
}

#[test]
fn counters_are_told_since_the_last_line_and_the_rest_whole() {
    let fixture = Fixture::with_lines();
    let drive = fixture.drive("a");
    let process = fixture.metrics.process;
    process.signals.sigpipe.increment();
    process.latencies_us.pause_vm.set(7);
    drive.read_count.add(3);
    drive.read_agg.record(Duration::from_micros(9));
    for (count, sum) in [(3, 9), (2, 4), (0, 0)] {
        let line = fixture.flush();
        assert_eq!(line["block_a"]["read_count"], count);
        let agg = json!({ "min_us": if sum == 9 { 9 } else { 4 }, "max_us": 9, "sum_us": sum });
        assert_eq!(line["block_a"]["read_agg"], agg);
        assert_eq!(line["signals"]["sigpipe"], 1);
        assert_eq!(line["latencies_us"]["pause_vm"], 7);
        if count == 3 {
            drive.read_count.add(2);
            drive.read_agg.record(Duration::from_micros(4));
        }
    }
}

#[test]
fn what_is_too_short_to_see_adds_up_over_lines() {
    let fixture = Fixture::with_lines();
    let drive = fixture.drive("a");
    let mut sum_us = 0;
    for _ in 0..10 {
        drive.write_agg.record(Duration::from_nanos(350));
        let line = fixture.flush();
        sum_us += line["block"]["write_agg"]["sum_us"].as_u64().unwrap();
    }
    assert_eq!(sum_us, 3);
}

#[test]
fn all_drives_together_are_what_each_is_and_what_removed_ones_were() {
    let fixture = Fixture::with_lines();
    let (a, b) = (fixture.drive("a"), fixture.drive("b"));
    a.write_bytes.add(5);
    b.write_bytes.add(7);
    a.read_agg.record(Duration::from_micros(2));
    b.read_agg.record(Duration::from_micros(6));
    let line = fixture.flush();
    assert_eq!(line["block"]["write_bytes"], 12);
    let agg = json!({ "min_us": 2, "max_us": 6, "sum_us": 8 });
    assert_eq!(line["block"]["read_agg"], agg);

    a.write_bytes.add(100);
    let removed: Arc<dyn Group> = a.clone();
    fixture.metrics.remove(&removed);
    a.write_bytes.add(1000);
    b.write_bytes.add(1);
    let line = fixture.flush();
    assert!(line.get("block_a").is_none());
    assert_eq!(line["block_b"]["write_bytes"], 1);
    assert_eq!(line["block"]["write_bytes"], 101);
    assert_eq!(line["block"]["read_agg"]["min_us"], 2);

    // Another of that name starts anew.
    fixture.drive("a").write_bytes.add(4);
    let line = fixture.flush();
    assert_eq!(line["block_a"]["write_bytes"], 4);
    assert_eq!(line["block"]["write_bytes"], 4);
    assert_eq!(fixture.flush()["block"]["write_bytes"], 0);
}

#[test]
fn groups_of_devices_stand_before_the_one_of_all() {
    let fixture = Fixture::with_lines();
    fixture.drive("rootfs");
    let (nic, back_end) = (NetMetrics::new(), VhostUserBlockMetrics::new());
    fixture.metrics.add("eth0", Arc::new(nic));
    fixture.metrics.add("far", Arc::new(back_end));
    let line = fixture.flush();
    let keys = keys(&line);
    let place = |key| keys.iter().position(|other| *other == key);
    assert_eq!(place("block_rootfs").map(|i| i + 1), place("block"));
    assert_eq!(place("net_eth0").map(|i| i + 1), place("net"));
    assert_eq!(
        place("vhost_user_block_far").map(|i| i + 1),
        place("interrupts")
    );
    assert_eq!(place("vhost_user_block"), None);
}

#[test]
fn any_name_is_told_as_json_and_any_number_fits() {
    let fixture = Fixture::with_lines();
    let name = "\"\\\n\u{1}ü".repeat(300);
    let drive = fixture.drive(&name);
    let most = u64::MAX;
    for counter in [&drive.read_bytes, &drive.write_bytes, &drive.flush_count] {
        counter.add(most);
    }
    drive.read_agg.record(Duration::from_nanos(most - 1));
    let line = fixture.flush();
    assert_eq!(line[format!("block_{name}")]["read_bytes"], most);
    assert_eq!(line["block"]["read_agg"]["max_us"], (most - 1) / 1000);
}

#[test]
fn a_line_begins_with_the_time_and_what_was_asked_for() {
    let fixture = Fixture::new();
    let config = json!({
        "metrics_path": fixture.path(), "emit_id": true,
        "properties": { "zone": "a\"b", "cell": "" }, "unknown": 1,
    });
    let config = serde_json::from_value(config).unwrap();
    let id = "some-vm".parse().unwrap();
    fixture.metrics.configure(&config, &id).unwrap();
    let line = fixture.flush();
    let first = ["utc_timestamp_ms", "id", "properties", "api_server"];
    assert_eq!(keys(&line)[..4], first);
    assert_eq!(line["id"], "some-vm");
    assert_eq!(line["properties"], json!({ "cell": "", "zone": "a\"b" }));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let told_ms = u128::from(line["utc_timestamp_ms"].as_u64().unwrap());
    assert!(now.as_millis().abs_diff(told_ms) < 60_000);
}

#[test]
fn a_file_is_configured_once_and_a_refusal_changes_nothing() {
    let fixture = Fixture::new();
    let refused = fixture.configure(Path::new("/no/such")).unwrap_err();
    let text = refused.to_string();
    assert!(text.starts_with("Cannot initialize the metrics system due to bad user input: "));
    assert!(!fixture.metrics.is_configured());
    fixture.metrics.flush();
    fixture.configure(&fixture.path()).unwrap();
    assert_eq!(
        fixture.configure(&fixture.path()).unwrap_err().to_string(),
        "Cannot initialize the metrics system due to bad user input: Reinitialization of metrics not allowed."
    );
}

#[test]
fn lines_go_where_the_writer_stands_and_the_file_is_not_cut() {
    let fixture = Fixture::new();
    std::fs::write(fixture.path(), vec![b'x'; 1 << 20]).unwrap();
    fixture.configure(&fixture.path()).unwrap();
    fixture.metrics.flush();
    fixture.metrics.flush();
    let text = std::fs::read_to_string(fixture.path()).unwrap();
    assert_eq!(text.len(), 1 << 20);
    assert_eq!(text.lines().count(), 3);
    assert!(text.starts_with("{\"utc_timestamp_ms\":"));
}

#[test]
fn what_a_full_disk_does_not_take_is_counted_and_not_lost() {
    let fixture = Fixture::new();
    fixture.configure(Path::new("/dev/full")).unwrap();
    let drive = fixture.drive("a");
    drive.flush_count.add(2);
    fixture.metrics.flush();
    fixture.metrics.flush();
    let missed = &fixture.metrics.process.logger.missed_metrics_count;
    assert_eq!(missed.get(), 2);
    // Room again.
    let mut state = fixture.metrics.state.lock().unwrap();
    state.output.as_mut().unwrap().sink = Sink::open(&fixture.path()).unwrap();
    drop(state);
    let line = fixture.flush();
    assert_eq!(line["block"]["flush_count"], 2);
    assert_eq!(line["logger"]["missed_metrics_count"], 2);
}

fn reader(path: &Path) -> File {
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_NONBLOCK);
    options.open(path).unwrap()
}

/// What is in it now.
fn drain(reader: &mut File) -> String {
    let mut bytes = Vec::new();
    // The end is that there is no more for now.
    let _ = reader.read_to_end(&mut bytes);
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_fifo_without_a_reader_keeps_lines_and_a_full_one_never_holds_up() {
    let fixture = Fixture::new();
    mkfifoat(CWD, fixture.path(), Mode::RUSR | Mode::WUSR).unwrap();
    fixture.configure(&fixture.path()).unwrap();
    let drive = fixture.drive("a");
    let missed = &fixture.metrics.process.logger.missed_metrics_count;
    let start = Instant::now();
    while missed.get() < 3 {
        drive.flush_count.increment();
        fixture.metrics.flush();
    }
    assert!(start.elapsed() < Duration::from_secs(10));
    // The line that was cut by the full FIFO is finished before the next; nothing is torn, no count is lost.
    let mut reader = reader(&fixture.path());
    let mut text = drain(&mut reader);
    assert!(!text.ends_with('\n'), "a line was cut");
    fixture.metrics.flush();
    text += &drain(&mut reader);
    assert!(text.ends_with('\n'));
    let lines = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let told: u64 = lines
        .map(|line| line["block_a"]["flush_count"].as_u64().unwrap())
        .sum();
    assert_eq!(told, drive.flush_count.get());
}

#[test]
fn the_last_line_waits_for_no_lock() {
    let fixture = Fixture::with_lines();
    fixture.metrics.flush_at_end();
    assert_eq!(fixture.lines().len(), 1);
    let held = fixture.metrics.state.lock().unwrap();
    let start = Instant::now();
    fixture.metrics.flush_at_end();
    assert!(start.elapsed() < Duration::from_secs(5));
    drop(held);
    assert_eq!(fixture.lines().len(), 1);
    assert_eq!(fixture.metrics.process.logger.missed_metrics_count.get(), 1);
}
