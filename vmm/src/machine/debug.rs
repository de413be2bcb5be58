//! The machine under a debugger: which vCPUs it keeps still, and what it put into the guest.
//!
//! A vCPU runs when neither a pause nor the debugger keeps it still. All of this happens on the event loop.

use std::collections::BTreeMap;

use vm_memory::{Bytes, GuestAddress};

use super::RunningMachine;
use crate::event_loop::EventLoop;
use crate::gdb::Stops;
use crate::kvm::{DebugExit, HardwareBreak, MAX_HARDWARE_BREAKS, Traps, Vcpu};

/// `int3`.
const BREAKPOINT_INSTRUCTION: u8 = 0xcc;

/// What a debugger has of a machine.
pub(crate) struct Debugged {
    /// vCPUs that the debugger keeps still.
    held: Vec<bool>,
    /// vCPUs that make a step, or made one.
    steps: Vec<bool>,
    /// The machine is paused by the API.
    is_paused: bool,
    /// Breakpoints in the guest's code, by linear address: where that is, and what was there.
    instructions: BTreeMap<u64, (GuestAddress, u8)>,
    hardware: [Option<HardwareBreak>; MAX_HARDWARE_BREAKS],
    can_block_interrupts: bool,
    /// Stops at hardware breakpoints that the debugger is to hear of before the guest goes on.
    untold: Vec<(u8, usize)>,
    stops: Stops,
}

/// The debugger asked for something that cannot be; it hears an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Impossible;

impl RunningMachine {
    /// Puts the machine under a debugger, which hears of `stops`. All vCPUs wait for it.
    pub(crate) fn debug(&mut self, stops: Stops) {
        self.debugged = Some(Debugged {
            held: vec![true; self.vcpus.len()],
            steps: vec![false; self.vcpus.len()],
            is_paused: false,
            instructions: BTreeMap::new(),
            hardware: [None; MAX_HARDWARE_BREAKS],
            can_block_interrupts: self.vm.can_block_interrupts(),
            untold: Vec::new(),
            stops,
        });
    }

    /// Whether the debugger keeps a vCPU still.
    pub(super) fn is_held(&self, index: usize) -> bool {
        self.debugged
            .as_ref()
            .is_some_and(|debugged| debugged.is_paused || debugged.held[index])
    }

    /// The API's pause begins or ends.
    pub(super) fn note_pause(&mut self, is_paused: bool) {
        if let Some(debugged) = &mut self.debugged {
            debugged.is_paused = is_paused;
        }
    }

    /// A vCPU stopped by itself: all others stop too, and the debugger hears of it.
    pub(crate) fn stopped_for_debugger(
        &mut self,
        vcpu: u8,
        exit: DebugExit,
        event_loop: &mut EventLoop,
    ) {
        let index = usize::from(vcpu);
        self.vcpus[index].stands_still();
        let Some(debugged) = &mut self.debugged else {
            return;
        };
        if debugged.held[index] {
            // Two stopped at once, and the debugger has the other one's. To an instruction it will come again.
            if let DebugExit::Hardware(number) = exit {
                debugged.untold.push((vcpu, number));
            }
            return;
        }
        if let DebugExit::Instruction { at } = exit
            && !debugged.instructions.contains_key(&at)
        {
            // The guest's own.
            let traps = Traps {
                reflect: true,
                ..debugged.traps(debugged.steps[index])
            };
            let _ = self.set_traps(index, traps);
            self.run_vcpus();
            return;
        }
        debugged.stops.tell(vcpu, exit);
        self.hold_all(event_loop);
    }

    /// Stops all vCPUs.
    pub(crate) fn hold_all(&mut self, event_loop: &mut EventLoop) {
        if let Some(debugged) = &mut self.debugged {
            debugged.held.fill(true);
        }
        self.park_vcpus(event_loop);
    }

    /// Lets vCPUs run: all, or those of `others`. When there are `steps`, those vCPUs do one instruction, and no others
    /// run.
    pub(crate) fn release(
        &mut self,
        steps: &[u8],
        others: Option<&[u8]>,
    ) -> Result<(), Impossible> {
        let debugged = self.debugged.as_mut().ok_or(Impossible)?;
        while let Some((vcpu, number)) = debugged.untold.pop() {
            if debugged.hardware.get(number).is_some_and(Option::is_some) {
                debugged.stops.tell(vcpu, DebugExit::Hardware(number));
                return Ok(());
            }
        }
        for index in 0..self.vcpus.len() {
            let is_in = |list: &[u8]| list.iter().any(|named| usize::from(*named) == index);
            let is_step = is_in(steps);
            let goes_on = steps.is_empty() && others.is_none_or(is_in);
            let debugged = self.debugged.as_mut().ok_or(Impossible)?;
            debugged.held[index] = !is_step && !goes_on;
            debugged.steps[index] = is_step;
            let traps = debugged.traps(is_step);
            self.set_traps(index, traps)?;
        }
        self.run_vcpus();
        Ok(())
    }

