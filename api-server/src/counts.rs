//! Which counters of the metrics file a request belongs to.

use vmm::metrics::{Counter, PROCESS};

use crate::error::ApiError;
use crate::router::{Request, Verb};

/// Where a request is counted.
#[derive(Clone, Copy)]
pub(crate) struct Counts {
    all: &'static Counter,
    /// Of those that could not be read; `GET` has none.
    unread: Option<&'static Counter>,
}

impl Counts {
    /// Those of `request`, if it has any, which is counted.
    pub(crate) fn count(request: &Request) -> Option<Self> {
        let counts = Self::of(request)?;
        counts.all.increment();
        Some(counts)
    }

    /// The request was refused.
    pub(crate) fn refused(self, error: &ApiError) {
        // What the microVM refuses was read.
        if let (Some(unread), false) = (self.unread, matches!(error, ApiError::Command(_))) {
            unread.increment();
        }
    }

    fn of(request: &Request) -> Option<Self> {
        let mut tokens = request.tokens();
        let (first, second) = (tokens.next().unwrap_or_default(), tokens.next());
        let path = (first, second);
        match request.verb() {
            Verb::Get => of_get(path),
            Verb::Put => of_put(path),
            Verb::Patch => of_patch(path),
            Verb::Delete => None,
        }
    }
}

fn of_get(path: (&str, Option<&str>)) -> Option<Counts> {
    let get = &PROCESS.get_api_requests;
    let all = match path {
        ("", _) => &get.instance_info_count,
        ("machine-config", _) => &get.machine_cfg_count,
        ("mmds", _) => &get.mmds_count,
        ("version", _) => &get.vmm_version_count,
        ("hotplug", Some("memory")) => &get.hotplug_memory_count,
        _ => return None,
    };
    Some(Counts { all, unread: None })
}

fn of_put(path: (&str, Option<&str>)) -> Option<Counts> {
    let put = &PROCESS.put_api_requests;
    let (all, unread) = match path {
        ("actions", _) => (&put.actions_count, &put.actions_fails),
        ("boot-source", _) => (&put.boot_source_count, &put.boot_source_fails),
        ("drives", _) => (&put.drive_count, &put.drive_fails),
        ("logger", _) => (&put.logger_count, &put.logger_fails),
        ("machine-config", _) => (&put.machine_cfg_count, &put.machine_cfg_fails),
        ("cpu-config", _) => (&put.cpu_cfg_count, &put.cpu_cfg_fails),
        ("metrics", _) => (&put.metrics_count, &put.metrics_fails),
        ("network-interfaces", _) => (&put.network_count, &put.network_fails),
        ("mmds", _) => (&put.mmds_count, &put.mmds_fails),
        ("vsock", _) => (&put.vsock_count, &put.vsock_fails),
        ("pmem", _) => (&put.pmem_count, &put.pmem_fails),
        ("serial", _) => (&put.serial_count, &put.serial_fails),
        ("hotplug", Some("memory")) => (&put.hotplug_memory_count, &put.hotplug_memory_fails),
        _ => return None,
    };
    Some(Counts {
        all,
        unread: Some(unread),
    })
}

fn of_patch(path: (&str, Option<&str>)) -> Option<Counts> {
    let patch = &PROCESS.patch_api_requests;
    let (all, unread) = match path {
        ("drives", _) => (&patch.drive_count, &patch.drive_fails),
        ("network-interfaces", _) => (&patch.network_count, &patch.network_fails),
        ("machine-config", _) => (&patch.machine_cfg_count, &patch.machine_cfg_fails),
        ("mmds", _) => (&patch.mmds_count, &patch.mmds_fails),
        ("hotplug", Some("memory")) => (&patch.hotplug_memory_count, &patch.hotplug_memory_fails),
        ("pmem", _) => (&patch.pmem_count, &patch.pmem_fails),
        _ => return None,
    };
    Some(Counts {
        all,
        unread: Some(unread),
    })
}
