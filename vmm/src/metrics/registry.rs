//! Every group there is, in the order of the metrics file.
//!
//! ```text
//! Registry
//!   Section "block"      shape: each drive, and all together
//!     Source "a"         numbers: now, and as the last line had them
//!     Source "b"
//!     gone               what removed drives have counted
//!   Section "vcpu"       all together
//!   ...
//! ```

use std::sync::Arc;

use devices::metrics::{
    About, BalloonMetrics, BlockMetrics, ConsoleMetrics, EntropyMetrics, Group, GuestPanicMetrics,
    I8042Metrics, InterruptMetrics, Kind, MemMetrics, MmdsMetrics, NetMetrics, PmemMetrics,
    SerialMetrics, VhostUserBlockMetrics, VsockMetrics,
};

use super::process::{
    DeprecatedMetrics, GetMetrics, LatencyMetrics, LoggerMetrics, PatchMetrics, PutMetrics,
    SeccompMetrics, SignalMetrics, StartMetrics, VcpuMetrics, VmmMetrics,
};

/// What the metrics file shows of a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    /// All sources together.
    Sum,
    /// Each source under its name, then all together.
    EachAndSum,
    /// Each source under its name.
    Each,
}

/// Groups of one type.
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) about: &'static About,
    pub(super) show: Show,
    /// What names a source in `GET /metrics`, where there may be more than one.
    pub(super) label: Option<&'static str>,
}

const fn one(about: &'static About) -> Shape {
    Shape {
        about,
        show: Show::Sum,
        label: None,
    }
}

const fn many(about: &'static About, show: Show, label: &'static str) -> Shape {
    Shape {
        about,
        show,
        label: Some(label),
    }
}

/// All that a line has, in its order. What existing readers do not know comes last.
pub(super) static SHAPES: [Shape; 24] = [
    one(StartMetrics::ABOUT),
    one(BalloonMetrics::ABOUT),
    many(BlockMetrics::ABOUT, Show::EachAndSum, "drive_id"),
    one(DeprecatedMetrics::ABOUT),
    one(GetMetrics::ABOUT),
    one(I8042Metrics::ABOUT),
    one(SerialMetrics::ABOUT),
    one(LatencyMetrics::ABOUT),
    one(LoggerMetrics::ABOUT),
    one(MmdsMetrics::ABOUT),
    many(NetMetrics::ABOUT, Show::EachAndSum, "iface_id"),
    one(PatchMetrics::ABOUT),
    one(PutMetrics::ABOUT),
    one(SeccompMetrics::ABOUT),
    many(VcpuMetrics::ABOUT, Show::Sum, "vcpu"),
    one(VmmMetrics::ABOUT),
    one(SignalMetrics::ABOUT),
    one(VsockMetrics::ABOUT),
    one(EntropyMetrics::ABOUT),
    many(PmemMetrics::ABOUT, Show::EachAndSum, "id"),
    many(VhostUserBlockMetrics::ABOUT, Show::Each, "drive_id"),
    one(InterruptMetrics::ABOUT),
    one(MemMetrics::ABOUT),
    // Of this monitor alone.
    one(ConsoleMetrics::ABOUT),
];

/// What the guest says of itself; behind [`SHAPES`], of this monitor alone.
pub(super) static GUEST_PANIC: Shape = one(GuestPanicMetrics::ABOUT);

/// The numbers of a source, or of many together.
#[derive(Clone, Debug)]
pub(super) struct Numbers {
    pub(super) now: Box<[u64]>,
    /// As the last line had them.
    pub(super) sent: Box<[u64]>,
}

/// A group that is there.
pub(super) struct Source {
    /// Its name; of one of a kind, any.
    pub(super) name: String,
    /// As a line has it, in quotes.
    pub(super) key: String,
    pub(super) group: Arc<dyn Group>,
    pub(super) numbers: Numbers,
}