    /// Takes everything back that the debugger put into the guest, and lets it run.
    pub(crate) fn forget_debugger(&mut self) {
        while let Some(at) = self.first_breakpoint() {
            self.remove_breakpoint(at);
        }
        if let Some(debugged) = &mut self.debugged {
            debugged.hardware = [None; MAX_HARDWARE_BREAKS];
        }
        // Fails only when a vCPU is gone, and then the machine is over.
        let _ = self.release(&[], None);
    }

    fn first_breakpoint(&self) -> Option<u64> {
        let (at, _) = self.debugged.as_ref()?.instructions.first_key_value()?;
        Some(*at)
    }

    fn set_traps(&self, index: usize, traps: Traps) -> Result<(), Impossible> {
        let can_block = self
            .debugged
            .as_ref()
            .is_some_and(|debugged| debugged.can_block_interrupts);
        let set = self.ask(index, move |vcpu| vcpu.set_traps(traps, can_block))?;
        set.map_err(|error| {
            tracing::warn!("the debugger cannot be served: {error}");
            Impossible
        })
    }

    /// Has a vCPU that stands still asked.
    pub(crate) fn ask<R: Send + 'static>(
        &self,
        index: usize,
        question: impl FnOnce(&mut Vcpu) -> R + Send + 'static,
    ) -> Result<R, Impossible> {
        let vcpu = self.vcpus.get(index).ok_or(Impossible)?;
        if vcpu.is_running() {
            return Err(Impossible);
        }
        vcpu.ask(question).ok_or(Impossible)
    }

    /// Which address vCPU `index` finds at `linear`.
    pub(crate) fn translate(&self, index: usize, linear: u64) -> Result<GuestAddress, Impossible> {
        self.ask(index, move |vcpu| vcpu.translate(linear))?
            .ok_or(Impossible)
    }

    /// Puts a breakpoint instruction at `linear`, as vCPU 0 finds it.
    pub(crate) fn add_breakpoint(&mut self, linear: u64) -> Result<(), Impossible> {
        let at = self.translate(0, linear)?;
        let memory = self.vm.memory();
        let before: u8 = memory.read_obj(at).map_err(|_| Impossible)?;
        let debugged = self.debugged.as_mut().ok_or(Impossible)?;
        if debugged.instructions.contains_key(&linear) {
            return Ok(());
        }
        memory
            .write_obj(BREAKPOINT_INSTRUCTION, at)
            .map_err(|_| Impossible)?;
        debugged.instructions.insert(linear, (at, before));
        Ok(())
    }

    /// Takes it away; `false` when there is none.
    pub(crate) fn remove_breakpoint(&mut self, linear: u64) -> bool {
        let Some(debugged) = &mut self.debugged else {
            return false;
        };
        let Some((at, before)) = debugged.instructions.remove(&linear) else {
            return false;
        };
        // What the guest, or the debugger, wrote there since stays.
        let memory = self.vm.memory();
        if memory
            .read_obj(at)
            .is_ok_and(|byte: u8| byte == BREAKPOINT_INSTRUCTION)
        {
            let _ = memory.write_obj(before, at);
        }
        true
    }

    /// Adds or removes hardware breakpoints; `false` when there is none of it, or no place for it.
    pub(crate) fn change_hardware(
        &mut self,
        from: Option<HardwareBreak>,
        to: Option<HardwareBreak>,
    ) -> bool {
        let Some(debugged) = &mut self.debugged else {
            return false;
        };
        match debugged.hardware.iter_mut().find(|place| **place == from) {
            Some(place) => {
                *place = to;
                true
            }
            None => false,
        }
    }

    /// The hardware breakpoint of this number.
    pub(crate) fn hardware(&self, number: usize) -> Option<HardwareBreak> {
        *self.debugged.as_ref()?.hardware.get(number)?
    }

    /// Bytes that breakpoints hide, for who reads `len` bytes at `linear`.
    pub(crate) fn hidden(&self, linear: u64, len: usize) -> Vec<(usize, u8)> {
        let Some(debugged) = &self.debugged else {
            return Vec::new();
        };
        let places = debugged
            .instructions
            .iter()
            .filter_map(|(at, (_, before))| {
                let offset = usize::try_from(at.checked_sub(linear)?).ok()?;
                (offset < len).then_some((offset, *before))
            });
        places.collect()
    }
}

impl Debugged {
    fn traps(&self, step: bool) -> Traps {
        Traps {
            step,
            instructions: !self.instructions.is_empty(),
            hardware: self.hardware,
            reflect: false,
        }
    }
}
