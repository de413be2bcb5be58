//! From a configuration to a machine, in the order that starts fastest: memory slots before interrupt
//! controllers, vCPU threads before the kernel is read.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use devices::GuestMemory;
use devices::acpi::ClockState;
use devices::memory::Blocks;
use vm_config::{BootSource, Explain, FaultCode, FaultKind, Machine};
use vm_memory::{GuestAddress, GuestMemoryError};

use crate::arch::x86_64::acpi;
use crate::arch::x86_64::cpuid::CpuidError;
use crate::arch::x86_64::layout::{MMIO_DEVICE_SIZE, memory_map, ram_regions};
use crate::arch::x86_64::mptable::write_mp_table;
use crate::arch::x86_64::regs::{BootMode, boot_fpu, boot_regs, set_boot_sregs, write_boot_tables};
use crate::arch::x86_64::system_area::{SystemArea, SystemAreaError};
use crate::arch::x86_64::template::{NamedTemplateError, NoCpuidEntry};
use crate::attach::{AttachError, Attached, MadeBefore, attach_devices};
use crate::boot::cmdline::{self, CmdlineError, CommandLine};
use crate::boot::initrd::{InitrdError, load_initrd};
use crate::boot::kernel::{KernelError, LoadedKernel, load_kernel};
use crate::boot::linux::write_zero_page;
use crate::boot::pvh::write_start_info;
use crate::boot::{self, BootInfo, Initrd};
use crate::boot_time::BootClock;
use crate::configuration::Configuration;
use crate::event_loop::Sender;
use crate::generation::{self, GenerationError};
use crate::kvm::{BootError, EntryState, Host, KvmError, KvmVm, MsrChangeError};
use crate::machine::RunningMachine;
use crate::memory::{self, AboveRam, BlockMapping, MemoryError, Nobody, PlaceAboveRam, Sharing};
use crate::memory_blocks;
use crate::pmem::{self, PmemError};
use crate::processors::Processors;
use crate::vcpu;

const MIB: u64 = 1 << 20;

