//! The event loop: every worker by default, and the messages that reach the machine from other threads.
//!
//! ```text
//!  api thread  --Job-------------+
//!  vCPU thread --StartWorker-----+--> channel + eventfd --> EventLoop::next, between two events
//!              --StopWorker------+
//!              --Parked, Ended---+
//!              --Seen------------+
//! ```

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use devices::virtio::queue::Queue;
use devices::virtio::{Source, Token, Worker, WorkerId, WorkerLoop};
use event_manager::{
    EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberId, SubscriberOps,
};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::events::{DeviceEvent, EventLog};
use crate::vcpu::Sight;
use crate::{ExitReason, Vm};

/// Messages dealt with in a row, before workers get their turn: a guest may reset devices all the time.
const MESSAGES: usize = 64;

/// What the API asks, ready to run.
pub(crate) type Job = Box<dyn FnOnce(&mut Vm) + Send>;

/// A job that is to be done later: when, and a number that tells jobs of one time apart.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Appointment(Instant, u64);

/// What other threads tell the event loop.
pub(crate) enum Message {
    /// A request with its way back.
    Job(Job),
    /// A driver started a device.
    StartWorker(WorkerId, Box<dyn Worker>),
    /// A driver resets a device and waits for its queues.
    StopWorker(WorkerId, mpsc::SyncSender<TakenOff>),
    /// A vCPU stands still, as asked.
    Parked,
    /// A vCPU says where it is, as asked.
    Seen(Box<Sight>),
    /// A vCPU stands still: it came to what a debugger waits for.
    #[cfg(feature = "gdb")]
    Debug(u8, crate::kvm::DebugExit),
    /// The machine is over.
    Ended(ExitReason),
}

/// A worker that left the loop.
pub(crate) enum TakenOff {
    /// It is stopped; none if it did not run.
    Queues(Vec<Queue>),
    /// Whoever asked stops it, and may have to wait.
    Worker(Box<dyn Worker>),
}

/// The sending end, shared by all threads that talk to the loop.
#[derive(Clone)]
pub(crate) struct Sender {
    messages: mpsc::Sender<Message>,
    wake: Arc<EventFd>,
    /// Where whoever sends notes what happens.
    pub(crate) events: EventLog,
}

/// The receiving end before the loop exists.
pub(crate) struct Receiver {
    messages: mpsc::Receiver<Message>,
    wake: Arc<EventFd>,
}

pub(crate) fn channel() -> io::Result<(Sender, Receiver)> {
    let (sender, receiver) = mpsc::channel();
    let wake = Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?);
    let sender = Sender {
        messages: sender,
        wake: Arc::clone(&wake),
        events: EventLog::default(),
    };
    let receiver = Receiver {
        messages: receiver,
        wake,
    };
    Ok((sender, receiver))
}

impl Sender {
    /// Sends a message; nobody hears it once the loop is gone.
    pub(crate) fn send(&self, message: Message) {
        if self.messages.send(message).is_ok() {
            // Fails only when the counter is full, and then the loop is already awake.
            let _ = self.wake.write(1);
        }
    }
}

impl WorkerLoop for Sender {
    /// A driver started a device.
    fn start(&self, id: WorkerId, worker: Box<dyn Worker>) {
        self.events.note_device(id, DeviceEvent::DriverReady);
        self.send(Message::StartWorker(id, worker));
    }

    fn stop(&self, id: WorkerId) -> Vec<Queue> {
        let (reply, taken) = mpsc::sync_channel(1);
        self.send(Message::StopWorker(id, reply));
        match taken.recv() {
            Ok(TakenOff::Queues(queues)) => queues,
            Ok(TakenOff::Worker(worker)) => worker.stop(),
            // The other end is dropped unused when the process is about to end.
            Err(mpsc::RecvError) => Vec::new(),
        }
    }
}

/// The loop itself, on its own thread.
pub(crate) struct EventLoop {
    events: EventManager<Subscriber>,
    running: BTreeMap<WorkerId, SubscriberId>,
    /// Workers whose events could not be watched, and the log has it: a guest may start them again and again.
    deaf: BTreeSet<WorkerId>,
    messages: mpsc::Receiver<Message>,
    /// Messages that arrived while the loop waited for a particular one.
    postponed: VecDeque<Message>,
    /// Messages since workers had their turn.
    served: usize,
    /// What is to be done later.
    later: BTreeMap<Appointment, Job>,
    jobs: u64,
}

impl EventLoop {
    pub(crate) fn new(receiver: Receiver) -> Result<Self, event_manager::Error> {
        let mut events = EventManager::new_with_capacity(64)?;
        let wake = Events::new_raw(receiver.wake.as_raw_fd(), EventSet::IN);
        let subscriber = events.add_subscriber(Subscriber::Wake(receiver.wake));
        events.event_ops(subscriber)?.add(wake)?;
        Ok(Self {
            events,
            running: BTreeMap::new(),
            deaf: BTreeSet::new(),
            messages: receiver.messages,
            postponed: VecDeque::new(),
            served: 0,
            later: BTreeMap::new(),
            jobs: 0,
        })
    }

