//! Keeps what tests print and leave: `LOGS/TEST/`, with the test's own output in `output.log`.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::protocol::{Event, Frame};

const OUTPUT: &str = "output.log";

/// The directory of all logs.
pub struct Logs {
    root: PathBuf,
}

/// The logs of one test that runs now.
pub struct TestLogs {
    directory: PathBuf,
    output: File,
}

impl Logs {
    /// Uses `root`, which may hold logs of earlier runs.
    pub fn at(root: &Path) -> Result<Self> {
        fs::create_dir_all(root).with_context(|| format!("cannot create {}", root.display()))?;
        // QEMU gets paths from here, whatever its working directory is.
        Ok(Self {
            root: root.canonicalize()?,
        })
    }

    /// Where the serial console of a lab's outer machine goes.
    pub fn console(&self, lab: usize) -> PathBuf {
        self.root.join(format!("lab-{lab}-console.log"))
    }

    /// The output of one test.
    pub fn output(&self, test: &str) -> PathBuf {
        self.root.join(test).join(OUTPUT)
    }

    /// Replaces the logs of one test by empty ones.
    pub fn start(&self, test: &str) -> Result<TestLogs> {
        let directory = self.root.join(test);
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
        let output = File::create(directory.join(OUTPUT))?;
        Ok(TestLogs { directory, output })
    }
}

impl TestLogs {
    /// Keeps what a frame carries.
    pub fn keep(&self, frame: &Frame<Event>) -> Result<()> {
        match &frame.message {
            Event::Output => (&self.output).write_all(&frame.bytes)?,
            Event::File { name } => self.write(name, &frame.bytes)?,
            Event::Ready | Event::Finished { .. } => {}
        }
        Ok(())
    }

    /// Adds a copy of another log. Best effort: it serves only to explain a failure.
    pub fn copy(&self, from: &Path, name: &str) {
        let _ = fs::copy(from, self.directory.join(name));
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        // The name comes from inside the machine: only a plain file name stays in the directory.
        let name = Path::new(name)
            .file_name()
            .context("a log file without a name")?;
        fs::write(self.directory.join(name), bytes)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_appended_and_files_stay_inside() {
        let root = tempfile::tempdir().unwrap();
        let logs = Logs::at(root.path()).unwrap();
        let test = logs.start("boot").unwrap();
        for bytes in [b"one".to_vec(), b"two".to_vec()] {
            test.keep(&Frame {
                message: Event::Output,
                bytes,
            })
            .unwrap();
        }
        let message = Event::File {
            name: "../../serial.log".into(),
        };
        test.keep(&Frame {
            message,
            bytes: b"guest".to_vec(),
        })
        .unwrap();

        assert_eq!(fs::read(logs.output("boot")).unwrap(), b"onetwo");
        assert_eq!(
            fs::read(root.path().join("boot/serial.log")).unwrap(),
            b"guest"
        );
    }
}
