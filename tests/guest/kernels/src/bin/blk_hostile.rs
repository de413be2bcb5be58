//! Breaks the rules of virtio block in every way a driver can, one at a time.
//!
//! After each the device must give the chain back once and go on, or ask for a reset; after a reset a
//! plain read must work. Words on the command line: with `strict` asking for a reset is not enough
//! where a chain could have been given back; with `lenient` the status it comes back with is not judged.

#![no_std]
#![no_main]

use rt::boot::BootInfo;
use rt::virtio::block::{
    self, Disk, SECTOR_BYTES, STATUS_UNTOUCHED, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK,
    VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
};
use rt::virtio::{Part, Used, descriptor_flags};
use rt::{clock, println};

rt::kernel!(main);

/// What the device must do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    /// Give the chain back with this status.
    Status(u8),
    /// Give the chain back, and not claim success.
    Refusal,
    /// Give the chain back.
    Answer,
    /// Nothing in particular: there is no chain it could give back.
    Survival,
}

/// What it did.
enum Outcome {
    Answered(Used),
    NeedsReset,
    Silent,
}

struct Case {
    name: &'static str,
    expect: Expect,
    break_rule: fn(&mut Disk, &BootInfo),
}

struct Judge {
    accepts_reset: bool,
    accepts_any_status: bool,
}

const SECTOR: u32 = 512;
/// Above all RAM of any test machine.
const OUTSIDE_RAM: u64 = 0x4000_0000_0000;
/// Below 4 GiB, where no RAM and no device of the test machines is.
const GAP: u64 = 0xe000_0000;

