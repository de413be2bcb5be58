//! `/metrics`, and `FlushMetrics`.

use vm_config::{InstanceId, MetricsConfig};

use super::{AFTER_START, ANY_STATE, BEFORE_START, Command, CommandError};
use crate::metrics::{Gauges, Instance, METRICS, PERIOD};
use crate::{Lifecycle, Vm};

/// `PUT /metrics`.
pub struct PutMetrics {
    /// Where lines go, and what they have.
    pub config: MetricsConfig,
    /// The microVM's name.
    pub id: InstanceId,
}
/// `GET /metrics`: everything counted so far, as [`crate::metrics::CONTENT_TYPE`].
pub struct GetMetrics(pub Instance);
/// `PUT /actions` `FlushMetrics`. Without a file it writes nothing.
pub struct FlushMetrics;

impl Command for PutMetrics {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = BEFORE_START;

    fn run(self, _: &mut Vm) -> Result<(), CommandError> {
        Ok(METRICS.configure(&self.config, &self.id)?)
    }
}

impl Command for GetMetrics {
    type Reply = String;
    const ALLOWED: &'static [Lifecycle] = ANY_STATE;

    fn run(self, vm: &mut Vm) -> Result<String, CommandError> {
        let gauges = Gauges::of(vm);
        Ok(METRICS.exposition(&self.0, vm.lifecycle, &gauges))
    }
}

impl Command for FlushMetrics {
    type Reply = ();
    const ALLOWED: &'static [Lifecycle] = AFTER_START;

    fn run(self, _: &mut Vm) -> Result<(), CommandError> {
        METRICS.flush();
        Ok(())
    }
}

impl Vm {
    /// Writes the first line, and has the others follow. Without a file there is no timer: an idle VM stays so.
    pub(super) fn begin_metrics(&mut self) {
        if METRICS.is_configured() {
            METRICS.flush();
            self.event_loop.after(PERIOD, Box::new(Self::begin_metrics));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::tests::vm;

    /// The only test that configures the metrics of this process.
    #[test]
    fn lines_follow_each_other_once_there_is_a_file_and_no_timer_runs_before() {
        let mut vm = vm();
        vm.begin_metrics();
        assert!(!vm.event_loop.has_appointments(), "an idle VM wakes up");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics");
        let config = serde_json::json!({ "metrics_path": path });
        let put = || PutMetrics {
            config: serde_json::from_value(config.clone()).unwrap(),
            id: InstanceId::default(),
        };
        vm.execute(put()).unwrap();
        let refused = vm.execute(put()).unwrap_err();
        assert!(matches!(refused, CommandError::Metrics(_)));
        vm.begin_metrics();
        assert!(vm.event_loop.has_appointments());
        let lines = || std::fs::read_to_string(&path).unwrap().lines().count();
        assert_eq!(lines(), 1);
        // A paused machine goes on to tell.
        vm.lifecycle = Lifecycle::Paused;
        vm.execute(FlushMetrics).unwrap();
        assert_eq!(lines(), 2);
        assert!(vm.execute(put()).is_err());
    }
}
