//! vCPU threads: parked until told to run, kicked to stand still again. Whoever wants to know where one is asks it, and it
//! answers wherever it is, without parking.
//!
//! ```text
//!            Boot, Run                    kick
//!  parked ---------------> in the guest ---------> parked (tells the event loop)
//!     ^  waits on its channel    |
//!     +--------------------------+  the machine is over (tells the event loop)
//! ```

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::{Builder, JoinHandle};

use devices::legacy::ResetLine;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::ExitReason;
use crate::bus::Bus;
use crate::event_loop::{Message, Sender};
use crate::kvm::{BootError, BootState, ExitLog, Kick, KvmError, Turn, Vcpu, VcpuState};
use crate::metrics::VcpuMetrics;

/// Stack of a vCPU thread: it handles one exit at a time, without recursion.
const STACK_BYTES: usize = 128 << 10;

// What a vCPU in the guest is kicked for.
/// It is to park.
const PARK: u8 = 1 << 0;
/// A request waits for it.
const REQUEST: u8 = 1 << 1;

/// What a vCPU finds around it.
#[derive(Clone)]
pub(crate) struct Surroundings {
    pub(crate) ports: Arc<Bus>,
    pub(crate) mmio: Arc<Bus>,
    pub(crate) end: Arc<MachineEnd>,
}

/// The end of the machine at the guest's request. No vCPU that sees it runs another instruction.
pub(crate) struct MachineEnd {
    is_over: AtomicBool,
    event_loop: Sender,
}

impl MachineEnd {
    pub(crate) fn new(event_loop: Sender) -> Self {
        Self {
            is_over: AtomicBool::new(false),
            event_loop,
        }
    }

    /// The guest switched the machine off.
    pub(crate) fn power_off(&self) {
        self.end(ExitReason::PowerOff);
    }

    fn end(&self, reason: ExitReason) {
        self.is_over.store(true, Ordering::Release);
        self.event_loop.send(Message::Ended(reason));
    }
}

/// A guest's request to reset the machine ends it.
impl ResetLine for MachineEnd {
    fn reset(&self) {
        self.end(ExitReason::Reset);
    }
}

enum Request {
    Boot(Box<BootState>, mpsc::SyncSender<Result<(), BootError>>),
    Run(Surroundings),
    Look(u32),
    /// Something else, while it is parked.
    #[cfg(feature = "gdb")]
    Do(Box<dyn FnOnce(&mut Vcpu) + Send>),
}

/// Where a vCPU was when it was asked.
pub(crate) struct Sight {
    pub(crate) vcpu: u8,
    /// The number of the question.
    pub(crate) question: u32,
    pub(crate) state: Result<VcpuState, KvmError>,
}

/// The owner's end of a vCPU thread.
pub(crate) struct Handle {
    requests: mpsc::Sender<Request>,
    /// Set before a kick, cleared by the vCPU when it looks: `PARK`, `REQUEST`.
    wishes: Arc<AtomicU8>,
    exits: Arc<ExitLog>,
    // The thread owns the `Vcpu` and ends only after `requests` is gone, so this stays valid.
    kick: Kick,
    /// It may be in the guest: it was told to run, and has not parked since as far as the event loop knows.
    is_running: AtomicBool,
    /// `None` once it is joined.
    thread: Option<JoinHandle<()>>,
}

