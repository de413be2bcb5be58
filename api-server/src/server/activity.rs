//! What a connection is doing, since when, and until when it may.
//!
//! ```text
//!             a byte            the request is whole      its answer is made       all of it is sent
//!  Waiting ---------> Receiving ----------------> Answering --------------> Sending ----------------> Waiting
//!     no deadline      a deadline      as long as the request takes   a deadline
//! ```
//!
//! An answer of events goes on as long as the client takes them.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    /// No request is under way.
    Waiting,
    /// A request has begun to arrive.
    Receiving,
    /// A request is being answered.
    Answering,
    /// An answer is on its way to the client.
    Sending,
    /// Events are on their way to the client, as they happen.
    Streaming,
    /// No further request is read.
    Leaving,
}

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// From the first byte of a request to its last.
    pub(super) receiving: Duration,
    /// To take an answer, and then to close a connection that has ended.
    pub(super) sending: Duration,
    /// A connection without a request keeps its place this long when others want it.
    pub(super) waiting: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            receiving: Duration::from_secs(30),
            sending: Duration::from_secs(30),
            waiting: Duration::from_secs(10),
        }
    }
}

/// What one connection is doing.
#[derive(Debug)]
pub(super) struct Activity {
    doing: Cell<Doing>,
    since: Cell<Instant>,
    /// Bytes came that belong to a request after this one.
    has_more: Cell<bool>,
    /// Since when the client takes nothing of what it is sent.
    stalled: Cell<Option<Instant>>,
    patience: Patience,
    /// Told of every change.
    changed: Rc<Notify>,
}

impl Activity {
    pub(super) fn new(patience: Patience, changed: Rc<Notify>) -> Self {
        Self {
            doing: Cell::new(Doing::Waiting),
            since: Cell::new(Instant::now()),
            has_more: Cell::new(false),
            stalled: Cell::new(None),
            patience,
            changed,
        }
    }

    pub(super) fn doing(&self) -> Doing {
        self.doing.get()
    }

    pub(super) fn set(&self, doing: Doing) {
        self.doing.set(doing);
        self.since.set(Instant::now());
        self.changed.notify_one();
    }

    /// Bytes came.
    pub(super) fn received(&self) {
        match self.doing.get() {
            Doing::Waiting => self.set(Doing::Receiving),
            Doing::Answering | Doing::Sending => self.has_more.set(true),
            Doing::Receiving | Doing::Streaming | Doing::Leaving => {}
        }
    }

    /// The answer is made, unless it goes on.
    pub(super) fn answered(&self) {
        if self.doing.get() != Doing::Streaming {
            self.set(Doing::Sending);
        }
    }

    /// The client takes what it is sent, or does not.
    pub(super) fn takes(&self, does_take: bool) {
        let since = self.stalled.get().filter(|_| !does_take);
        let now = (!does_take).then(Instant::now);
        self.stalled.set(since.or(now));
    }

    /// Nothing is left to be sent.
    pub(super) fn sent(&self) {
        if self.doing.get() == Doing::Sending {
            self.set(if self.has_more.take() {
                Doing::Receiving
            } else {
                Doing::Waiting
            });
        }
    }

    /// When the client has taken too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let limit = match self.doing.get() {
            Doing::Waiting | Doing::Answering => return None,
            Doing::Receiving => self.patience.receiving,
            Doing::Sending | Doing::Leaving => self.patience.sending,
            // However long it goes on, as long as it is read.
            Doing::Streaming => return self.stalled.get()?.checked_add(self.patience.sending),
        };
        self.since.get().checked_add(limit)
    }

    /// How long it has kept a place that it does not need, if that is long enough to lose it.
    pub(super) fn idle_time(&self) -> Option<Duration> {
        let time = self.since.get().elapsed();
        let may_go = match self.doing.get() {
            Doing::Waiting => time >= self.patience.waiting,
            Doing::Leaving => true,
            Doing::Receiving | Doing::Answering | Doing::Sending | Doing::Streaming => false,
        };
        may_go.then_some(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn activity() -> Activity {
        let patience = Patience {
            waiting: Duration::ZERO,
            ..Patience::default()
        };
        Activity::new(patience, Rc::default())
    }

    #[test]
    fn a_request_under_way_keeps_its_place_and_has_a_deadline_but_while_it_is_answered() {
        let activity = activity();
        assert!(activity.idle_time().is_some() && activity.deadline().is_none());
        activity.received();
        assert!(activity.idle_time().is_none() && activity.deadline().is_some());
        activity.set(Doing::Answering);
        assert!(activity.idle_time().is_none() && activity.deadline().is_none());
        activity.set(Doing::Sending);
        assert!(activity.idle_time().is_none() && activity.deadline().is_some());
        activity.sent();
        assert_eq!(activity.doing(), Doing::Waiting);
    }

    #[test]
    fn what_came_during_an_answer_is_the_beginning_of_the_next_request() {
        let activity = activity();
        activity.set(Doing::Answering);
        activity.received();
        activity.set(Doing::Sending);
        activity.sent();
        assert_eq!(activity.doing(), Doing::Receiving);
    }
}
