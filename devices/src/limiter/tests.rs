use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000_000;

fn stated(size: u64, refill_time: u64) -> TokenBucket {
    TokenBucket {
        size,
        one_time_burst: None,
        refill_time,
    }
}

fn bytes_only(bandwidth: TokenBucket) -> RateLimiter {
    RateLimiter {
        bandwidth: Some(bandwidth),
        ops: None,
    }
}

/// Sends requests of `bytes` as fast as they pass; when each of them did, until `end`.
fn send(limits: &mut Limits, bytes: u64, end: u64) -> Vec<u64> {
    let (mut now, mut passed) = (0, Vec::new());
    while now < end {
        limits.refill(now);
        match limits.wait_ns(bytes) {
            0 => {
                limits.spend(bytes);
                passed.push(now);
            }
            wait => now += wait,
        }
    }
    passed
}

proptest! {
    #[test]
    fn each_second_passes_the_stated_rate_within_one_percent(
        rate in 1_000_000_u64..1 << 34,
        refill_time in prop::sample::select(vec![1_u64, 7, 100, 250, 1000]),
        share in 200_u64..1000,
    ) {
        let size = rate * refill_time / 1000;
        let bytes = (rate / share).min(size);
        let mut limits = Limits::new(bytes_only(stated(size, refill_time)), 0);
        // The first second empties the bucket.
        for second in 1..5 {
            let passed = send(&mut limits, bytes, 6 * SECOND);
            let window = second * SECOND..(second + 1) * SECOND;
            let count = passed.iter().filter(|at| window.contains(at)).count();
            let actual = count as f64 * bytes as f64;
            let wanted = size as f64 * 1000.0 / refill_time as f64;
            prop_assert!((actual / wanted - 1.0).abs() <= 0.01, "{actual} of {wanted}");
            limits = Limits::new(bytes_only(stated(size, refill_time)), 0);
        }
    }

    #[test]
    fn no_pattern_of_requests_gets_more_than_was_stated(
        size in 1_u64..100_000,
        refill_time in 1_u64..2000,
        burst in 0_u64..100_000,
        requests in prop::collection::vec((1_u64..300_000, 0_u64..50_000_000), 1..100),
    ) {
        let bucket = TokenBucket { one_time_burst: Some(burst), ..stated(size, refill_time) };
        let mut limits = Limits::new(bytes_only(bucket), 0);
        let (mut now, mut spent) = (0, 0);
        for (bytes, pause) in requests {
            now += pause;
            limits.refill(now);
            // All that was spent before was covered, or nothing more would pass.
            let wait = limits.wait_ns(bytes);
            now += wait;
            limits.refill(now);
            prop_assert_eq!(limits.wait_ns(bytes), 0);
            let came = u128::from(now) * u128::from(size) / (u128::from(refill_time) * 1_000_000);
            prop_assert!(spent <= u128::from(size + burst) + came + 1);
            limits.spend(bytes);
            spent += u128::from(bytes);
        }
    }

    #[test]
    fn no_numbers_overflow(size: u64, refill_time: u64, burst: u64, bytes: u64, at: u64) {
        let bucket = TokenBucket { one_time_burst: Some(burst), ..stated(size, refill_time) };
        let mut limits = Limits::new(bytes_only(bucket), 0);
        for now in [0, at, u64::MAX] {
            limits.refill(now);
            let _ = limits.wait_ns(bytes);
            limits.spend(bytes);
            limits.spend(u64::MAX);
            let _ = limits.wait_ns(1);
        }
    }
}

#[test]
fn request_larger_than_the_bucket_passes_and_is_repaid() {
    let mut limits = Limits::new(bytes_only(stated(1000, 1000)), 0);
    assert_eq!(limits.wait_ns(5000), 0);
    limits.spend(5000);
    // 4000 are owed, and the next request finds an empty bucket after that.
    assert_eq!(limits.wait_ns(5000), 4 * SECOND);
    assert_eq!(limits.wait_ns(500), 4 * SECOND + SECOND / 2);
    limits.refill(4 * SECOND);
    assert_eq!(limits.wait_ns(5000), 0);
    assert_eq!(limits.wait_ns(500), SECOND / 2);
}

#[test]
fn burst_is_spent_first_and_once() {
    let bucket = TokenBucket {
        one_time_burst: Some(300),
        ..stated(100, 1000)
    };
    let mut limits = Limits::new(bytes_only(bucket), 0);
    for bytes in [250, 150] {
        assert_eq!(limits.wait_ns(bytes), 0);
        limits.spend(bytes);
    }
    assert_eq!(limits.wait_ns(100), SECOND);
    limits.refill(100 * SECOND);
    assert_eq!(limits.wait_ns(100), 0);
    limits.spend(100);
    assert_eq!(limits.wait_ns(1), SECOND / 100);
}

#[test]
fn both_buckets_must_agree_and_an_operation_without_data_costs_no_bytes() {
    let limiter = RateLimiter {
        bandwidth: Some(stated(100, 1000)),
        ops: Some(stated(2, 1000)),
    };
    let mut limits = Limits::new(limiter, 0);
    limits.spend(100);
    assert_eq!(limits.wait_ns(0), 0);
    assert_eq!(limits.wait_ns(50), SECOND / 2);
    limits.spend(0);
    assert_eq!(limits.wait_ns(0), SECOND / 2);
    assert_eq!(limits.wait_ns(100), SECOND);
}

#[test]
fn bucket_with_a_zero_does_not_limit() {
    for (size, refill_time) in [(0, 1000), (1, 0), (0, 0)] {
        let home = LimitsAtHome::new(Some(bytes_only(stated(size, refill_time))));
        let mut limiter = Limiter::new(&home).unwrap();
        assert!(limiter.source(Token(0)).is_none());
        assert!(limiter.opens() && limiter.admits(u64::MAX));
    }
}

#[test]
fn patch_keeps_what_it_does_not_name_and_zeros_take_away() {
    let limiter = RateLimiter {
        bandwidth: Some(stated(100, 1000)),
        ops: Some(stated(2, 1000)),
    };
    let mut limits = Limits::new(limiter, 0);
    limits.spend(100);
    limits.patch(RateLimiter::default(), 0);
    assert_eq!(limits.wait_ns(100), SECOND);
    limits.patch(bytes_only(stated(200, 1000)), 0);
    assert_eq!(limits.wait_ns(200), 0);
    limits.spend(0);
    limits.patch(bytes_only(stated(0, 0)), 0);
    assert!(limits.bandwidth.is_none());
    assert_eq!(limits.wait_ns(100), SECOND / 2);
}

#[test]
fn gate_arms_its_timer_only_when_something_waits_and_stays_shut_elsewhere() {
    let home = LimitsAtHome::new(Some(bytes_only(stated(100, 100))));
    let mut limiter = Limiter::new(&home).unwrap();
    let is_armed = |limiter: &mut Limiter| {
        let timer = limiter.timer.as_mut().unwrap();
        timer.is_armed().unwrap()
    };
    assert!(limiter.opens() && limiter.admits(100));
    limiter.spend(100);
    assert!(!is_armed(&mut limiter) && !limiter.is_shut());
    assert!(!limiter.admits(100));
    assert!(is_armed(&mut limiter) && limiter.is_shut() && !limiter.opens());
    limiter.stop();

    let mut next = Limiter::new(&home).unwrap();
    assert!(next.opens() && !next.admits(100));
    let timer = next.timer.as_mut().unwrap();
    timer.wait().unwrap();
    assert!(next.opens() && next.admits(100));
}
