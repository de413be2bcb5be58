//! The guest as the protocol sees it: one thread for each vCPU, numbered from 1.

use std::num::NonZeroUsize;
use std::sync::mpsc;

use gdbstub::arch::Arch;
use gdbstub::common::{Signal, Tid};
use gdbstub::stub::MultiThreadStopReason;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{
    MultiThreadBase, MultiThreadResume, MultiThreadResumeOps, MultiThreadSchedulerLocking,
    MultiThreadSchedulerLockingOps, MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps,
    SwBreakpoint, SwBreakpointOps, WatchKind,
};
use gdbstub::target::{Target, TargetError, TargetResult};
use gdbstub_arch::x86::X86_64_SSE;

use super::{memory, registers};
use crate::ExitReason;
use crate::event_loop::{Message, Sender};
use crate::kvm::{DebugExit, HardwareBreak, HardwareKind};
use crate::machine::{Impossible, RunningMachine};

/// The machine is over: nobody answers.
#[derive(Debug)]
pub(super) struct Gone;

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the machine is over")
    }
}

/// The way to the guest.
pub(super) struct Guest {
    event_loop: Sender,
    vcpu_count: usize,
    /// vCPUs that are to make a step when the guest goes on.
    steps: Vec<u8>,
    /// vCPUs that are named to go on.
    continues: Vec<u8>,
    /// Those that are not named stand still.
    is_locked: bool,
}

type Registers = <X86_64_SSE as Arch>::Registers;

impl Guest {
    pub(super) fn new(event_loop: Sender, vcpu_count: usize) -> Self {
        Self {
            event_loop,
            vcpu_count,
            steps: Vec::new(),
            continues: Vec::new(),
            is_locked: false,
        }
    }

    /// Has something done with the machine on the event loop, and waits for it.
    fn with<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut RunningMachine, &mut crate::event_loop::EventLoop) -> R + Send + 'static,
    ) -> Result<R, Gone> {
        let (reply, answer) = mpsc::sync_channel(1);
        self.event_loop.send(Message::Job(Box::new(move |vm| {
            if let Some(machine) = &mut vm.machine {
                // Whoever asked waits.
                let _ = reply.send(work(machine, &mut vm.event_loop));
            }
        })));
        answer.recv().map_err(|_| Gone)
    }

    /// The same, for what can be refused.
    fn attempt<R: Send + 'static>(
        &self,
        work: impl FnOnce(&mut RunningMachine) -> Result<R, Impossible> + Send + 'static,
    ) -> TargetResult<R, Self> {
        match self.with(|machine, _| work(machine)) {
            Ok(Ok(result)) => Ok(result),
            Ok(Err(Impossible)) => Err(TargetError::NonFatal),
            Err(gone) => Err(TargetError::Fatal(gone)),
        }
    }

    /// Stops all vCPUs.
    pub(super) fn stop(&self) -> Result<(), Gone> {
        self.with(RunningMachine::hold_all)
    }

    /// The debugger left: the guest goes on as if it had never been there.
    pub(super) fn forget(&self) -> Result<(), Gone> {
        self.with(|machine, _| machine.forget_debugger())
    }

    /// Ends the machine.
    pub(super) fn kill(&self) -> Result<(), Gone> {
        self.event_loop.send(Message::Ended(ExitReason::Killed));
        Err(Gone)
    }

    /// What the debugger is told of a stop.
    pub(super) fn stop_reason(&self, vcpu: u8, exit: DebugExit) -> MultiThreadStopReason<u64> {
        let tid = NonZeroUsize::MIN.saturating_add(vcpu.into());
        match exit {
            DebugExit::Instruction { .. } => MultiThreadStopReason::SwBreak(tid),
            DebugExit::Step => MultiThreadStopReason::SignalWithThread {
                tid,
                signal: Signal::SIGTRAP,
            },
            DebugExit::Hardware(number) => {
                let found = self.with(move |machine, _| machine.hardware(number));
                let watch = |kind, addr| MultiThreadStopReason::Watch { tid, kind, addr };
                match found.ok().flatten() {
                    Some(stop) if stop.kind == HardwareKind::Write => {
                        watch(WatchKind::Write, stop.at)
                    }
                    Some(stop) if stop.kind == HardwareKind::Access => {
                        watch(WatchKind::ReadWrite, stop.at)
                    }
                    _ => MultiThreadStopReason::HwBreak(tid),
                }
            }
        }
    }
}

/// The vCPU of a thread.
fn vcpu(tid: Tid) -> usize {
    tid.get() - 1
}

impl Target for Guest {
    type Arch = X86_64_SSE;
    type Error = Gone;

