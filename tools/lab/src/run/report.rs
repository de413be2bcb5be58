//! Progress, failures, and the closing line that test collectors read.

use std::path::Path;
use std::time::Duration;

/// How one test ended.
pub enum Outcome {
    /// As it should.
    Passed,
    /// Why not.
    Failed(String),
}

/// Collects outcomes, and prints each as it arrives.
pub struct Report {
    passed: usize,
    failures: Vec<Failure>,
    filtered_out: usize,
}

struct Failure {
    test: String,
    reason: String,
    detail: String,
}

impl Report {
    /// An empty report. `filtered_out`: tests that exist and were not selected.
    pub fn new(filtered_out: usize) -> Self {
        Self {
            passed: 0,
            failures: Vec::new(),
            filtered_out,
        }
    }

    /// Counts and prints one outcome. The end of the output is shown at the end, for failures.
    pub fn add(
        &mut self,
        lab: usize,
        test: &str,
        outcome: Outcome,
        took: Duration,
        tail: &str,
        output: &Path,
    ) {
        let verdict = match outcome {
            Outcome::Passed => {
                self.passed += 1;
                "ok"
            }
            Outcome::Failed(reason) => {
                let detail = format!("{tail}\n(all of it and more: {})", output.display());
                self.failures.push(Failure {
                    test: test.to_owned(),
                    reason,
                    detail,
                });
                "FAILED"
            }
        };
        println!(
            "lab {lab}: test {test} ... {verdict} {:.1}s",
            took.as_secs_f64()
        );
    }

    /// Prints the failures and the closing line. `true` if there was no failure.
    pub fn finish(&self, took: Duration) -> bool {
        if !self.failures.is_empty() {
            println!("\nfailures:");
        }
        for failure in &self.failures {
            println!("\n---- {} ----\n{}", failure.test, failure.detail);
            println!("{}: {}", failure.test, failure.reason);
        }
        println!("\n{}", self.closing_line(took));
        self.failures.is_empty()
    }

    fn closing_line(&self, took: Duration) -> String {
        let verdict = if self.failures.is_empty() {
            "ok"
        } else {
            "FAILED"
        };
        format!(
            "test result: {verdict}. {} passed; {} failed; 0 ignored; 0 measured; {} filtered out; \
             finished in {:.2}s",
            self.passed,
            self.failures.len(),
            self.filtered_out,
            took.as_secs_f64()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_line_is_cargos() {
        let mut report = Report::new(2);
        report.add(0, "a", Outcome::Passed, Duration::ZERO, "", Path::new("a"));
        assert_eq!(
            report.closing_line(Duration::from_millis(12_340)),
            "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 2 filtered out; finished in 12.34s"
        );
        let failed = Outcome::Failed("why".into());
        report.add(1, "b", failed, Duration::ZERO, "", Path::new("b"));
        assert_eq!(
            report.closing_line(Duration::from_secs(1)),
            "test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 2 filtered out; finished in 1.00s"
        );
    }
}
