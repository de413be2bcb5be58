//! The machine: vCPUs, memory and how the host backs it.

use serde::{Deserialize, Serialize};

use crate::MachineError;

/// The most vCPUs a machine can have.
pub const MAX_VCPUS: u8 = 32;

/// Size of a transparent or explicit huge page.
const HUGE_PAGE_MIB: usize = 2;

/// How the host backs guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum HugePages {
    /// 4 KiB pages.
    #[default]
    None,
    /// 4 KiB pages that the kernel may gather into 2 MiB ones (`madvise(MADV_HUGEPAGE)`).
    Transparent,
    /// 2 MiB pages from the host's hugetlbfs pool.
    #[serde(rename = "2M")]
    TwoMiB,
}

/// Named CPU templates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[expect(missing_docs, reason = "the names are the whole meaning")]
pub enum CpuTemplate {
    C3,
    T2,
    T2S,
    None,
    T2CL,
    T2A,
}

/// `PUT /machine-config`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// vCPUs, 1..=32; 1 or even when `smt` is on.
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 32))]
    pub vcpu_count: u8,
    /// Guest memory in MiB, above 0.
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    pub mem_size_mib: usize,
    /// Presents pairs of vCPUs as hardware threads of one core.
    #[serde(default)]
    pub smt: bool,
    /// A named CPU template; `PUT /cpu-config` says the same. One that is absent keeps the earlier one, `None` takes it
    /// away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(deprecated))]
    pub cpu_template: Option<CpuTemplate>,
    /// Records which pages the guest writes, for incremental snapshots.
    #[serde(default)]
    pub track_dirty_pages: bool,
    /// Page size behind guest memory.
    #[serde(default)]
    pub huge_pages: HugePages,
    /// Unix socket at which the guest waits for a debugger when it starts.
    #[cfg(feature = "gdb")]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(ignore))]
    pub gdb_socket_path: Option<std::path::PathBuf>,
}

/// `PATCH /machine-config`: an absent field keeps its value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "the fields of `Machine`")]
pub struct MachinePatch {
    #[cfg_attr(feature = "openapi", schema(minimum = 1, maximum = 32))]
    pub vcpu_count: Option<u8>,
    #[cfg_attr(feature = "openapi", schema(minimum = 1))]
    pub mem_size_mib: Option<usize>,
    pub smt: Option<bool>,
    #[cfg_attr(feature = "openapi", schema(deprecated))]
    pub cpu_template: Option<CpuTemplate>,
    pub track_dirty_pages: Option<bool>,
    pub huge_pages: Option<HugePages>,
    #[cfg(feature = "gdb")]
    #[cfg_attr(feature = "openapi", schema(ignore))]
    pub gdb_socket_path: Option<std::path::PathBuf>,
}

impl Default for Machine {
    /// One vCPU and 128 MiB.
    fn default() -> Self {
        Self {
            vcpu_count: 1,
            mem_size_mib: 128,
            smt: false,
            cpu_template: None,
            track_dirty_pages: false,
            huge_pages: HugePages::None,
            #[cfg(feature = "gdb")]
            gdb_socket_path: None,
        }
    }
}

impl Machine {
    /// Checks the rules that hold between fields.
    ///
    /// # Errors
    /// The first rule that is broken, in the words the API promises.
    pub fn check(&self) -> Result<(), MachineError> {
        let smt_broken = self.smt && self.vcpu_count != 1 && !self.vcpu_count.is_multiple_of(2);
        if self.vcpu_count == 0 || self.vcpu_count > MAX_VCPUS || smt_broken {
            return Err(MachineError::VcpuCount);
        }
        let whole_pages = match self.huge_pages {
            HugePages::None => true,
            HugePages::Transparent | HugePages::TwoMiB => {
                self.mem_size_mib.is_multiple_of(HUGE_PAGE_MIB)
            }
        };
        if self.mem_size_mib == 0 || !whole_pages {
            return Err(MachineError::MemorySize);
        }
        Ok(())
    }

    /// This machine with the fields of `patch` replaced; not yet checked.
    #[must_use]
    pub fn patched(&self, patch: &MachinePatch) -> Self {
        Self {
            vcpu_count: patch.vcpu_count.unwrap_or(self.vcpu_count),
            mem_size_mib: patch.mem_size_mib.unwrap_or(self.mem_size_mib),
            smt: patch.smt.unwrap_or(self.smt),
            cpu_template: patch.cpu_template.or(self.cpu_template),
            track_dirty_pages: patch.track_dirty_pages.unwrap_or(self.track_dirty_pages),
            huge_pages: patch.huge_pages.unwrap_or(self.huge_pages),
            #[cfg(feature = "gdb")]
            gdb_socket_path: (patch.gdb_socket_path.clone()).or(self.gdb_socket_path.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debugger_is_waited_for_only_where_the_feature_is_built() {
        let json = r#"{ "vcpu_count": 1, "mem_size_mib": 64, "gdb_socket_path": "/tmp/gdb" }"#;
        let whole = serde_json::from_str::<Machine>(json);
        let patch = serde_json::from_str::<MachinePatch>(r#"{ "gdb_socket_path": "/tmp/gdb" }"#);
        if cfg!(feature = "gdb") {
            assert!(whole.is_ok() && patch.is_ok());
            return;
        }
        for error in [whole.unwrap_err(), patch.unwrap_err()] {
            let unknown = "unknown field `gdb_socket_path`";
            assert!(error.to_string().contains(unknown), "{error}");
        }
    }

    fn machine(vcpu_count: u8, mem_size_mib: usize) -> Machine {
        Machine {
            vcpu_count,
            mem_size_mib,
            ..Machine::default()
        }
    }

    #[test]
    fn vcpus_are_1_to_32() {
        for (vcpu_count, is_good) in [(0, false), (1, true), (3, true), (32, true), (33, false)] {
            assert_eq!(
                machine(vcpu_count, 128).check().is_ok(),
                is_good,
                "{vcpu_count}"
            );
        }
    }

    #[test]
    fn hardware_threads_come_in_pairs() {
        for (vcpu_count, is_good) in [(1, true), (2, true), (3, false)] {
            let machine = Machine {
                smt: true,
                ..machine(vcpu_count, 128)
            };
            assert_eq!(machine.check().is_ok(), is_good, "{vcpu_count}");
        }
    }

    #[test]
    fn memory_is_whole_pages_and_not_none() {
        for (mem_size_mib, huge_pages, is_good) in [
            (0, HugePages::None, false),
            (3, HugePages::None, true),
            (3, HugePages::Transparent, false),
            (3, HugePages::TwoMiB, false),
            (4, HugePages::TwoMiB, true),
        ] {
            let machine = Machine {
                huge_pages,
                ..machine(1, mem_size_mib)
            };
            assert_eq!(machine.check().is_ok(), is_good, "{machine:?}");
        }
    }

    #[test]
    fn a_patch_keeps_what_it_does_not_name() {
        let patch = serde_json::from_str(r#"{"vcpu_count": 4, "smt": null}"#).unwrap();
        assert_eq!(machine(1, 256).patched(&patch), machine(4, 256));
    }

    #[test]
    fn fields_may_come_as_an_array() {
        let read: Machine = serde_json::from_str("[2, 64, true]").unwrap();
        assert_eq!(
            (read.vcpu_count, read.mem_size_mib, read.smt),
            (2, 64, true)
        );
    }
}