    /// Has `job` done when `delay` is over, unless the machine ends first or it is called off.
    pub(crate) fn after(&mut self, delay: Duration, job: Job) -> Appointment {
        self.jobs += 1;
        let at = Instant::now() + delay;
        self.later.insert(Appointment(at, self.jobs), job);
        Appointment(at, self.jobs)
    }

    /// Has nothing done then; nothing is to call off once the job was done.
    pub(crate) fn call_off(&mut self, appointment: &Appointment) {
        self.later.remove(appointment);
    }

    #[cfg(test)]
    pub(crate) fn has_appointments(&self) -> bool {
        !self.later.is_empty()
    }

    /// A job whose time has come.
    fn due(&mut self) -> Option<Job> {
        let first = self.later.first_entry()?;
        (first.key().0 <= Instant::now()).then(|| first.remove())
    }

    /// How long to wait for events: not at all while messages may be left, else until the next job.
    fn timeout_ms(&self) -> i32 {
        if self.served >= MESSAGES {
            return 0;
        }
        let Some((Appointment(at, _), _)) = self.later.first_key_value() else {
            return -1;
        };
        let left = at.saturating_duration_since(Instant::now());
        // Rounded up: a loop that wakes too early spins.
        i32::try_from(left.as_millis().saturating_add(1)).unwrap_or(i32::MAX)
    }

