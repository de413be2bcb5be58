//! `lab run`: spreads the tests over outer machines and reports as `cargo test` does.
//!
//! Each lab is a thread with at most one outer machine. It takes the next test from a common
//! queue, so exactly one test is at stake when a machine hangs or dies: that test fails by name,
//! and the lab boots a fresh machine for the rest. No test is run twice, and no machine is used
//! again after a failure.

mod list;
mod logs;
mod report;

use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::outer::{Outer, tail};
use crate::programs::Programs;
use crate::protocol::{Event, Frame, Request};
use crate::setup::Images;

pub use list::{Selection, Test, list};
pub use logs::Logs;
use report::{Outcome, Report};

/// What to run, and with what.
pub struct Plan {
    /// Outer machines side by side.
    pub jobs: usize,
    /// Which tests.
    pub selection: Selection,
    /// What is under test.
    pub programs: Programs,
    /// What it boots.
    pub images: Images,
    /// Where logs go.
    pub logs: PathBuf,
}

/// What the labs share.
struct Shared<'a> {
    plan: &'a Plan,
    initramfs: File,
    logs: Logs,
    queue: Mutex<VecDeque<Test>>,
    report: Mutex<Report>,
}

/// Runs the plan. `false` if a test failed.
///
/// # Errors
/// When no test can be run at all.
pub fn run(plan: &Plan) -> Result<bool> {
    let started = Instant::now();
    let all = list(&plan.programs.tests)?;
    let total = all.len();
    let tests = plan.selection.apply(all)?;
    let labs = plan.jobs.clamp(1, tests.len());
    println!("monitor: {}", plan.programs.monitor.display());
    println!("running {} tests in {labs} labs", tests.len());

    let report = Report::new(total - tests.len());
    let shared = Shared {
        plan,
        initramfs: plan.programs.append_to(&plan.images.outer_initramfs())?,
        logs: Logs::at(&plan.logs)?,
        queue: Mutex::new(tests.into()),
        report: Mutex::new(report),
    };
    thread::scope(|scope| {
        for lab in 0..labs {
            let shared = &shared;
            scope.spawn(move || shared.serve(lab));
        }
    });
    let report = shared
        .report
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    Ok(report.finish(started.elapsed()))
}

impl Shared<'_> {
    /// One lab: runs tests until there is none left.
    fn serve(&self, lab: usize) {
        let mut machine = None;
        while let Some(test) = self.next_test() {
            let started = Instant::now();
            let outcome = match self.run_test(lab, &mut machine, &test) {
                Ok(None) => Outcome::Passed,
                Ok(Some(failure)) => Outcome::Failed(failure),
                Err(error) => Outcome::Failed(format!("{error:#}")),
            };
            // Whatever went wrong must not reach the next test.
            if matches!(outcome, Outcome::Failed(_)) {
                machine = None;
            }
            let output = self.logs.output(&test.name);
            let tail = tail(&output, 40);
            self.report()
                .add(lab, &test.name, outcome, started.elapsed(), &tail, &output);
        }
    }

    /// Runs one test on the lab's machine, booting one if it has none.
    fn run_test(
        &self,
        lab: usize,
        machine: &mut Option<Outer>,
        test: &Test,
    ) -> Result<Option<String>> {
        let logs = self.logs.start(&test.name)?;
        let outer = match machine {
            Some(outer) => outer,
            None => machine.insert(self.boot(lab)?),
        };
        let request = Request::Run {
            arguments: vec!["run".to_owned(), test.name.clone()],
            timeout_s: test.timeout_s,
        };
        let result = outer.run(&request, |frame: &Frame<Event>| logs.keep(frame));
        if result.is_err() {
            logs.copy(&self.logs.console(lab), "outer-console.log");
        }
        result
    }

    fn boot(&self, lab: usize) -> Result<Outer> {
        let started = Instant::now();
        let outer = Outer::boot(&self.plan.images, &self.initramfs, self.logs.console(lab))
            .context("the outer machine did not boot")?;
        println!(
            "lab {lab}: up after {:.1}s",
            started.elapsed().as_secs_f64()
        );
        Ok(outer)
    }

    fn next_test(&self) -> Option<Test> {
        self.queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    }

    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