const CASES: &[Case] = &[
    // Unusual, and allowed: a device must not count on how parts are cut (virtio 1.2 §2.7.4.1).
    case(
        "header_in_two_parts",
        Expect::Status(VIRTIO_BLK_S_OK),
        |disk, _| {
            let rest = Part::readable(block::header_address(0) + 8, 8);
            chain(
                disk,
                VIRTIO_BLK_T_IN,
                0,
                &[header(8), rest, data_in(SECTOR), status(1)],
            );
        },
    ),
    // The request (§5.2.6).
    case("short_header", Expect::Refusal, |disk, _| {
        chain(
            disk,
            VIRTIO_BLK_T_IN,
            0,
            &[header(8), data_in(SECTOR), status(1)],
        );
    }),
    case("header_only", Expect::Refusal, |disk, _| {
        chain(disk, VIRTIO_BLK_T_IN, 0, &[header(16)]);
    }),
    case("write_without_status", Expect::Refusal, |disk, _| {
        chain(disk, VIRTIO_BLK_T_OUT, 0, &[header(16), data_out(SECTOR)]);
    }),
    case("empty_status", Expect::Refusal, |disk, _| {
        chain(
            disk,
            VIRTIO_BLK_T_IN,
            0,
            &[header(16), data_in(SECTOR), status(0)],
        );
    }),
    case("empty_data", Expect::Answer, |disk, _| {
        chain(
            disk,
            VIRTIO_BLK_T_IN,
            0,
            &[header(16), data_in(0), status(1)],
        );
    }),
    case("empty_header", Expect::Refusal, |disk, _| {
        chain(
            disk,
            VIRTIO_BLK_T_IN,
            0,
            &[header(0), data_in(SECTOR), status(1)],
        );
    }),
    case("writable_header", Expect::Refusal, |disk, _| {
        let header = Part::writable(block::header_address(0), 16);
        chain(
            disk,
            VIRTIO_BLK_T_IN,
            0,
            &[header, data_in(SECTOR), status(1)],
        );
    }),
    case("readable_after_writable", Expect::Answer, |disk, _| {
        let parts = [header(16), data_in(SECTOR), data_out(SECTOR), status(1)];
        chain(disk, VIRTIO_BLK_T_IN, 0, &parts);
    }),
    case("read_into_readable", Expect::Answer, |disk, _| {
        chain(
            disk,
            VIRTIO_BLK_T_IN,
            0,
            &[header(16), data_out(SECTOR), status(1)],
        );
    }),
    case("write_from_writable", Expect::Answer, |disk, _| {
        chain(
            disk,
            VIRTIO_BLK_T_OUT,
            0,
            &[header(16), data_in(SECTOR), status(1)],
        );
    }),
    case("partial_sector", Expect::Refusal, |disk, _| {
        chain(
            disk,
            VIRTIO_BLK_T_IN,
            0,
            &[header(16), data_in(100), status(1)],
        );
    }),
    case("short_id", Expect::Answer, |disk, _| {
        chain(
            disk,
            VIRTIO_BLK_T_GET_ID,
            0,
            &[header(16), data_in(10), status(1)],
        );
    }),
    case(
        "unknown_type",
        Expect::Status(VIRTIO_BLK_S_UNSUPP),
        |disk, _| {
            chain(disk, 0xdead, 0, &[header(16), data_in(SECTOR), status(1)]);
        },
    ),
    case(
        "sector_past_end",
        Expect::Status(VIRTIO_BLK_S_IOERR),
        |disk, _| {
            chain(
                disk,
                VIRTIO_BLK_T_IN,
                disk.capacity,
                &[header(16), data_in(SECTOR), status(1)],
            );
        },
    ),
    case(
        "sectors_across_end",
        Expect::Status(VIRTIO_BLK_S_IOERR),
        |disk, _| {
            let last = disk.capacity - 1;
            chain(
                disk,
                VIRTIO_BLK_T_IN,
                last,
                &[header(16), data_in(2 * SECTOR), status(1)],
            );
        },
    ),
    case(
        "sector_overflow",
        Expect::Status(VIRTIO_BLK_S_IOERR),
        |disk, _| {
            chain(
                disk,
                VIRTIO_BLK_T_IN,
                u64::MAX,
                &[header(16), data_in(SECTOR), status(1)],
            );
        },
    ),
    case(
        "byte_offset_overflow",
        Expect::Status(VIRTIO_BLK_S_IOERR),
        |disk, _| {
            chain(
                disk,
                VIRTIO_BLK_T_IN,
                1 << 55,
                &[header(16), data_in(SECTOR), status(1)],
            );
        },
    ),
    // Addresses (§2.7.5).
    case("header_outside_ram", Expect::Refusal, |disk, _| {
        let header = Part::readable(OUTSIDE_RAM, 16);
        chain(
            disk,
            VIRTIO_BLK_T_IN,
            0,
            &[header, data_in(SECTOR), status(1)],
        );
    }),
    case("data_outside_ram", Expect::Refusal, |disk, _| {
        let data = Part::writable(OUTSIDE_RAM, SECTOR);
        chain(disk, VIRTIO_BLK_T_IN, 0, &[header(16), data, status(1)]);
    }),
    case("data_in_gap", Expect::Refusal, |disk, _| {
        chain(
            disk,
            VIRTIO_BLK_T_OUT,
            0,
            &[header(16), Part::readable(GAP, SECTOR), status(1)],
        );
    }),
    case("data_wraps_around", Expect::Refusal, |disk, _| {
        let data = Part::writable(u64::MAX - 255, SECTOR);
        chain(disk, VIRTIO_BLK_T_IN, 0, &[header(16), data, status(1)]);
    }),
    case("data_across_end_of_ram", Expect::Refusal, |disk, boot| {
        let end = boot.ram().map(|region| region.end).max().unwrap_or(0);
        let data = Part::writable(end - 256, SECTOR);
        chain(disk, VIRTIO_BLK_T_IN, 0, &[header(16), data, status(1)]);
    }),
    case("huge_data", Expect::Refusal, |disk, _| {
        chain(
            disk,
            VIRTIO_BLK_T_IN,
            0,
            &[header(16), data_in(u32::MAX - 511), status(1)],
        );
    }),
    case("status_outside_ram", Expect::Answer, |disk, _| {
        let status = Part::writable(OUTSIDE_RAM, 1);
        chain(
            disk,
            VIRTIO_BLK_T_IN,
            0,
            &[header(16), data_in(SECTOR), status],
        );
    }),
    // The descriptor table (§2.7.5).
    case("loop_of_one", Expect::Refusal, |disk, _| {
        block::write_header(0, VIRTIO_BLK_T_IN, 0);
        disk.queue
            .write_descriptor(0, header(16), descriptor_flags::NEXT, 0);
        disk.queue.publish(0);
    }),
    case("loop_of_two", Expect::Refusal, |disk, _| {
        let flags = descriptor_flags::NEXT | descriptor_flags::WRITE;
        block::write_header(0, VIRTIO_BLK_T_IN, 0);
        disk.queue
            .write_descriptor(0, header(16), descriptor_flags::NEXT, 1);
        disk.queue.write_descriptor(1, data_in(SECTOR), flags, 2);
        disk.queue.write_descriptor(2, data_in(SECTOR), flags, 1);
        disk.queue.publish(0);
    }),
    case("next_past_table", Expect::Refusal, |disk, _| {
        block::write_header(0, VIRTIO_BLK_T_IN, 0);
        disk.queue
            .write_descriptor(0, header(16), descriptor_flags::NEXT, disk.queue.size());
        disk.queue.publish(0);
    }),
    case("indirect_not_offered", Expect::Refusal, |disk, _| {
        block::write_header(0, VIRTIO_BLK_T_IN, 0);
        disk.queue
            .write_descriptor(0, header(16), descriptor_flags::INDIRECT, 0);
        disk.queue.publish(0);
    }),
    // The available ring (§2.7.6) and the notification (§4.2.2).
    case("head_past_table", Expect::Survival, |disk, _| {
        disk.queue.publish(disk.queue.size());
    }),
    case("available_index_jumps", Expect::Survival, |disk, _| {
        disk.queue.advance_available(disk.queue.size() + 1);
    }),
    case("same_head_twice", Expect::Survival, |disk, _| {
        chain(
            disk,
            VIRTIO_BLK_T_IN,
            0,
            &[header(16), data_in(SECTOR), status(1)],
        );
        disk.queue.publish(0);
    }),
    case("nothing_available", Expect::Survival, |_, _| {}),
    case("unknown_queue_notified", Expect::Survival, |disk, _| {
        disk.device.notify(7);
        disk.device.notify(u32::MAX);
    }),
];

