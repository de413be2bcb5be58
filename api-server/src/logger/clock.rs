//! Local time as log lines write it.

use std::fmt;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use tz::{DateTime, TimeZone};

/// The host's zone, read from `/etc/localtime` before the first line; UTC where there is none, as in a jail.
static ZONE: OnceLock<TimeZone> = OnceLock::new();

/// A moment; displays as `YYYY-MM-DDTHH:MM:SS.nnnnnnnnn` in local time.
pub(super) struct Moment {
    seconds: i64,
    nanoseconds: u32,
}

/// This moment.
pub(super) fn now() -> Moment {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Moment {
        seconds: i64::try_from(since.as_secs()).unwrap_or_default(),
        nanoseconds: since.subsec_nanos(),
    }
}

/// Reads the zone, so that no signal handler has to.
pub(super) fn prepare() {
    zone();
}

fn zone() -> &'static TimeZone {
    ZONE.get_or_init(|| TimeZone::local().unwrap_or_else(|_| TimeZone::utc()))
}

impl Moment {
    fn write_in(&self, zone: &TimeZone, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = DateTime::from_timespec(self.seconds, self.nanoseconds, zone.as_ref());
        let Ok(time) = time else {
            return write!(f, "{}.{:09}", self.seconds, self.nanoseconds);
        };
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:09}",
            time.year(),
            time.month(),
            time.month_day(),
            time.hour(),
            time.minute(),
            time.second(),
            time.nanoseconds()
        )
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_in(zone(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct In<'a>(Moment, &'a TimeZone);

    impl fmt::Display for In<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.write_in(self.1, f)
        }
    }

    fn moment() -> Moment {
        Moment {
            seconds: 1_709_164_799,
            nanoseconds: 7,
        }
    }

    #[test]
    fn time_has_nine_digits_of_a_second() {
        let text = In(moment(), &TimeZone::utc()).to_string();
        assert_eq!(text, "2024-02-28T23:59:59.000000007");
    }

    #[test]
    fn time_is_local() {
        let an_hour_east = TimeZone::fixed(3600).unwrap();
        let text = In(moment(), &an_hour_east).to_string();
        assert_eq!(text, "2024-02-29T00:59:59.000000007");
    }
}
