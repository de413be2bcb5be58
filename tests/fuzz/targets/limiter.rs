//! Rate limits of any numbers, on a clock that the input moves: what has waited as long as it was told may pass, and
//! no pattern of requests gets more bytes than were stated.
#![no_main]

use devices::testing::FakeLimits;
use fuzz::bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use vm_config::{RateLimiter, TokenBucket};

fuzz_target!(|input: &[u8]| {
    let mut bytes = Bytes::new(input);
    let Some(stated) = limiter(&mut bytes) else {
        return;
    };
    let mut limits = FakeLimits::new(stated);
    let mut count = Count::of(stated);
    while let Some(what) = bytes.byte() {
        let Some(number) = number(&mut bytes) else {
            return;
        };
        match what & 3 {
            0 => {
                if !limits.advance(number) {
                    return;
                }
                count.now += number;
            }
            1 if what & 0xf0 == 0 => {
                let Some(patch) = limiter(&mut bytes) else {
                    return;
                };
                limits.patch(patch);
                // Another limit is counted from here on.
                return;
            }
            _ => {
                // No device moves more at once.
                let len = number & u64::from(u32::MAX);
                let wait = limits.wait_ns(len);
                // Centuries from now; or the clock ends before.
                if wait == u64::MAX || !limits.advance(wait) {
                    return;
                }
                count.now += wait;
                assert_eq!(
                    limits.wait_ns(len),
                    0,
                    "{len} bytes waited for nothing: {stated:?}"
                );
                limits.spend(len);
                count.spend(len);
            }
        }
    }
});

/// A number of any magnitude.
fn number(bytes: &mut Bytes<'_>) -> Option<u64> {
    let (value, shift) = (bytes.half()?, bytes.byte()?);
    Some(u64::from(value) << (shift & 0x3f))
}

fn limiter(bytes: &mut Bytes<'_>) -> Option<RateLimiter> {
    let which = bytes.byte()?;
    let mut bucket = || {
        Some(TokenBucket {
            size: number(bytes)?,
            one_time_burst: Some(number(bytes)?),
            refill_time: number(bytes)?,
        })
    };
    let (first, second) = (bucket()?, bucket()?);
    Some(RateLimiter {
        bandwidth: Some(first).filter(|_| which & 1 == 0),
        ops: Some(second).filter(|_| which & 2 == 0),
    })
}

/// Bytes that passed, against those that were stated.
struct Count {
    bucket: Option<TokenBucket>,
    now: u64,
    passed: u128,
}

impl Count {
    fn of(stated: RateLimiter) -> Self {
        let limits = |bucket: &TokenBucket| bucket.size > 0 && bucket.refill_time > 0;
        Self {
            bucket: stated.bandwidth.filter(limits),
            now: 0,
            passed: 0,
        }
    }

    /// A request passes only when what passed before is covered; it may itself be owed.
    fn spend(&mut self, bytes: u64) {
        let Some(bucket) = self.bucket else {
            return;
        };
        let refill_ns = u128::from(bucket.refill_time.saturating_mul(1_000_000));
        let came = u128::from(self.now) * u128::from(bucket.size) / refill_ns;
        let stated =
            u128::from(bucket.size) + u128::from(bucket.one_time_burst.unwrap_or(0)) + came + 1;
        assert!(
            bytes == 0 || self.passed <= stated,
            "{} of {stated}: {bucket:?}",
            self.passed
        );
        self.passed += u128::from(bytes);
    }
}