fn main(boot: &BootInfo) {
    let judge = Judge {
        accepts_reset: !boot.command_line().has("strict"),
        accepts_any_status: boot.command_line().has("lenient"),
    };
    let mut disk = Disk::open(boot);
    for case in CASES {
        disk.restart();
        judge.run(case, &mut disk, boot);
        disk.restart();
        plain_read(&mut disk, case.name);
    }
    println!("cases={}", CASES.len());
}

impl Judge {
    fn run(&self, case: &Case, disk: &mut Disk, boot: &BootInfo) {
        (case.break_rule)(disk, boot);
        disk.queue.notify();
        match wait(disk, case.expect) {
            Outcome::Answered(used) => {
                let status = block::status(0);
                println!(
                    "case={} outcome=answered len={} status={status:#x}",
                    case.name, used.len
                );
                let is_right = match case.expect {
                    Expect::Status(expected) => status == expected,
                    Expect::Refusal => status != VIRTIO_BLK_S_OK,
                    Expect::Answer | Expect::Survival => true,
                };
                rt::check!(
                    is_right || self.accepts_any_status,
                    "{}: status {status:#x}",
                    case.name
                );
                rt::check!(
                    case.expect == Expect::Survival || used.head == 0,
                    "{}: head {} came back, not 0",
                    case.name,
                    used.head
                );
                if case.expect != Expect::Survival {
                    plain_read(disk, case.name);
                    let answers = disk.queue.used_index();
                    rt::check!(
                        answers == 2,
                        "{}: 2 chains came back {answers} times",
                        case.name
                    );
                }
            }
            Outcome::NeedsReset => {
                println!("case={} outcome=needs_reset", case.name);
                let could_answer = case.expect != Expect::Survival;
                rt::check!(
                    self.accepts_reset || !could_answer,
                    "{}: the device gave up",
                    case.name
                );
            }
            Outcome::Silent => {
                println!("case={} outcome=silent", case.name);
                rt::check!(
                    case.expect == Expect::Survival,
                    "{}: the chain is lost",
                    case.name
                );
            }
        }
    }
}

fn wait(disk: &mut Disk, expect: Expect) -> Outcome {
    let limit = if expect == Expect::Survival {
        clock::SHORT
    } else {
        clock::LONG
    };
    let mut outcome = Outcome::Silent;
    clock::spin_until(limit, || {
        if let Some(used) = disk.queue.take_used_raw() {
            outcome = Outcome::Answered(used);
        } else if disk.device.needs_reset() {
            outcome = Outcome::NeedsReset;
        }
        !matches!(outcome, Outcome::Silent)
    });
    outcome
}

fn plain_read(disk: &mut Disk, after: &str) {
    let outcome = disk.run_one(VIRTIO_BLK_T_IN, 0, SECTOR_BYTES);
    rt::check!(
        outcome.status == VIRTIO_BLK_S_OK && outcome.used_len == SECTOR + 1,
        "{after}: a plain read afterwards ended with {outcome:?}"
    );
}

const fn case(name: &'static str, expect: Expect, break_rule: fn(&mut Disk, &BootInfo)) -> Case {
    Case {
        name,
        expect,
        break_rule,
    }
}

/// Publishes descriptors 0, 1, ... as one chain, with the header and an untouched status in slot 0.
fn chain(disk: &mut Disk, kind: u32, sector: u64, parts: &[Part]) {
    block::write_header(0, kind, sector);
    rt::check!(
        block::status(0) == STATUS_UNTOUCHED,
        "the status byte is not ready"
    );
    for (index, part) in (0..).zip(parts) {
        let is_last = usize::from(index) + 1 == parts.len();
        let next = if is_last { 0 } else { descriptor_flags::NEXT };
        let write = if part.is_device_writable {
            descriptor_flags::WRITE
        } else {
            0
        };
        disk.queue
            .write_descriptor(index, *part, next | write, index + 1);
    }
    disk.queue.publish(0);
}

fn header(len: u32) -> Part {
    Part::readable(block::header_address(0), len)
}

fn data_in(len: u32) -> Part {
    Part::writable(block::data_address(0), len)
}

fn data_out(len: u32) -> Part {
    Part::readable(block::data_address(0), len)
}

fn status(len: u32) -> Part {
    Part::writable(block::status_address(0), len)
}
