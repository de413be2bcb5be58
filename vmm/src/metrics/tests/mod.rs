//! What lines and `GET /metrics` tell of groups that are not a machine's.

mod exposition;
mod lines;
mod page;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use devices::metrics::{BlockMetrics, Group};
use serde_json::Value;
use tempfile::TempDir;

use super::*;

/// Metrics of nobody, and a file for lines.
struct Fixture {
    metrics: &'static Metrics,
    folder: TempDir,
}

impl Fixture {
    fn new() -> Self {
        let process: &ProcessMetrics = Box::leak(Box::default());
        Self {
            metrics: Box::leak(Box::new(Metrics::new(process))),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// With lines written to a file.
    fn with_lines() -> Self {
        let fixture = Self::new();
        fixture.configure(&fixture.path()).unwrap();
        fixture
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("metrics")
    }

    fn configure(&self, path: &Path) -> Result<(), MetricsError> {
        let config = serde_json::json!({ "metrics_path": path });
        let config = serde_json::from_value(config).unwrap();
        self.metrics.configure(&config, &InstanceId::default())
    }

    fn drive(&self, id: &str) -> Arc<BlockMetrics> {
        let drive = Arc::<BlockMetrics>::default();
        self.metrics.add(id, Arc::clone(&drive) as Arc<dyn Group>);
        drive
    }

    fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path()).unwrap();
        assert!(text.ends_with('\n'));
        let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
        lines.collect()
    }

    /// Writes a line and gives it.
    fn flush(&self) -> Value {
        self.metrics.flush();
        self.lines().pop().unwrap()
    }

    fn text(&self) -> String {
        let instance = Instance {
            id: "some-vm".to_owned(),
            version: "1.2.3",
            api_level: "4.5.6",
        };
        let gauges = Gauges::of(&crate::vm::tests::vm());
        self.metrics
            .exposition(&instance, Lifecycle::Paused, &gauges)
    }
}