    fn base_ops(&mut self) -> BaseOps<'_, Self::Arch, Self::Error> {
        BaseOps::MultiThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadBase for Guest {
    fn read_registers(&mut self, seen: &mut Registers, tid: Tid) -> TargetResult<(), Self> {
        *seen = self.attempt(move |machine| {
            let found = machine.ask(vcpu(tid), |vcpu| vcpu.registers())?;
            let (regs, sregs, fpu) = found.map_err(|_| Impossible)?;
            Ok(registers::to_gdb(&regs, &sregs, &fpu))
        })?;
        Ok(())
    }

    fn write_registers(&mut self, set: &Registers, tid: Tid) -> TargetResult<(), Self> {
        let set = set.clone();
        self.attempt(move |machine| {
            let done = machine.ask(vcpu(tid), move |vcpu| {
                let (mut regs, _, mut fpu) = vcpu.registers()?;
                registers::from_gdb(&set, &mut regs, &mut fpu);
                vcpu.set_registers(&regs, &fpu)
            })?;
            done.map_err(|_| Impossible)
        })
    }

    fn read_addrs(&mut self, start: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        let len = data.len();
        let bytes = self.attempt(move |machine| memory::read(machine, vcpu(tid), start, len))?;
        data[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn write_addrs(&mut self, start: u64, data: &[u8], tid: Tid) -> TargetResult<(), Self> {
        let data = data.to_vec();
        self.attempt(move |machine| memory::write(machine, vcpu(tid), start, &data))
    }

    fn list_active_threads(&mut self, is_active: &mut dyn FnMut(Tid)) -> Result<(), Gone> {
        (1..=self.vcpu_count)
            .filter_map(NonZeroUsize::new)
            .for_each(is_active);
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadResume for Guest {
    fn resume(&mut self) -> Result<(), Gone> {
        let steps = self.steps.clone();
        let others = self.is_locked.then(|| self.continues.clone());
        let released = self.with(move |machine, _| machine.release(&steps, others.as_deref()))?;
        // Fails only when a vCPU is gone.
        released.map_err(|Impossible| Gone)
    }

    fn clear_resume_actions(&mut self) -> Result<(), Gone> {
        self.steps.clear();
        self.continues.clear();
        self.is_locked = false;
        Ok(())
    }

    /// All that make no step go on, unless one makes a step: then the others wait.
    fn set_resume_action_continue(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), Gone> {
        self.continues.extend(u8::try_from(vcpu(tid)));
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl MultiThreadSchedulerLocking for Guest {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), Gone> {
        self.is_locked = true;
        Ok(())
    }
}

impl MultiThreadSingleStep for Guest {
    fn set_resume_action_step(&mut self, tid: Tid, _: Option<Signal>) -> Result<(), Gone> {
        self.steps.extend(u8::try_from(vcpu(tid)));
        Ok(())
    }
}

impl Breakpoints for Guest {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl SwBreakpoint for Guest {
    fn add_sw_breakpoint(&mut self, at: u64, _: usize) -> TargetResult<bool, Self> {
        self.attempt(move |machine| Ok(machine.add_breakpoint(at).is_ok()))
    }

    fn remove_sw_breakpoint(&mut self, at: u64, _: usize) -> TargetResult<bool, Self> {
        self.attempt(move |machine| Ok(machine.remove_breakpoint(at)))
    }
}

impl HwBreakpoint for Guest {
    fn add_hw_breakpoint(&mut self, at: u64, _: usize) -> TargetResult<bool, Self> {
        self.attempt(move |machine| Ok(machine.change_hardware(None, Some(execute(at)))))
    }

    fn remove_hw_breakpoint(&mut self, at: u64, _: usize) -> TargetResult<bool, Self> {
        self.attempt(move |machine| Ok(machine.change_hardware(Some(execute(at)), None)))
    }
}

fn execute(at: u64) -> HardwareBreak {
    HardwareBreak {
        at,
        len: 1,
        kind: HardwareKind::Execute,
    }
}

impl HwWatchpoint for Guest {
    fn add_hw_watchpoint(
        &mut self,
        at: u64,
        len: u64,
        kind: WatchKind,
    ) -> TargetResult<bool, Self> {
        let Some(stop) = watch(at, len, kind) else {
            return Ok(false);
        };
        self.attempt(move |machine| Ok(machine.change_hardware(None, Some(stop))))
    }

    fn remove_hw_watchpoint(
        &mut self,
        at: u64,
        len: u64,
        kind: WatchKind,
    ) -> TargetResult<bool, Self> {
        let Some(stop) = watch(at, len, kind) else {
            return Ok(false);
        };
        self.attempt(move |machine| Ok(machine.change_hardware(Some(stop), None)))
    }
}

/// `None` for a place that a debug register cannot watch.
fn watch(at: u64, len: u64, kind: WatchKind) -> Option<HardwareBreak> {
    let kind = match kind {
        WatchKind::Write => HardwareKind::Write,
        WatchKind::Read | WatchKind::ReadWrite => HardwareKind::Access,
    };
    let is_possible = matches!(len, 1 | 2 | 4 | 8) && at.is_multiple_of(len);
    is_possible.then_some(HardwareBreak { at, len, kind })
}
