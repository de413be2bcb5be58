//! Samples and the table they end in.

use crate::Monitor;

/// One figure of one monitor over many runs.
#[derive(Default)]
pub struct Samples {
    values: Vec<f64>,
    /// Runs that gave no figure.
    pub failures: usize,
}

impl Samples {
    /// Adds a run's figure.
    pub fn add(&mut self, value: f64) {
        self.values.push(value);
    }

    /// The value below which `fraction` of the samples lie.
    fn quantile(&self, fraction: f64) -> Option<f64> {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index between 0 and a few hundred"
        )]
        let index = (fraction * last as f64).round() as usize;
        sorted.get(index).copied()
    }
}

/// Rows of figures, a column a monitor.
pub struct Table {
    names: Vec<&'static str>,
    rows: Vec<Row>,
}

struct Row {
    name: String,
    unit: &'static str,
    samples: Vec<Samples>,
}

impl Table {
    /// An empty table for these monitors.
    pub fn new(monitors: &[Monitor]) -> Self {
        Self {
            names: monitors.iter().map(|monitor| monitor.name).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a figure; `samples` has one entry a monitor.
    pub fn add(&mut self, name: &str, unit: &'static str, samples: Vec<Samples>) {
        self.rows.push(Row {
            name: name.to_owned(),
            unit,
            samples,
        });
    }

    /// Adds `figures` of one workload, name and unit of each; `runs` has, of every monitor, the figures of each run in
    /// their order, or `None` for a run that gave none.
    pub fn add_group(
        &mut self,
        workload: &str,
        figures: &[(&str, &'static str)],
        runs: Vec<Vec<Option<Vec<f64>>>>,
    ) {
        for (index, (figure, unit)) in figures.iter().enumerate() {
            let samples = runs.iter().map(|runs| {
                let mut samples = Samples::default();
                for run in runs {
                    match run.as_ref().and_then(|figures| figures.get(index)) {
                        Some(value) => samples.add(*value),
                        None => samples.failures += 1,
                    }
                }
                samples
            });
            self.add(&format!("{workload}: {figure}"), unit, samples.collect());
        }
    }

    /// Prints it as Markdown: median (minimum, 90th percentile; n), and the ratio of the medians.
    pub fn print(&self) {
        println!("| figure | unit | {} | ratio |", self.names.join(" | "));
        println!("|---|---|{}---|", "---|".repeat(self.names.len()));
        for row in &self.rows {
            let cells: Vec<_> = row.samples.iter().map(cell).collect();
            let medians: Vec<_> = row.samples.iter().map(|s| s.quantile(0.5)).collect();
            let ratio = match medians[..] {
                [Some(ours), Some(peer)] => format!("{:.2}", ours / peer),
                _ => String::new(),
            };
            println!(
                "| {} | {} | {} | {ratio} |",
                row.name,
                row.unit,
                cells.join(" | ")
            );
        }
    }
}

fn cell(samples: &Samples) -> String {
    let [Some(min), Some(median), Some(p90)] = [0.0, 0.5, 0.9].map(|f| samples.quantile(f)) else {
        return format!("no figure, {} failed", samples.failures);
    };
    let failures = match samples.failures {
        0 => String::new(),
        count => format!(", {count} failed"),
    };
    format!(
        "{} ({}, {}; n={}{failures})",
        short(median),
        short(min),
        short(p90),
        samples.values.len()
    )
}

/// Two digits behind the point, and more of a small number.
fn short(value: f64) -> String {
    if value.abs() < 0.1 {
        format!("{value:.4}")
    } else {
        format!("{value:.2}")
    }
}
