//! Which tests there are, and which of them are to be run.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// One test, as the test program lists it.
#[derive(Clone, Debug, PartialEq)]
pub struct Test {
    /// A Rust identifier.
    pub name: String,
    /// It fails when it takes longer.
    pub timeout_s: u64,
}

/// Which tests to run: all, unless something is given.
#[derive(Default)]
pub struct Selection {
    /// Only tests whose name contains this.
    pub filter: Option<String>,
    /// Only tests with these names.
    pub names: Vec<String>,
}

/// Asks the test program. A line is `NAME SECONDS`.
pub fn list(tests: &Path) -> Result<Vec<Test>> {
    let output = Command::new(tests)
        .arg("list")
        .output()
        .with_context(|| format!("cannot run {}", tests.display()))?;
    ensure!(
        output.status.success(),
        "{} list: {}",
        tests.display(),
        output.status
    );
    String::from_utf8(output.stdout)?
        .lines()
        .map(parse)
        .collect::<Option<_>>()
        .with_context(|| format!("{} lists its tests in an unknown form", tests.display()))
}

fn parse(line: &str) -> Option<Test> {
    let (name, timeout) = line.split_once(' ')?;
    Some(Test {
        name: name.to_owned(),
        timeout_s: timeout.parse().ok()?,
    })
}

impl Selection {
    /// The selected tests, in their own order.
    ///
    /// # Errors
    /// When a name is unknown or nothing is selected: a run of no tests would look like success.
    pub fn apply(&self, mut tests: Vec<Test>) -> Result<Vec<Test>> {
        for name in &self.names {
            ensure!(
                tests.iter().any(|test| test.name == *name),
                "no test is called `{name}`; `lab list` shows them"
            );
        }
        tests.retain(|test| {
            let is_named = self.names.is_empty() || self.names.contains(&test.name);
            is_named
                && self
                    .filter
                    .as_ref()
                    .is_none_or(|filter| test.name.contains(filter))
        });
        ensure!(
            !tests.is_empty(),
            "no test is selected; `lab list` shows them"
        );
        Ok(tests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tests() -> Vec<Test> {
        ["boot_elf 60", "boot_bzimage 60", "disk 90"]
            .map(|line| parse(line).unwrap())
            .to_vec()
    }

    fn selected(filter: Option<&str>, names: &[&str]) -> Result<Vec<String>> {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let selection = Selection {
            filter: filter.map(str::to_owned),
            names,
        };
        Ok(selection
            .apply(tests())?
            .into_iter()
            .map(|test| test.name)
            .collect())
    }

    #[test]
    fn everything_is_selected_by_default() {
        assert_eq!(selected(None, &[]).unwrap().len(), 3);
    }

    #[test]
    fn a_filter_selects_by_part_and_a_name_by_all_of_it() {
        assert_eq!(
            selected(Some("boot"), &[]).unwrap(),
            ["boot_elf", "boot_bzimage"]
        );
        assert_eq!(selected(None, &["disk"]).unwrap(), ["disk"]);
    }

    #[test]
    fn selecting_nothing_is_an_error() {
        assert!(selected(Some("dsik"), &[]).is_err());
        assert!(selected(None, &["boot"]).is_err());
        assert!(selected(Some("boot"), &["disk"]).is_err());
    }
}