/// Installs the handler that makes a signal interrupt `KVM_RUN`. Once per process, before the first vCPU runs.
///
/// # Errors
/// When the kernel refuses the handler.
pub(crate) fn install_kick_signal() -> io::Result<()> {
    extern "C" fn nothing(_: i32, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    register_signal_handler(SIGRTMIN(), nothing).map_err(io::Error::from)
}

impl Handle {
    /// Starts the thread of `vcpu`, parked.
    ///
    /// # Errors
    /// When the host gives no thread.
    pub(crate) fn spawn(vcpu: Vcpu, index: u8, event_loop: Sender) -> io::Result<Self> {
        let (requests, inbox) = mpsc::channel();
        let wishes = Arc::new(AtomicU8::new(0));
        let exits = vcpu.exits();
        let kick = vcpu.kick();
        let thread = Thread {
            vcpu,
            index,
            inbox,
            wishes: Arc::clone(&wishes),
            event_loop,
        };
        let thread = Builder::new()
            .name(format!("vcpu/{index}"))
            .stack_size(STACK_BYTES)
            .spawn(move || thread.serve())?;
        Ok(Self {
            requests,
            wishes,
            exits,
            kick,
            is_running: AtomicBool::new(false),
            thread: Some(thread),
        })
    }

    /// What it counts.
    pub(crate) fn metrics(&self) -> Arc<VcpuMetrics> {
        Arc::clone(self.exits.metrics())
    }

    /// Sets the state the vCPU boots with; the answer comes through the channel.
    pub(crate) fn boot(&self, state: BootState) -> mpsc::Receiver<Result<(), BootError>> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.request(Request::Boot(Box::new(state), reply));
        answer
    }

    /// Whether it was told to run, and nobody heard since that it stands still.
    pub(crate) fn is_running(&self) -> bool {
        self.is_running.load(Ordering::Relaxed)
    }

    /// It was heard that it stands still.
    pub(crate) fn stands_still(&self) {
        self.is_running.store(false, Ordering::Relaxed);
    }

    /// Has something done on the vCPU while it is parked, and waits for it; `None` when its thread is gone.
    #[cfg(feature = "gdb")]
    pub(crate) fn ask<R: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Vcpu) -> R + Send + 'static,
    ) -> Option<R> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.request(Request::Do(Box::new(move |vcpu| {
            // Whoever asked waits.
            let _ = reply.send(question(vcpu));
        })));
        answer.recv().ok()
    }

    /// Lets the parked vCPU run.
    pub(crate) fn run(&self, around: Surroundings) {
        self.is_running.store(true, Ordering::Relaxed);
        // Set by a kick that came after it had stopped for another reason.
        self.wishes.fetch_and(!PARK, Ordering::AcqRel);
        self.request(Request::Run(around));
    }

    /// Makes the vCPU park; it says so with [`Message::Parked`].
    pub(crate) fn park(&self) {
        self.wish(PARK);
    }

    /// Has the vCPU say where it is, with [`Message::Seen`] and the number of the `question`. It goes on as before.
    pub(crate) fn look(&self, question: u32) {
        self.request(Request::Look(question));
        self.wish(REQUEST);
    }

    /// What it left the guest for.
    pub(crate) fn exits(&self) -> &ExitLog {
        &self.exits
    }

    fn wish(&self, wish: u8) {
        self.wishes.fetch_or(wish, Ordering::Release);
        self.kick.request_exit();
        if let Some(thread) = &self.thread {
            // Fails only when the thread is gone, and then nothing runs.
            let _ = thread.kill(SIGRTMIN());
        }
    }

    fn request(&self, request: Request) {
        // The thread lives as long as this handle, unless the process is about to end.
        let _ = self.requests.send(request);
    }
}

/// A start that failed waits for its parked vCPUs: with them the VM is gone, and its memory can go. A machine that
/// runs is never dropped.
impl Drop for Handle {
    fn drop(&mut self) {
        let (unconnected, _) = mpsc::channel();
        self.requests = unconnected;
        if let Some(thread) = self.thread.take() {
            // One that panicked is gone too.
            let _ = thread.join();
        }
    }
}

/// The thread's end.
struct Thread {
    vcpu: Vcpu,
    index: u8,
    inbox: mpsc::Receiver<Request>,
    wishes: Arc<AtomicU8>,
    event_loop: Sender,
}

impl Thread {
    fn serve(mut self) {
        while let Ok(request) = self.inbox.recv() {
            self.answer(request);
        }
    }

    fn answer(&mut self, request: Request) {
        match request {
            #[cfg(feature = "gdb")]
            Request::Do(question) => question(&mut self.vcpu),
            Request::Boot(state, reply) => {
                // Nobody waits when the start was given up.
                let _ = reply.send(self.vcpu.set_boot_state(*state));
            }
            Request::Run(around) => {
                let message = self.run(&around);
                self.event_loop.send(message);
            }
            Request::Look(question) => self.event_loop.send(Message::Seen(Box::new(Sight {
                vcpu: self.index,
                question,
                state: self.vcpu.state(),
            }))),
        }
    }

    fn run(&mut self, around: &Surroundings) -> Message {
        loop {
            if around.end.is_over.load(Ordering::Acquire) {
                return Message::Parked;
            }
            let wishes = self.take_wishes(around);
            if wishes & PARK != 0 {
                return Message::Parked;
            }
            // Nobody asks a running vCPU anything but where it is. What came with `PARK` is answered once it is parked.
            while wishes & REQUEST != 0
                && let Ok(request) = self.inbox.try_recv()
            {
                self.answer(request);
            }
            match self.vcpu.run(&*around.ports, &*around.mmio) {
                Turn::Handled | Turn::Interrupted => {}
                #[cfg(feature = "gdb")]
                Turn::Debug(exit) => return Message::Debug(self.index, exit),
                Turn::Ended(reason) => return Message::Ended(reason),
            }
        }
    }

    /// What it is wanted for, with no access half done. Finishing one uses up the kick of a wish that comes meanwhile, so
    /// it looks until there is none.
    fn take_wishes(&mut self, around: &Surroundings) -> u8 {
        let mut all = 0;
        loop {
            let wishes = self.wishes.swap(0, Ordering::AcqRel);
            if wishes == 0 {
                return all;
            }
            all |= wishes;
            self.vcpu.finish_access(&*around.ports, &*around.mmio);
        }
    }
}

#[cfg(test)]
mod tests;
