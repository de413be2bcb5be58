//! The endpoints: one row each in the table at the top, one function each in a file of its subject.
//!
//! The table is all there is: routing, and the interface description (feature `openapi`), both come from it.

mod actions;
mod balloon;
mod boot;
mod console;
mod devices;
mod diagnosis;
mod events;
mod logger;
mod machine;
mod memory_hotplug;
mod metrics;
mod mmds;
pub(crate) mod nowhere;
mod pmem;
mod serial;
mod snapshot;
mod state;
mod version;

use std::future::Future;
use std::pin::Pin;

use crate::answer::Answer;
use crate::error::ApiError;
use crate::router::{Api, Request, Verb, Vmm};

/// Makes the table of [`Endpoint`]s, and from the same rows the interface description.
macro_rules! endpoints {
    ($($verb:ident $path:literal $file:ident::$function:ident;)*) => {
        impl<V: Vmm> Endpoint<V> {
            /// Every endpoint.
            pub(crate) const ALL: &'static [Self] = &[$(Self {
                verb: Verb::$verb,
                path: $path,
                handler: |request, api| Box::pin($file::$function(request, api)),
            }),*];
        }

        /// The description of every endpoint.
        #[cfg(all(test, feature = "openapi"))]
        #[derive(utoipa::OpenApi)]
        #[openapi(paths($($file::$function),*))]
        pub(crate) struct Description;
    };
}

// The first row that fits answers: longer paths come before their beginnings.
endpoints! {
    Get "/" version::get_instance;
    Get "/version" version::get_version;
    Get "/events" events::get_events;
    Get "/machine-config" machine::get_machine;
    Put "/machine-config" machine::put_machine;
    Patch "/machine-config" machine::patch_machine;
    Put "/cpu-config" machine::put_cpu_config;
    Put "/boot-source" boot::put_boot_source;
    Put "/drives/{id}" devices::put_drive;
    Patch "/drives/{id}" devices::patch_drive;
    Delete "/drives/{id}" devices::delete_drive;
    Put "/network-interfaces/{id}" devices::put_network_interface;
    Patch "/network-interfaces/{id}" devices::patch_network_interface;
    Delete "/network-interfaces/{id}" devices::delete_network_interface;
    Put "/pmem/{id}" pmem::put_pmem;
    Patch "/pmem/{id}" pmem::patch_pmem;
    Delete "/pmem/{id}" pmem::delete_pmem;
    Put "/vsock" devices::put_vsock;
    Put "/entropy" devices::put_entropy;
    Put "/hotplug/memory" memory_hotplug::put_memory_hotplug;
    Get "/hotplug/memory" memory_hotplug::get_memory_hotplug;
    Patch "/hotplug/memory" memory_hotplug::patch_memory_hotplug;
    Put "/mmds/config" mmds::put_config;
    Get "/mmds" mmds::get_mmds;
    Put "/mmds" mmds::put_mmds;
    Patch "/mmds" mmds::patch_mmds;
    Put "/balloon" balloon::put_balloon;
    Get "/balloon/statistics" balloon::get_statistics;
    Get "/balloon/hinting/status" balloon::get_hinting_status;
    Get "/balloon" balloon::get_balloon;
    Patch "/balloon/statistics" balloon::patch_statistics;
    Patch "/balloon/hinting/start" balloon::start_hinting;
    Patch "/balloon/hinting/stop" balloon::stop_hinting;
    Patch "/balloon" balloon::patch_balloon;
    Put "/logger" logger::put_logger;
    Put "/metrics" metrics::put_metrics;
    Get "/metrics" metrics::get_metrics;
    Put "/serial" serial::put_serial;
    Put "/console" console::put_console;
    Put "/actions" actions::put_action;
    Patch "/vm" state::patch_vm;
    Get "/vm/config" state::get_vm_config;
    Get "/vm/diagnosis" diagnosis::get_diagnosis;
    Put "/snapshot/create" snapshot::create_snapshot;
    Put "/snapshot/load" snapshot::load_snapshot;
}

/// One row of the table.
pub(crate) struct Endpoint<V: 'static> {
    pub(crate) verb: Verb,
    /// Tokens, or `/first/{id}`.
    pub(crate) path: &'static str,
    pub(crate) handler: Handler<V>,
}

/// What answers at an endpoint: called with a request that passed the checks of the router.
pub(crate) type Handler<V> = for<'a> fn(&'a Request, &'a Api<V>) -> Answering<'a>;

type Answering<'a> = Pin<Box<dyn Future<Output = Result<Answer, ApiError>> + 'a>>;