    /// The next message that is not about workers; serves workers until it comes.
    pub(crate) fn next(&mut self) -> Result<Message, event_manager::Error> {
        loop {
            if let Some(message) = self.postponed.pop_front() {
                return Ok(message);
            }
            while self.served < MESSAGES
                && let Ok(message) = self.messages.try_recv()
            {
                self.served += 1;
                if let Some(message) = self.serve(message) {
                    return Ok(message);
                }
            }
            if let Some(job) = self.due() {
                return Ok(Message::Job(job));
            }
            let timeout_ms = self.timeout_ms();
            self.served = 0;
            match self.events.run_with_timeout(timeout_ms) {
                Ok(_) => {}
                Err(event_manager::Error::Epoll(errno)) if errno.errno() == libc::EINTR => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for vCPUs to say that they stand still: `count` of them, or the end of the machine. Devices are
    /// still reset if one asks, or that vCPU would never come to rest; all else waits its turn.
    pub(crate) fn wait_until_parked(&mut self, count: usize) {
        let mut parked = 0;
        while parked < count {
            let Ok(message) = self.messages.recv() else {
                return;
            };
            match self.serve(message) {
                Some(Message::Parked) => parked += 1,
                #[cfg(feature = "gdb")]
                Some(stop @ Message::Debug(..)) => {
                    parked += 1;
                    self.postponed.push_back(stop);
                }
                Some(Message::Ended(reason)) => {
                    // That vCPU stands still too. One that reset the machine says both and counts twice, which may
                    // leave another out: it stops at its next exit.
                    parked += 1;
                    self.postponed.push_back(Message::Ended(reason));
                }
                Some(other) => self.postponed.push_back(other),
                None => {}
            }
        }
    }

    /// What `count` vCPUs answer to `question`, as far as they do before `patience` is over. Devices start and stop
    /// meanwhile, or a vCPU that waits for one would not answer; all else waits its turn.
    pub(crate) fn wait_until_seen(
        &mut self,
        count: usize,
        question: u32,
        patience: Duration,
    ) -> Vec<Sight> {
        let end = Instant::now() + patience;
        let mut seen = Vec::with_capacity(count);
        while seen.len() < count {
            let left = end.saturating_duration_since(Instant::now());
            // Without patience a message that is there would still be taken, and a guest may send them all the time.
            if left.is_zero() {
                break;
            }
            let Ok(message) = self.messages.recv_timeout(left) else {
                break;
            };
            match self.serve(message) {
                Some(Message::Seen(sight)) if sight.question == question => seen.push(*sight),
                // Nobody waits for it any more.
                Some(Message::Seen(_)) | None => {}
                Some(other) => self.postponed.push_back(other),
            }
        }
        seen
    }

    /// Hears nothing more. Whoever waits for an answer to a message, sent before or after this, sees that none
    /// comes.
    pub(crate) fn hang_up(&mut self) {
        let (_, unconnected) = mpsc::channel();
        self.messages = unconnected;
        self.postponed.clear();
        self.later.clear();
    }

    /// Deals with a message about workers; gives back any other.
    fn serve(&mut self, message: Message) -> Option<Message> {
        match message {
            Message::StartWorker(id, worker) => self.start(id, worker),
            Message::StopWorker(id, reply) => {
                let taken = match self.take_off(id) {
                    Some(worker) if worker.waits_for_others() => TakenOff::Worker(worker),
                    worker => TakenOff::Queues(worker.map_or_else(Vec::new, |it| it.stop())),
                };
                // The vCPU that asked is gone when the process is about to end.
                let _ = reply.send(taken);
            }
            other => return Some(other),
        }
        None
    }

    /// Puts a worker on the loop and lets it look at all of its sources once.
    pub(crate) fn start(&mut self, id: WorkerId, worker: Box<dyn Worker>) {
        drop(self.stop(id));
        let sources = worker.sources();
        let mut host = WorkerHost {
            worker,
            is_broken: false,
        };
        for source in &sources {
            host.on_event(source.token);
        }
        let subscriber = self.events.add_subscriber(Subscriber::Worker(host));
        self.running.insert(id, subscriber);
        if let Err(error) = self.watch(subscriber, &sources)
            && self.deaf.insert(id)
        {
            // Out of watches (epoll(7), max_user_watches): the device stays silent, the machine goes on.
            tracing::error!(
                "cannot watch the events of device {}: {error}; raise fs.epoll.max_user_watches",
                id.0
            );
        }
    }

    fn watch(
        &mut self,
        subscriber: SubscriberId,
        sources: &[Source],
    ) -> Result<(), event_manager::Error> {
        let mut ops = self.events.event_ops(subscriber)?;
        sources.iter().try_for_each(|source| {
            let set = source.events | EventSet::EDGE_TRIGGERED;
            ops.add(Events::with_data_raw(source.fd, source.token.0, set))
        })
    }

    /// Takes a worker off the loop; its queues, or none if it does not run.
    pub(crate) fn stop(&mut self, id: WorkerId) -> Vec<Queue> {
        let worker = self.take_off(id);
        worker.map_or_else(Vec::new, |worker| worker.stop())
    }

    fn take_off(&mut self, id: WorkerId) -> Option<Box<dyn Worker>> {
        let subscriber = self.running.remove(&id)?;
        match self.events.remove_subscriber(subscriber) {
            Ok(Subscriber::Worker(host)) => Some(host.worker),
            Ok(Subscriber::Wake(_)) | Err(_) => None,
        }
    }
}

enum Subscriber {
    /// Somebody sent a message.
    Wake(Arc<EventFd>),
    Worker(WorkerHost),
}

/// A worker on the loop. One that failed keeps its queues but hears no more events.
struct WorkerHost {
    worker: Box<dyn Worker>,
    is_broken: bool,
}

impl WorkerHost {
    fn on_event(&mut self, token: Token) {
        if !self.is_broken && self.worker.on_event(token).is_err() {
            self.is_broken = true;
        }
    }
}

impl MutEventSubscriber for Subscriber {
    fn process(&mut self, events: Events, _ops: &mut EventOps<'_>) {
        match self {
            // Reading resets the counter; the messages are served after the events.
            Self::Wake(wake) => drop(wake.read()),
            Self::Worker(host) => host.on_event(Token(events.data())),
        }
    }

    /// Whoever adds a subscriber says what to watch, and hears of a failure.
    fn init(&mut self, _ops: &mut EventOps<'_>) {}
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use devices::virtio::QueueError;

    use super::*;

    /// Counts its events and asks for the next at once.
    struct Busy(EventFd, Arc<AtomicUsize>);

    impl Worker for Busy {
        fn sources(&self) -> Vec<Source> {
            vec![Source {
                fd: self.0.as_raw_fd(),
                token: Token(0),
                events: EventSet::IN,
            }]
        }

        fn on_event(&mut self, _token: Token) -> Result<(), QueueError> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.write(1).expect("the counter is not full");
            Ok(())
        }

        fn stop(self: Box<Self>) -> Vec<Queue> {
            Vec::new()
        }
    }

    #[test]
    fn workers_get_their_turn_among_many_messages() {
        let (sender, receiver) = channel().unwrap();
        let mut event_loop = EventLoop::new(receiver).unwrap();
        let turns = Arc::new(AtomicUsize::new(0));
        let kick = EventFd::new(EFD_NONBLOCK).unwrap();
        event_loop.start(WorkerId(0), Box::new(Busy(kick, Arc::clone(&turns))));
        for _ in 0..10 * MESSAGES {
            let (reply, _) = mpsc::sync_channel(1);
            sender.send(Message::StopWorker(WorkerId(1), reply));
        }
        sender.send(Message::Parked);
        assert!(matches!(event_loop.next(), Ok(Message::Parked)));
        assert!(turns.load(Ordering::Relaxed) >= 10);
    }

    /// Stops when somebody else says so.
    struct Waiting;

    impl Worker for Waiting {
        fn sources(&self) -> Vec<Source> {
            Vec::new()
        }

        fn on_event(&mut self, _token: Token) -> Result<(), QueueError> {
            Ok(())
        }

        fn stop(self: Box<Self>) -> Vec<Queue> {
            panic!("the loop waits for somebody else");
        }

        fn waits_for_others(&self) -> bool {
            true
        }
    }

    #[test]
    fn who_resets_a_device_of_another_process_does_the_waiting() {
        let (sender, receiver) = channel().unwrap();
        let mut event_loop = EventLoop::new(receiver).unwrap();
        event_loop.start(WorkerId(0), Box::new(Waiting));
        let (reply, taken) = mpsc::sync_channel(1);
        sender.send(Message::StopWorker(WorkerId(0), reply));
        sender.send(Message::Parked);
        assert!(matches!(event_loop.next(), Ok(Message::Parked)));
        assert!(matches!(taken.recv(), Ok(TakenOff::Worker(_))));
        assert!(event_loop.running.is_empty());
    }

    /// Its source is no descriptor.
    struct Deaf;

    impl Worker for Deaf {
        fn sources(&self) -> Vec<Source> {
            vec![Source {
                fd: -1,
                token: Token(0),
                events: EventSet::IN,
            }]
        }

        fn on_event(&mut self, _token: Token) -> Result<(), QueueError> {
            Ok(())
        }

        fn stop(self: Box<Self>) -> Vec<Queue> {
            Vec::new()
        }
    }

    #[test]
    fn a_worker_that_cannot_be_watched_starts_and_stops_and_is_told_of_once() {
        let (_sender, receiver) = channel().unwrap();
        let mut event_loop = EventLoop::new(receiver).unwrap();
        for _ in 0..3 {
            event_loop.start(WorkerId(1), Box::new(Deaf));
            assert_eq!(event_loop.deaf.len(), 1);
        }
        event_loop.stop(WorkerId(1));
        assert!(event_loop.running.is_empty());
    }

    #[test]
    fn who_waits_for_vcpus_has_patience_alone_and_not_for_all_messages_there_are() {
        let (sender, receiver) = channel().unwrap();
        let mut event_loop = EventLoop::new(receiver).unwrap();
        for _ in 0..10 * MESSAGES {
            let (reply, _) = mpsc::sync_channel(1);
            sender.send(Message::StopWorker(WorkerId(1), reply));
        }
        assert!(event_loop.wait_until_seen(1, 1, Duration::ZERO).is_empty());
        assert!(event_loop.messages.try_recv().is_ok());
    }

    #[test]
    fn jobs_come_when_their_time_is_up_and_in_that_order() {
        let (_sender, receiver) = channel().unwrap();
        let mut event_loop = EventLoop::new(receiver).unwrap();
        let (said, heard) = mpsc::channel();
        let start = Instant::now();
        for delay_ms in [30, 10, 10] {
            let said = said.clone();
            let job = move |_: &mut Vm| said.send(delay_ms).unwrap();
            event_loop.after(Duration::from_millis(delay_ms), Box::new(job));
        }
        let mut vm = crate::vm::tests::vm();
        for _ in 0..3 {
            let Ok(Message::Job(job)) = event_loop.next() else {
                panic!("something else");
            };
            job(&mut vm);
        }
        assert!(start.elapsed() >= Duration::from_millis(30));
        assert_eq!(heard.try_iter().collect::<Vec<_>>(), [10, 10, 30]);
        assert_eq!(event_loop.timeout_ms(), -1, "an idle loop has no timer");
    }

    #[test]
    fn a_job_that_is_called_off_leaves_no_timer() {
        let (_sender, receiver) = channel().unwrap();
        let mut event_loop = EventLoop::new(receiver).unwrap();
        let mut after = |delay_s| {
            let job = Box::new(|_: &mut Vm| {});
            event_loop.after(Duration::from_secs(delay_s), job)
        };
        let (first, second) = (after(60), after(3600));
        event_loop.call_off(&first);
        assert!(event_loop.timeout_ms() > 60_000);
        event_loop.call_off(&first);
        event_loop.call_off(&second);
        assert_eq!(event_loop.timeout_ms(), -1);
    }

    #[test]
    fn whoever_asks_at_the_end_hears_that_no_answer_comes() {
        let (sender, receiver) = channel().unwrap();
        let mut event_loop = EventLoop::new(receiver).unwrap();
        let ask = || {
            let (reply, answer) = mpsc::channel::<()>();
            sender.send(Message::Job(Box::new(move |_| drop(reply))));
            answer
        };
        let before = ask();
        event_loop.hang_up();
        let after = ask();
        for answer in [before, after] {
            let heard = answer.recv_timeout(std::time::Duration::from_secs(10));
            assert_eq!(heard, Err(mpsc::RecvTimeoutError::Disconnected));
        }
    }
}
