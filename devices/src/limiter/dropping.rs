//! A limit on bytes that cannot wait: what it does not cover is dropped. It needs no timer.

use vm_config::TokenBucket;

use super::{Bucket, now};

/// What may still pass.
#[derive(Debug)]
pub(crate) struct Allowance(Bucket);

impl Allowance {
    /// A full bucket; `None` for one that does not limit.
    pub(crate) fn new(stated: TokenBucket) -> Option<Self> {
        Bucket::new(stated, now()).map(Self)
    }

    /// Whether `bytes` more may pass now; if so they are spent.
    pub(crate) fn covers(&mut self, bytes: u64) -> bool {
        self.covers_at(bytes, now())
    }

    fn covers_at(&mut self, bytes: u64, now: u64) -> bool {
        self.0.refill(now);
        let is_covered = self.0.wait_ns(bytes) == 0;
        if is_covered {
            self.0.spend(bytes);
        }
        is_covered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn allowance(size: u64, refill_time: u64, one_time_burst: Option<u64>) -> Option<Allowance> {
        Allowance::new(TokenBucket {
            size,
            one_time_burst,
            refill_time,
        })
    }

    fn passed(allowance: &mut Allowance, bytes: usize, at: u64) -> usize {
        let base = allowance.0.counted_at;
        let pass = |_: &usize| allowance.covers_at(1, base + at);
        (0..bytes).filter(pass).count()
    }

    #[test]
    fn bytes_pass_until_the_bucket_is_empty_and_again_as_it_refills() {
        let mut allowance = allowance(10, 1000, Some(5)).unwrap();
        assert_eq!(passed(&mut allowance, 100, 0), 15);
        assert_eq!(passed(&mut allowance, 100, SECOND / 2), 5);
        assert_eq!(passed(&mut allowance, 100, SECOND), 10);
        assert_eq!(passed(&mut allowance, 100, 100 * SECOND), 10);
    }

    #[test]
    fn a_bucket_with_a_zero_does_not_limit() {
        assert!(allowance(0, 1, None).is_none());
        assert!(allowance(1, 0, None).is_none());
    }
}