/// The groups of one type.
pub(super) struct Section {
    pub(super) shape: &'static Shape,
    /// As a line has it, in quotes.
    pub(super) key: String,
    pub(super) sources: Vec<Source>,
    /// What sources that are gone have counted.
    gone: Numbers,
    /// All together.
    pub(super) sum: Numbers,
}

/// Every group there is.
pub(super) struct Registry {
    pub(super) sections: Vec<Section>,
}

impl Numbers {
    fn none(about: &About) -> Self {
        let zeros = vec![0; about.len()].into_boxed_slice();
        Self {
            now: zeros.clone(),
            sent: zeros,
        }
    }

    fn add(&mut self, other: &Self, about: &About) {
        let kinds = about.fields.iter().flat_map(|field| field.parts);
        let now = self.now.iter_mut().zip(&other.now);
        let sent = self.sent.iter_mut().zip(&other.sent);
        for (part, (now, sent)) in kinds.zip(now.zip(sent)) {
            *now.0 = joined(part.kind, *now.0, *now.1);
            *sent.0 = joined(part.kind, *sent.0, *sent.1);
        }
    }
}

/// Two numbers of one kind as one.
fn joined(kind: Kind, one: u64, other: u64) -> u64 {
    match kind {
        Kind::Counter | Kind::Total | Kind::Store => one.wrapping_add(other),
        Kind::Max => one.max(other),
        // 0 is none yet.
        Kind::Min if one == 0 || other == 0 => one.max(other),
        Kind::Min => one.min(other),
    }
}

impl Section {
    fn new(shape: &'static Shape) -> Self {
        Self {
            shape,
            key: quoted(shape.about.key),
            sources: Vec::new(),
            gone: Numbers::none(shape.about),
            sum: Numbers::none(shape.about),
        }
    }

    /// Reads every number. Allocates nothing.
    fn read(&mut self) {
        let about = self.shape.about;
        self.sum.now.copy_from_slice(&self.gone.now);
        self.sum.sent.copy_from_slice(&self.gone.sent);
        for source in &mut self.sources {
            source.group.read(&mut source.numbers.now);
            self.sum.add(&source.numbers, about);
        }
    }

    /// A line has what was read last. Allocates nothing.
    fn commit(&mut self) {
        let sources = self.sources.iter_mut().map(|source| &mut source.numbers);
        for numbers in sources.chain([&mut self.gone]) {
            numbers.sent.copy_from_slice(&numbers.now);
        }
    }
}

impl Registry {
    pub(super) fn new() -> Self {
        let shapes = SHAPES.iter().chain([&GUEST_PANIC]);
        Self {
            sections: shapes.map(Section::new).collect(),
        }
    }

    /// From now on `group` is told, under `name` where there can be more than one.
    pub(super) fn add(&mut self, name: &str, group: Arc<dyn Group>) {
        let about = group.about();
        let is_its = |section: &&mut Section| section.shape.about.key == about.key;
        // A kind that has no place in a line is told by nobody.
        if let Some(section) = self.sections.iter_mut().find(is_its) {
            section.sources.push(Source {
                name: name.to_owned(),
                key: quoted(&format!("{}_{name}", about.key)),
                group,
                numbers: Numbers::none(about),
            });
        }
    }

    /// `group` is gone; what it has counted stays in the sum.
    pub(super) fn remove(&mut self, group: &Arc<dyn Group>) {
        for section in &mut self.sections {
            let is_it =
                |source: &Source| std::ptr::addr_eq(Arc::as_ptr(&source.group), Arc::as_ptr(group));
            if let Some(index) = section.sources.iter().position(is_it) {
                let mut source = section.sources.remove(index);
                source.group.read(&mut source.numbers.now);
                section.gone.add(&source.numbers, section.shape.about);
            }
        }
    }

    /// Reads every number. Allocates nothing.
    pub(super) fn read(&mut self) {
        self.sections.iter_mut().for_each(Section::read);
    }

    /// A line has what was read last. Allocates nothing.
    pub(super) fn commit(&mut self) {
        self.sections.iter_mut().for_each(Section::commit);
    }
}

/// As JSON has it: a name in a configuration file may have any character.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
