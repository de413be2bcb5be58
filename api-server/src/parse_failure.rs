//! The log's line for a request that was refused before the microVM was asked. Log readers look for these forms.

use crate::error::{ApiError, chain};

/// The line; `None` when the microVM was asked, or what came was not HTTP.
pub(crate) fn line(error: &ApiError) -> Option<String> {
    use ApiError as E;
    Some(match error {
        E::EmptyId => "EmptyID".to_owned(),
        E::InvalidId => "InvalidID".to_owned(),
        E::Unknown(verb, token) => format!("InvalidPathMethod({token:?}, {verb:?})"),
        E::Json(error) => format!("SerdeJson({error:?})"),
        E::GetWithBody
        | E::DeleteWithBody
        | E::EmptyPut
        | E::EmptyPatch
        | E::UnknownTail(..)
        | E::NoSnapshotOperation
        | E::Query(_)
        | E::EventQuery(_)
        | E::TooManyStreams(_)
        | E::IdMismatch
        | E::InterfaceIdMismatch { .. } => format!("Generic(BadRequest, {:?})", chain(error)),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::Verb;

    #[test]
    fn each_kind_has_its_form() {
        let json = serde_json::from_str::<u8>("x").unwrap_err();
        for (error, expected) in [
            (ApiError::EmptyId, "EmptyID"),
            (ApiError::InvalidId, "InvalidID"),
            (
                ApiError::Unknown(Verb::Get, "foo".to_owned()),
                r#"InvalidPathMethod("foo", Get)"#,
            ),
            (
                ApiError::EmptyPut,
                r#"Generic(BadRequest, "Empty PUT request.")"#,
            ),
            (
                ApiError::Json(json),
                r#"SerdeJson(Error("expected value", line: 1, column: 1))"#,
            ),
        ] {
            assert_eq!(line(&error).as_deref(), Some(expected));
        }
        assert_eq!(line(&ApiError::Method), None);
        assert_eq!(line(&ApiError::Ended), None);
    }
}
