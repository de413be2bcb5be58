//! A CPU template in a configuration file: the template itself, or the path of a file that has it.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use vm_config::{CpuConfig, Machine};

use crate::error::chain;
use crate::whole_file;

/// Far more than a template of a whole processor, which is some 200 KiB.
const MAX_BYTES: u64 = 4 << 20;

/// A template, or where it is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CpuConfigSource {
    Template(CpuConfig),
    File(PathBuf),
}

/// Why there is no template.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TemplateFileError {
    #[error(
        "cannot read the CPU template {path:?}; check the path as this process sees it: {source}"
    )]
    Read { path: PathBuf, source: io::Error },
    #[error("the CPU template {0:?} is larger than {MAX_BYTES} bytes; is it one?")]
    TooLarge(PathBuf),
    #[error("the CPU template {path:?} is wrong: {why}")]
    Json {
        path: PathBuf,
        why: serde_json::Error,
    },
}

impl CpuConfigSource {
    /// Reads the file, if it is one.
    pub(crate) fn read(self) -> Result<CpuConfig, TemplateFileError> {
        let path = match self {
            Self::Template(template) => return Ok(template),
            Self::File(path) => path,
        };
        let read = vmm::boot::open(&path).and_then(|file| {
            // A FIFO or a device may have no end.
            if !file.metadata()?.is_file() {
                return Err(io::Error::other("it is not a regular file"));
            }
            whole_file::read_open(file, MAX_BYTES)
        });
        match read {
            Err(source) if source.kind() == ErrorKind::FileTooLarge => {
                Err(TemplateFileError::TooLarge(path))
            }
            Err(source) => Err(TemplateFileError::Read { path, source }),
            Ok(text) => {
                serde_json::from_slice(&text).map_err(|why| TemplateFileError::Json { path, why })
            }
        }
    }
}

/// What `--print-cpu-template` prints: all of a vCPU of this host as a template, in JSON. `applied` is the name of a named
/// template, or the path of one, that the vCPU has.
pub(crate) fn dump(applied: Option<&str>) -> Result<String, String> {
    let mut machine = Machine::default();
    let mut custom = CpuConfig::default();
    if let Some(text) = applied {
        match serde_json::from_value(text.into()) {
            Ok(name) => machine.cpu_template = Some(name),
            Err(_) => {
                let source = CpuConfigSource::File(text.into());
                custom = source.read().map_err(|why| why.to_string())?;
            }
        }
    }
    let dump = vmm::dump_cpu(&machine, &custom).map_err(|why| chain(&why))?;
    let text = serde_json::to_string_pretty(&dump).map_err(|why| why.to_string())?;
    Ok(text + "\n")
}

impl<'de> Deserialize<'de> for CpuConfigSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SourceVisitor)
    }
}

struct SourceVisitor;

impl<'de> Visitor<'de> for SourceVisitor {
    type Value = CpuConfigSource;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a CPU template, or the path of a file that has one")
    }

    fn visit_str<E: Error>(self, path: &str) -> Result<CpuConfigSource, E> {
        Ok(CpuConfigSource::File(path.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, template: A) -> Result<CpuConfigSource, A::Error> {
        CpuConfig::deserialize(MapAccessDeserializer::new(template)).map(CpuConfigSource::Template)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<CpuConfig, String> {
        let source: CpuConfigSource = serde_json::from_str(json).map_err(|why| why.to_string())?;
        source.read().map_err(|why| why.to_string())
    }

    #[test]
    fn a_template_is_an_object_or_the_path_of_one() {
        let text = r#"{"kvm_capabilities": ["1"]}"#;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("template.json");
        std::fs::write(&path, text).unwrap();
        let from_file = read(&format!("{path:?}")).unwrap();
        assert_eq!(from_file, read(text).unwrap());
        assert_eq!(from_file.kvm_capabilities.len(), 1);
    }

    #[test]
    fn what_is_neither_is_refused_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("template.json");
        std::fs::write(&path, r#"{"zebra": 1}"#).unwrap();
        let huge = folder.path().join("huge");
        std::fs::File::create(&huge)
            .unwrap()
            .set_len(MAX_BYTES + 1)
            .unwrap();
        for (json, why) in [
            ("1".to_owned(), "expected a CPU template, or the path"),
            (r#"{"zebra": 1}"#.to_owned(), "unknown field `zebra`"),
            (format!("{path:?}"), "unknown field `zebra`"),
            (format!("{huge:?}"), "is larger than 4194304 bytes"),
            (format!("{:?}", folder.path()), "not a regular file"),
            (r#""/nonexistent""#.to_owned(), "No such file or directory"),
        ] {
            let refused = read(&json).expect_err(&json);
            assert!(refused.contains(why), "{json}: {refused}");
        }
    }
}
