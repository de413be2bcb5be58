//! What the guest wrote on its serial console, as it arrives.

use std::io::Read;
use std::process::ChildStdout;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Output collected by a thread of its own.
#[derive(Clone)]
pub struct Console {
    shared: Arc<(Mutex<Collected>, Condvar)>,
}

#[derive(Default)]
struct Collected {
    bytes: Vec<u8>,
    is_closed: bool,
}

impl Console {
    /// Collects until the other end closes.
    pub fn collect(mut from: ChildStdout) -> Self {
        let console = Self {
            shared: Arc::default(),
        };
        let shared = Arc::clone(&console.shared);
        thread::spawn(move || {
            let mut chunk = [0; 4096];
            loop {
                let len = from.read(&mut chunk).unwrap_or(0);
                let (collected, changed) = &*shared;
                let mut collected = collected.lock().expect("no holder of this lock panics");
                collected.bytes.extend_from_slice(&chunk[..len]);
                collected.is_closed = len == 0;
                changed.notify_all();
                if len == 0 {
                    return;
                }
            }
        });
        console
    }

    /// All output so far.
    pub fn text(&self) -> String {
        let collected = self.shared.0.lock().expect("no holder of this lock panics");
        String::from_utf8_lossy(&collected.bytes).into_owned()
    }

    /// Waits until the output satisfies `condition`; says whether it did before it closed or time was up.
    pub fn wait_until(&self, timeout: Duration, condition: impl Fn(&str) -> bool) -> bool {
        let deadline = Instant::now() + timeout;
        let (collected, changed) = &*self.shared;
        let mut collected = collected.lock().expect("no holder of this lock panics");
        loop {
            if condition(&String::from_utf8_lossy(&collected.bytes)) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if collected.is_closed || left.is_zero() {
                return false;
            }
            collected = changed
                .wait_timeout(collected, left)
                .expect("no holder of this lock panics")
                .0;
        }
    }

    /// Waits until the other end closed.
    pub fn wait_closed(&self, timeout: Duration) -> bool {
        let (collected, changed) = &*self.shared;
        let collected = collected.lock().expect("no holder of this lock panics");
        let (collected, _) = changed
            .wait_timeout_while(collected, timeout, |c| !c.is_closed)
            .expect("no holder of this lock panics");
        collected.is_closed
    }
}
