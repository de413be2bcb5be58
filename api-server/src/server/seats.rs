//! The connections there are, and who leaves when there are too many.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::task::AbortHandle;

use super::activity::{Activity, Doing};

/// Connections served at the same time.
pub(super) const MAX_CONNECTIONS: usize = 10;

/// Connections that are sent events, besides.
pub(super) const MAX_STREAMS: usize = 4;

/// The connections there are.
#[derive(Debug, Default)]
pub(super) struct Seats {
    taken: RefCell<Vec<Seat>>,
}

#[derive(Debug)]
struct Seat {
    activity: Rc<Activity>,
    /// Ends the connection.
    task: AbortHandle,
}

impl Seats {
    /// Whether there is a place for one more; makes one, if all are taken, by closing the connection that has had
    /// no request for longest, and for long.
    pub(super) fn has_place(&self) -> bool {
        let served = self.taken.borrow().len() - self.count(Doing::Streaming);
        served < MAX_CONNECTIONS || self.free_one()
    }

    /// Closes the connection that has had no request for longest, if one had none for long.
    pub(super) fn free_one(&self) -> bool {
        let mut taken = self.taken.borrow_mut();
        let idle = taken.iter().enumerate();
        let idle = idle.filter_map(|(index, seat)| Some((seat.activity.idle_time()?, index)));
        let Some((_, index)) = idle.max() else {
            return false;
        };
        taken.swap_remove(index).task.abort();
        true
    }

    /// A connection begins.
    pub(super) fn take(&self, activity: Rc<Activity>, task: AbortHandle) {
        self.taken.borrow_mut().push(Seat { activity, task });
    }

    /// A connection has ended.
    pub(super) fn leave(&self, activity: &Rc<Activity>) {
        let mut taken = self.taken.borrow_mut();
        taken.retain(|seat| !Rc::ptr_eq(&seat.activity, activity));
    }

    /// How many connections do that.
    pub(super) fn count(&self, doing: Doing) -> usize {
        let taken = self.taken.borrow();
        let same = taken.iter().filter(|seat| seat.activity.doing() == doing);
        same.count()
    }
}
