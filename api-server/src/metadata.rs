//! `--metadata`: what the guest can read about itself from its first moment on.

use std::path::PathBuf;

use vmm::{Mmds, MmdsStoreError};

use crate::cli::Options;
use crate::whole_file;

/// Text as long as this is read at least, and always eight times what the store takes: escapes and white space are longer
/// than what they say.
const MIN_TEXT: u64 = 1 << 20;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MetadataError {
    #[error("cannot read {path:?}; check --metadata: {source}")]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{path:?} is not JSON ({source}); check --metadata")]
    Json {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error(
        "MMDS limit exceeded error: {source} {path:?} is larger than {limit} bytes of JSON; make it smaller or raise --mmds-size-limit"
    )]
    Limit {
        path: PathBuf,
        limit: usize,
        source: MmdsStoreError,
    },
}

/// The metadata service, with what the file says if there is one.
pub(crate) fn load(options: &Options) -> Result<Mmds, MetadataError> {
    let limit = options.mmds_size_limit;
    let mmds = Mmds::new(&options.id, limit);
    let Some(path) = options.metadata.clone() else {
        return Ok(mmds);
    };
    let most = MIN_TEXT.max((limit as u64).saturating_mul(8));
    let text = match whole_file::read(&path, most) {
        Ok(text) => text,
        Err(source) => return Err(MetadataError::Read { path, source }),
    };
    let value = match serde_json::from_slice(&text) {
        Ok(value) => value,
        Err(source) => return Err(MetadataError::Json { path, source }),
    };
    match mmds.put(value) {
        Ok(()) => Ok(mmds),
        Err(source) => Err(MetadataError::Limit {
            path,
            limit,
            source,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Invocation, parse};

    fn loaded(text: &str, limit: &str) -> Result<String, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let path = file.path().display().to_string();
        let line = ["--metadata", &path, "--mmds-size-limit", limit].map(str::to_owned);
        let Ok(Invocation::Run(options)) = parse(line.into_iter()) else {
            panic!("not a command line");
        };
        let loaded = load(&options);
        loaded
            .map(|mmds| mmds.get().to_string())
            .map_err(|why| why.to_string())
    }

    #[test]
    fn a_file_is_there_from_the_start_or_says_why_not() {
        assert_eq!(
            loaded(r#"{"b":1, "a":2}"#, "13").unwrap(),
            r#"{"a":2,"b":1}"#
        );
        assert!(
            loaded(r#"{"b":1, "a":2}"#, "12")
                .unwrap_err()
                .contains("--mmds-size-limit")
        );
        assert!(loaded("{", "12").unwrap_err().contains("is not JSON"));
    }

    #[test]
    fn a_file_far_longer_than_the_store_is_not_read_whole() {
        let spaces = |count| format!("{{}}{}", " ".repeat(count));
        assert_eq!(loaded(&spaces(1000), "2").unwrap(), "{}");
        let why = loaded(&spaces(1 << 20), "2").unwrap_err();
        assert!(why.ends_with("it is longer than 1048576 bytes"), "{why}");
    }
}