/// Why a machine does not start. The configuration is as before; a corrected one can be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is nothing to boot.
    #[error("Cannot start microvm without kernel configuration.")]
    NoKernel,
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// KVM.
    #[error("Kvm error")]
    Kvm(#[from] KvmError),
    /// A file that could be opened when it was named, and cannot now.
    #[error("System configuration error: cannot open {path:?}")]
    Open {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// What the guest is told of its processors.
    #[error("System configuration error: Failed to create guest config")]
    Cpuid(#[from] CpuidError),
    /// A named CPU template on a processor that it is not for.
    #[error("Failed to get CPU template")]
    NamedTemplate(#[from] NamedTemplateError),
    /// A CPU template's change to CPUID.
    #[error("System configuration error: Failed to create guest config")]
    CpuidChange(#[from] NoCpuidEntry),
    /// A CPU template's change to a model-specific register.
    #[error("System configuration error: Failed to create guest config")]
    MsrChange(#[source] MsrChangeError),
    /// The kernel.
    #[error("System configuration error")]
    Kernel(#[from] KernelError),
    /// The initial RAM disk.
    #[error("System configuration error")]
    Initrd(#[from] InitrdError),
    /// The command line with what devices add to it.
    #[error("System configuration error")]
    CommandLine(#[from] CmdlineError),
    /// A device.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The tables that describe the machine.
    #[error("System configuration error")]
    Platform(#[from] SystemAreaError),
    /// A back end in another process has no way to see blocks come and go.
    #[error(
        "memory hotplug and a drive with `socket` cannot be in one microVM; leave one of them out"
    )]
    SharedHotplug,
    /// Persistent memory.
    #[error(transparent)]
    Pmem(#[from] PmemError),
    /// The generation id.
    #[error("System configuration error")]
    Generation(#[from] GenerationError),
    /// The tables a kernel boots with.
    #[error(
        "System configuration error: the boot tables do not fit the guest's memory; give it at least 1 MiB"
    )]
    Tables(#[from] GuestMemoryError),
    /// A vCPU's thread ended before it ran.
    #[error("a vCPU thread ended before it ran; report this with the log")]
    VcpuGone,
    /// The debugger's socket.
    #[cfg(feature = "gdb")]
    #[error(transparent)]
    Gdb(#[from] crate::gdb::GdbError),
    /// Threads.
    #[error("cannot start a vCPU thread; raise the limit on processes (`ulimit -u`, pids cgroup)")]
    Thread(#[source] io::Error),
}

impl Explain for StartError {
    fn kind(&self) -> FaultKind<'_> {
        match self {
            Self::NoKernel => FaultKind::Code(FaultCode::KernelMissing),
            Self::Memory(inner) => FaultKind::Inner(inner),
            Self::Kvm(inner) => FaultKind::Inner(inner),
            Self::Open { .. } => FaultKind::Code(FaultCode::KernelFile),
            Self::Cpuid(inner) => FaultKind::Inner(inner),
            Self::NamedTemplate(inner) => FaultKind::Inner(inner),
            Self::CpuidChange(inner) => FaultKind::Inner(inner),
            Self::MsrChange(inner) => FaultKind::Inner(inner),
            Self::Kernel(inner) => FaultKind::Inner(inner),
            Self::Initrd(inner) => FaultKind::Inner(inner),
            Self::CommandLine(inner) => FaultKind::Inner(inner),
            Self::Attach(inner) => FaultKind::Inner(inner),
            Self::Platform(inner) => FaultKind::Inner(inner),
            Self::SharedHotplug => FaultKind::Code(FaultCode::HotplugMemorySharing),
            Self::Pmem(inner) => FaultKind::Inner(inner),
            Self::Generation(inner) => FaultKind::Inner(inner),
            Self::Tables(_) => FaultKind::Code(FaultCode::GuestMemoryTooSmall),
            Self::VcpuGone => FaultKind::Code(FaultCode::InternalError),
            #[cfg(feature = "gdb")]
            Self::Gdb(_) => FaultKind::Code(FaultCode::DebuggerSocket),
            Self::Thread(_) => FaultKind::Code(FaultCode::HostLimit),
        }
    }
}

impl From<BootError> for StartError {
    fn from(error: BootError) -> Self {
        match error {
            BootError::Kvm(error) | BootError::MsrChange(MsrChangeError::Kvm(error)) => {
                Self::Kvm(error)
            }
            BootError::MsrChange(error) => Self::MsrChange(error),
        }
    }
}

/// Builds the machine that `config` describes; it does not run yet.
pub(crate) fn build(
    config: &mut Configuration,
    sender: &Sender,
) -> Result<RunningMachine, StartError> {
    if config.boot_source.is_none() {
        return Err(StartError::NoKernel);
    }
    let clock = config.has_boot_timer.then(BootClock::start);
    let all = allocate(config)?;
    let memory = Arc::clone(&all.guest);
    let built = build_in(all, config, clock, sender);
    if built.is_err() {
        memory::release(memory);
    }
    built
}

/// Guest memory, and the addresses above RAM.
struct AllMemory {
    guest: Arc<GuestMemory>,
    above_ram: Arc<AboveRam>,
    /// Where memory can be plugged.
    blocks_at: Option<PlaceAboveRam>,
}

fn allocate(config: &Configuration) -> Result<AllMemory, StartError> {
    let ram = ram_regions(config.machine.mem_size_mib);
    let above_ram = AboveRam::new(&ram);
    let (mut blocks, mut blocks_at) = (None, None);
    let sharing = config.memory_sharing();
    if let Some(stated) = config.memory_hotplug {
        if sharing == Sharing::Shared {
            return Err(StartError::SharedHotplug);
        }
        let len = u64::from(stated.total_size_mib) * MIB;
        let block_size = u64::from(stated.block_size_mib) * MIB;
        let place = above_ram.take(len, block_size, Arc::new(Nobody));
        let place = place.ok_or(MemoryError::TooLarge { len })?;
        blocks = Some((place.start(), Blocks::new(block_size, len)));
        blocks_at = Some(place);
    }
    let guest = memory::allocate(&ram, blocks, config.machine.huge_pages, sharing)?;
    Ok(AllMemory {
        guest: Arc::new(guest),
        above_ram,
        blocks_at,
    })
}

fn build_in(
    all: AllMemory,
    config: &mut Configuration,
    clock: Option<BootClock>,
    sender: &Sender,
) -> Result<RunningMachine, StartError> {
    let source = config.boot_source.clone().ok_or(StartError::NoKernel)?;
    let machine = config.machine.clone();
    let host = Host::open(&config.cpu.kvm_capabilities)?;
    let memory = &all.guest;
    let vm = host.create_vm(Arc::clone(memory), all.above_ram, machine.track_dirty_pages)?;
    let pmem = (config.pmem.iter())
        .map(|stated| pmem::open(stated, vm.memory_slots()))
        .collect::<Result<_, _>>()?;
    let vm = host.add_controllers(vm)?;
    let mapping = BlockMapping::of(memory, machine.huge_pages).zip(all.blocks_at);
    let mem = config.memory_hotplug.zip(mapping);
    let mem = mem.map(|(stated, (mapping, place))| {
        let slot_size = u64::from(stated.slot_size_mib) * MIB;
        memory_blocks::device(mapping, place, vm.memory_slots(), slot_size)
    });
    let processors = Processors::new(&host, &machine, &config.cpu)?;
    let vcpus = spawn_vcpus(&vm, machine.vcpu_count, sender)?;

    let (kernel, initrd) = load_files(memory, &source)?;
    let mut line = CommandLine::new(source.boot_args.as_deref());
    let made = MadeBefore { clock, pmem, mem };
    let attached = attach_devices(config, made, &vm, sender, &mut line)?;
    let line = line.finish()?;
    let info = BootInfo {
        cmdline: cmdline::write(memory, &line)?,
        initrd,
        rsdp: describe_platform(memory, &machine, &attached)?,
        memory_map: &memory_map(&ram_regions(machine.mem_size_mib)),
    };
    tell_kernel(memory, &kernel, &info)?;
    set_boot_states(&vcpus, &processors, &kernel)?;
    let line = String::from_utf8_lossy(line.strip_suffix(&[0]).unwrap_or(&line)).into_owned();
    Ok(RunningMachine::new(vm, vcpus, attached, line))
}

/// Writes the MP table and the ACPI tables; gives the address of the ACPI root pointer.
fn describe_platform(
    memory: &GuestMemory,
    machine: &Machine,
    attached: &Attached,
) -> Result<GuestAddress, StartError> {
    let mmio_devices: Vec<_> = attached
        .mmio_places()
        .map(|place| acpi::MmioDevice {
            start: place.address,
            len: MMIO_DEVICE_SIZE,
            gsi: place.gsi,
        })
        .collect();
    let mut area = SystemArea::default();
    write_mp_table(memory, &mut area, machine.vcpu_count)?;
    let generation_id = generation::place(memory, &mut area)?;
    let vm_clock = area.place_page(memory, &ClockState::default().page())?;
    let rsdp = acpi::write_tables(
        memory,
        &mut area,
        &acpi::Machine {
            vcpu_count: machine.vcpu_count,
            mmio_devices: &mmio_devices,
            generation_id,
            vm_clock,
            has_pci: attached.pci.is_some(),
        },
    )?;
    Ok(rsdp)
}

fn spawn_vcpus(vm: &KvmVm, count: u8, sender: &Sender) -> Result<Vec<vcpu::Handle>, StartError> {
    vcpu::install_kick_signal().map_err(StartError::Thread)?;
    (0..count)
        .map(|index| {
            let vcpu = vm.create_vcpu(index)?;
            vcpu::Handle::spawn(vcpu, index, sender.clone()).map_err(StartError::Thread)
        })
        .collect()
}

fn load_files(
    memory: &GuestMemory,
    source: &BootSource,
) -> Result<(LoadedKernel, Option<Initrd>), StartError> {
    let kernel = load_kernel(memory, &mut open(&source.kernel_image_path)?)?;
    let initrd = match &source.initrd_path {
        Some(path) => Some(load_initrd(memory, &mut open(path)?, &kernel)?),
        None => None,
    };
    Ok((kernel, initrd))
}

fn open(path: &Path) -> Result<File, StartError> {
    boot::open(path).map_err(|source| StartError::Open {
        path: path.to_owned(),
        source,
    })
}

/// Writes what the kernel's boot protocol has it find.
fn tell_kernel(
    memory: &GuestMemory,
    kernel: &LoadedKernel,
    info: &BootInfo<'_>,
) -> Result<(), StartError> {
    match kernel.mode {
        BootMode::Pvh => write_start_info(memory, info)?,
        BootMode::Linux64 => write_zero_page(memory, info, kernel.setup_header)?,
    }
    write_boot_tables(memory, kernel.mode)?;
    Ok(())
}

/// Sets the vCPUs' state, on their own threads and so side by side.
fn set_boot_states(
    vcpus: &[vcpu::Handle],
    processors: &Processors,
    kernel: &LoadedKernel,
) -> Result<(), StartError> {
    let mut answers = Vec::with_capacity(vcpus.len());
    for (index, vcpu) in (0..).zip(vcpus) {
        let entry = (index == 0).then(|| entry_state(kernel));
        answers.push(vcpu.boot(processors.boot_state(index, entry)?));
    }
    for answer in answers {
        answer.recv().map_err(|_| StartError::VcpuGone)??;
    }
    Ok(())
}

/// How the boot processor enters `kernel`; the others wait for a start-up interrupt.
fn entry_state(kernel: &LoadedKernel) -> EntryState {
    let mode = kernel.mode;
    EntryState {
        regs: boot_regs(mode, kernel.entry),
        sregs: Box::new(move |sregs| set_boot_sregs(mode, sregs)),
        fpu: boot_fpu(),
    }
}
