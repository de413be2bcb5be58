//! The metadata service: what the host tells a guest, over HTTP at a link-local address.
//!
//! ```text
//!  API --put, patch, get--> Mmds <--requests-- Stack <--frames--> a network interface
//! ```
//!
//! [`Mmds`] is the process's one service. It holds the data ([`store`]) and knows the tokens it gave out ([`token`]); `http`
//! and `answer` are between them and a guest. Each interface with the service has a [`Stack`]: frames ([`packet`]) and
//! connections.

mod answer;
mod base64;
mod connection;
pub mod http;
pub mod packet;
pub mod stack;
pub mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod token;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use vm_config::InstanceId;

pub use answer::Rules;
pub use stack::Stack;

use crate::metrics::MmdsMetrics;
use store::{Store, StoreError};
use token::Authority;

/// Largest store when nobody says otherwise, in bytes of JSON.
pub const DEFAULT_LIMIT: usize = 51200;

/// The data and the tokens. Its lock is held for one request, by the event loop alone.
pub struct Mmds {
    held: Mutex<Held>,
    metrics: Arc<MmdsMetrics>,
}

struct Held {
    store: Store,
    tokens: Authority,
}

impl Mmds {
    /// A service without data for the microVM `id`, which takes `limit` bytes of JSON.
    #[must_use]
    pub fn new(id: &InstanceId, limit: usize) -> Self {
        Self {
            held: Mutex::new(Held {
                store: Store::new(limit),
                tokens: Authority::new(id),
            }),
            metrics: Arc::default(),
        }
    }

    /// Replaces the data.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn put(&self, value: Value) -> Result<(), StoreError> {
        self.lock().store.put(value)
    }

    /// Merges `patch` into the data (RFC 7396).
    ///
    /// # Errors
    /// When there is none yet, or the result does not fit.
    pub fn patch(&self, patch: Value) -> Result<(), StoreError> {
        self.lock().store.patch(patch)
    }

    /// The data; an empty object while there is none.
    #[must_use]
    pub fn get(&self) -> Value {
        self.lock().store.get()
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> Arc<MmdsMetrics> {
        Arc::clone(&self.metrics)
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Mmds {
    fn default() -> Self {
        Self::new(&InstanceId::default(), DEFAULT_LIMIT)
    }
}
