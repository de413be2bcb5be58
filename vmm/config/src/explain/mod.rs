//! What a client can act on in a refusal besides its words: a code, the cause, a remedy.
//!
//! ```text
//! outer error --Inner--> ... --Inner--> the error that knows --Code--> one row of codes.rs
//!                                       its words: "<cause>; <remedy>"
//! ```
//!
//! Each error that a request can be refused with implements [`Explain`] by a match over its variants: a new variant
//! without a code does not compile.

mod codes;

use std::error::Error;
use std::fmt::Display;

pub use codes::FaultCode;

/// An error that a client can act on.
pub trait Explain: Error {
    /// Which kind of failure it is, or the error inside that knows.
    fn kind(&self) -> FaultKind<'_>;
}

/// What an error says of itself.
pub enum FaultKind<'a> {
    /// It is of this kind.
    Code(FaultCode),
    /// It only adds where this one happened.
    Inner(&'a dyn Explain),
}

/// What a client can act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The kind of failure.
    pub code: FaultCode,
    /// The innermost reason, without what it happened to and without the remedy.
    pub cause: String,
    /// What to do.
    pub remedy: String,
}

impl Explanation {
    /// What `error` and those inside it tell.
    #[must_use]
    pub fn of(error: &dyn Explain) -> Self {
        match error.kind() {
            FaultKind::Inner(inner) => Self::of(inner),
            FaultKind::Code(code) => Self::read(code, error),
        }
    }

    /// Of `code`, with `words` as the cause and the remedy that goes with the code.
    #[must_use]
    pub fn general(code: FaultCode, words: &dyn Display) -> Self {
        Self {
            code,
            cause: words.to_string().trim_end_matches('.').to_owned(),
            remedy: code.remedy().to_owned(),
        }
    }

    /// Takes the words of the error that knows apart: all messages of this program set the remedy off by `; `, as the
    /// last of their parts. One without a remedy gets that of its code.
    fn read(code: FaultCode, error: &dyn Explain) -> Self {
        let words = error.to_string();
        let (cause, remedy) = match words.rsplit_once("; ") {
            Some((cause, remedy)) => (cause, remedy.trim_end_matches('.')),
            None => (words.as_str(), code.remedy()),
        };
        let mut cause = cause.trim_end_matches('.').to_owned();
        let mut source = error.source();
        while let Some(inner) = source {
            cause.push_str(": ");
            cause.push_str(&inner.to_string());
            source = inner.source();
        }
        Self {
            code,
            cause,
            remedy: remedy.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Inner {
        #[error("no room for {0} bytes; use fewer")]
        Full(u8),
        #[error("cannot open it")]
        Open(#[source] io::Error),
    }

    #[derive(Debug, thiserror::Error)]
    #[error("Outer error")]
    struct Outer(#[source] Inner);

    impl Explain for Inner {
        fn kind(&self) -> FaultKind<'_> {
            FaultKind::Code(match self {
                Self::Full(_) => FaultCode::HostMemoryShort,
                Self::Open(_) => FaultCode::KernelFile,
            })
        }
    }

    impl Explain for Outer {
        fn kind(&self) -> FaultKind<'_> {
            FaultKind::Inner(&self.0)
        }
    }

    #[test]
    fn the_innermost_error_tells_code_cause_and_remedy() {
        let told = Explanation::of(&Outer(Inner::Full(7)));
        assert_eq!(told.code, FaultCode::HostMemoryShort);
        assert_eq!(told.cause, "no room for 7 bytes");
        assert_eq!(told.remedy, "use fewer");
    }

    #[test]
    fn a_message_without_a_remedy_has_that_of_its_code() {
        let failure = io::Error::from_raw_os_error(2);
        let told = Explanation::of(&Outer(Inner::Open(failure)));
        assert!(
            told.cause.starts_with("cannot open it: No such"),
            "{told:?}"
        );
        assert_eq!(told.remedy, FaultCode::KernelFile.remedy());
    }

    #[test]
    fn every_code_has_a_name_a_meaning_and_a_remedy_of_its_own_form() {
        for code in FaultCode::ALL {
            let name = code.name();
            let is_snake = name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            assert!(is_snake && !name.is_empty(), "{name}");
            assert_eq!(serde_json::to_value(code).unwrap(), name);
            for text in [code.meaning(), code.remedy()] {
                assert!(!text.is_empty() && !text.ends_with('.'), "{name}: {text}");
                assert!(!text.contains('|'), "{name}: it stands in a table");
            }
        }
        let names: std::collections::BTreeSet<&str> =
            FaultCode::ALL.iter().map(|c| c.name()).collect();
        assert_eq!(names.len(), FaultCode::ALL.len());
    }
}
