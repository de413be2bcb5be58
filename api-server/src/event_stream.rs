//! Events as the body of an answer that goes on: one JSON object a line, a chunk for what is there at a time.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::body::{Body, Bytes, Frame};
use serde::Serialize;
use tz::UtcDateTime;
use vm_config::VmEvent;
use vmm::{EventReader, Reading};

/// Events in one chunk.
const BATCH: usize = 32;

/// One line.
#[derive(Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub(crate) struct EventLine<'a> {
    /// Counts the events of this process from 1; that of `dropped` is the last one dropped.
    seq: u64,
    /// When, in UTC.
    #[cfg_attr(feature = "openapi", schema(example = "2026-11-22T08:03:43.567378Z"))]
    timestamp: String,
    #[serde(flatten)]
    event: &'a VmEvent,
}

/// The body. Ends after the microVM's last event.
pub(crate) struct EventStream(EventReader);

impl EventStream {
    pub(crate) fn new(reader: EventReader) -> Self {
        Self(reader)
    }
}

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventStream")
    }
}

impl Body for EventStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let (dropped, entries) = match self.0.read(BATCH, context.waker()) {
            Reading::Nothing => return Poll::Pending,
            Reading::Over => return Poll::Ready(None),
            Reading::Events { dropped, entries } => (dropped, entries),
        };
        let mut lines = Vec::with_capacity(256);
        if let (1.., Some(first)) = (dropped, entries.first()) {
            let seq = first.seq.saturating_sub(1);
            push(
                &mut lines,
                seq,
                first.at,
                &VmEvent::Dropped { count: dropped },
            );
        }
        for entry in &entries {
            push(&mut lines, entry.seq, entry.at, &entry.event);
        }
        Poll::Ready(Some(Ok(Frame::data(lines.into()))))
    }
}

fn push(lines: &mut Vec<u8>, seq: u64, at: SystemTime, event: &VmEvent) {
    let timestamp = timestamp(at);
    let line = EventLine {
        seq,
        timestamp,
        event,
    };
    serde_json::to_writer(&mut *lines, &line)
        .expect("our own types are JSON, and a vector takes all");
    lines.push(b'\n');
}

/// `at` as RFC 3339 writes it, in UTC with microseconds.
fn timestamp(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = i64::try_from(since.as_secs()).unwrap_or_default();
    let Ok(time) = UtcDateTime::from_timespec(seconds, since.subsec_nanos()) else {
        return format!("@{seconds}");
    };
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        time.year(),
        time.month(),
        time.month_day(),
        time.hour(),
        time.minute(),
        time.second(),
        since.subsec_micros()
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use vm_config::{DeviceKind, DeviceName, ExitCause};

    use super::*;

    #[test]
    fn each_event_is_one_line_of_json() {
        let at = UNIX_EPOCH + Duration::from_micros(1_709_164_799_000_007);
        let disk = DeviceName {
            kind: DeviceKind::NetworkInterface,
            id: "eth0".to_owned(),
        };
        for (event, rest) in [
            (VmEvent::Paused, r#""event":"paused"}"#),
            (
                VmEvent::DeviceAdded(disk),
                r#""event":"device_added","kind":"network_interface","id":"eth0"}"#,
            ),
            (
                VmEvent::StartFailed {
                    message: "a\n\"b\"".to_owned(),
                },
                r#""event":"start_failed","message":"a\n\"b\""}"#,
            ),
            (
                VmEvent::Exited {
                    reason: ExitCause::GuestPowerOff,
                    message: "off".to_owned(),
                    exit_code: 0,
                },
                r#""event":"exited","reason":"guest_power_off","message":"off","exit_code":0}"#,
            ),
            (
                VmEvent::Dropped { count: 3 },
                r#""event":"dropped","count":3}"#,
            ),
        ] {
            let mut lines = Vec::new();
            push(&mut lines, 7, at, &event);
            let head = r#"{"seq":7,"timestamp":"2024-02-28T23:59:59.000007Z","#;
            assert_eq!(String::from_utf8(lines).unwrap(), format!("{head}{rest}\n"));
        }
    }
}
