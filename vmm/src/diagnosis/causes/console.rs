//! What the guest wrote, searched for lines that name a cause.
//!
//! A guest can write any of them, so each is evidence of the guest's word alone. Searched are at most 16 KiB.

mod remedy;
mod rules;

use self::rules::{GENERAL, LOST_ROOT, PARTICULAR, Rule};
use crate::diagnosis::facts::Facts;
use crate::diagnosis::report::{Cause, CauseCode, Confidence, Evidence, Source};
use crate::diagnosis::text::printable;

/// The longest line that is shown as evidence, characters.
const MAX_LINE: usize = 200;

/// What is said in so many lines is the last that was heard.
const LAST_LINES: usize = 3;

/// A line that the guest wrote.
pub(super) struct Line {
    text: String,
    is_console: bool,
}

/// All that is kept of what the guest wrote, by lines.
pub(super) fn lines(facts: &Facts) -> Vec<Line> {
    let console = facts.console.as_ref().map(|text| (&text.tail, true));
    let both = [Some((&facts.serial.tail, false)), console];
    let mut lines = Vec::new();
    for (tail, is_console) in both.into_iter().flatten() {
        let text = String::from_utf8_lossy(tail);
        lines.extend(text.split(['\n', '\r']).map(|line| Line {
            text: line.to_owned(),
            is_console,
        }));
    }
    lines
}

/// Where the guest says that its root is not there.
pub(super) fn lost_root(lines: &[Line]) -> Option<Evidence> {
    LOST_ROOT.evidence(lines).into_iter().next()
}

/// Causes that the guest's words name.
pub(super) fn particular(facts: &Facts, lines: &[Line]) -> Vec<Cause> {
    apply(&PARTICULAR, facts, lines)
}

/// Causes that are left when nothing better is known.
pub(super) fn general(facts: &Facts, lines: &[Line]) -> Vec<Cause> {
    let mut causes = apply(&GENERAL, facts, lines);
    if causes.is_empty() && facts.has_panicked {
        causes.push(Cause {
            code: CauseCode::KernelPanic,
            confidence: Confidence::Likely,
            summary: "the guest gave up: a kernel panic".to_owned(),
            remedy: "add console=ttyS0 to boot_args to read why".to_owned(),
            evidence: vec![Evidence {
                source: Source::Guest,
                text: "it said so to the pvpanic device".to_owned(),
            }],
        });
    }
    causes
}

fn apply(rules: &[Rule], facts: &Facts, lines: &[Line]) -> Vec<Cause> {
    let found = rules.iter().filter_map(|rule| {
        let evidence = rule.evidence(lines);
        let first = evidence.first()?.text.clone();
        Some(Cause {
            code: rule.code,
            confidence: Confidence::Likely,
            summary: rule.summary.to_owned(),
            remedy: rule.remedy.told(facts, &first),
            evidence,
        })
    });
    found.collect()
}

impl Rule {
    /// The first two lines that have one of the words.
    fn evidence(&self, lines: &[Line]) -> Vec<Evidence> {
        let has = |line: &Line, words: &[&str]| words.iter().any(|word| line.text.contains(word));
        let anywhere = lines.iter().filter(|line| has(line, self.words));
        let said = lines
            .iter()
            .rev()
            .filter(|line| !line.text.trim().is_empty());
        let at_last = said
            .take(LAST_LINES)
            .filter(|line| has(line, self.last_words));
        anywhere
            .chain(at_last)
            .take(2)
            .map(Line::evidence)
            .collect()
    }
}

impl Line {
    fn evidence(&self) -> Evidence {
        let from = if self.is_console { "console" } else { "serial" };
        Evidence {
            source: Source::Guest,
            text: format!("{from}: {}", printable(self.text.trim(), MAX_LINE)),
        }
    }
}
