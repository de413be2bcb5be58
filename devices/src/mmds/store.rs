//! The metadata itself: one JSON value of bounded size.
//!
//! Sources: RFC 7396 (merge patch), RFC 6901 (the path of a node).

use std::io;

use serde_json::{Map, Value};
use vm_config::{Explain, FaultCode, FaultKind};

/// What the host puts in and the guest reads.
#[derive(Debug)]
pub struct Store {
    /// Largest size as JSON, in bytes.
    limit: usize,
    /// Absent until the host puts something in. Names in every object are sorted.
    value: Option<Value>,
}

/// The host's request does not go with the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// A patch of nothing.
    #[error("The MMDS data store is not initialized.")]
    NotInitialized,
    /// More than the limit.
    #[error("The MMDS patch request doesn't fit.")]
    TooLarge,
}

impl Explain for StoreError {
    fn kind(&self) -> FaultKind<'_> {
        FaultKind::Code(match self {
            Self::NotInitialized => FaultCode::MmdsEmpty,
            Self::TooLarge => FaultCode::MmdsTooLarge,
        })
    }
}

/// How a guest wants to have a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As JSON.
    Json,
    /// As text: a string, or the names of an object's children.
    Imds,
}

/// Why a guest does not get a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoNode {
    /// There is none.
    NotFound,
    /// It is no text.
    NotText,
}

impl Store {
    /// An empty store for `limit` bytes of JSON.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, value: None }
    }

    /// Replaces all of it.
    ///
    /// # Errors
    /// When it does not fit; the store is as before.
    pub fn put(&mut self, mut value: Value) -> Result<(), StoreError> {
        if len_of(&value) > self.limit {
            return Err(StoreError::TooLarge);
        }
        value.sort_all_objects();
        self.value = Some(value);
        Ok(())
    }

    /// Merges `patch` into it (RFC 7396).
    ///
    /// # Errors
    /// When there is nothing to patch, or the result does not fit; the store is as before.
    pub fn patch(&mut self, patch: Value) -> Result<(), StoreError> {
        let mut merged = self.value.clone().ok_or(StoreError::NotInitialized)?;
        merge(&mut merged, patch);
        self.put(merged)
    }

    /// All of it; an empty object while there is nothing.
    #[must_use]
    pub fn get(&self) -> Value {
        match &self.value {
            None | Some(Value::Null) => Value::Object(Map::new()),
            Some(value) => value.clone(),
        }
    }

    /// Appends the node at `path` to `out`. A path is names, each with a `/` before it; the empty one is the root's.
    ///
    /// # Errors
    /// When there is no such node, or it has no text; nothing is appended then.
    pub fn write_node(&self, path: &str, format: Format, out: &mut Vec<u8>) -> Result<(), NoNode> {
        let empty = Value::Object(Map::new());
        let root = match &self.value {
            None | Some(Value::Null) => &empty,
            Some(value) => value,
        };
        let node = root.pointer(path).ok_or(NoNode::NotFound)?;
        match (format, node) {
            (Format::Json, _) => serde_json::to_writer(out, node).expect("a vector takes all"),
            (Format::Imds, Value::String(text)) => out.extend_from_slice(text.as_bytes()),
            (Format::Imds, Value::Object(children)) => write_names(children, out),
            (Format::Imds, _) => return Err(NoNode::NotText),
        }
        Ok(())
    }
}

/// The names of children, one a line; those of objects end in a slash.
fn write_names(children: &Map<String, Value>, out: &mut Vec<u8>) {
    for (index, (name, child)) in children.iter().enumerate() {
        if index > 0 {
            out.push(b'\n');
        }
        out.extend_from_slice(name.as_bytes());
        if child.is_object() {
            out.push(b'/');
        }
    }
}

/// As deep as the patch, whose depth the JSON parser bounds.
fn merge(target: &mut Value, patch: Value) {
    let Value::Object(changes) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(children) = target.as_object_mut() else {
        return;
    };
    for (name, change) in changes {
        if change.is_null() {
            children.shift_remove(&name);
        } else {
            merge(children.entry(name).or_insert(Value::Null), change);
        }
    }
}

/// Bytes of `value` as JSON.
fn len_of(value: &Value) -> usize {
    struct Len(usize);

    impl io::Write for Len {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.saturating_add(bytes.len());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let mut len = Len(0);
    serde_json::to_writer(&mut len, value).expect("counting takes all");
    len.0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn store(value: Value) -> Store {
        let mut store = Store::new(1000);
        store.put(value).unwrap();
        store
    }

    fn node(store: &Store, path: &str, format: Format) -> Result<String, NoNode> {
        let mut out = Vec::new();
        store.write_node(path, format, &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn patches_follow_the_examples_of_rfc_7396() {
        for (target, patch, result) in [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b"}), json!({"a":null}), json!({})),
            (
                json!({"a":"b","b":"c"}),
                json!({"a":null}),
                json!({"b":"c"}),
            ),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"c"}), json!({"a":["b"]}), json!({"a":["b"]})),
            (
                json!({"a":{"b":"c"}}),
                json!({"a":{"b":"d","c":null}}),
                json!({"a":{"b":"d"}}),
            ),
            (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a":"b"}), json!(["c"]), json!(["c"])),
            (json!({"a":"foo"}), json!("bar"), json!("bar")),
            (json!({"e":null}), json!({"a":1}), json!({"a":1,"e":null})),
            (json!([1, 2]), json!({"a":"b","c":null}), json!({"a":"b"})),
            (
                json!({}),
                json!({"a":{"bb":{"ccc":null}}}),
                json!({"a":{"bb":{}}}),
            ),
        ] {
            let mut store = store(target.clone());
            store.patch(patch.clone()).unwrap();
            assert_eq!(store.get(), result, "{target} + {patch}");
        }
    }

    #[test]
    fn names_come_sorted_however_they_were_put() {
        let mut store = store(json!({"b":{"z":"1","y":"2"},"a":"3"}));
        assert_eq!(
            store.get().to_string(),
            r#"{"a":"3","b":{"y":"2","z":"1"}}"#
        );
        store.patch(json!({"b":{"a":"4"}})).unwrap();
        assert_eq!(
            node(&store, "", Format::Json).unwrap(),
            r#"{"a":"3","b":{"a":"4","y":"2","z":"1"}}"#
        );
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let mut store = Store::new(9);
        assert_eq!(store.patch(json!({})), Err(StoreError::NotInitialized));
        assert_eq!(store.put(json!({"a":"bc"})), Err(StoreError::TooLarge));
        assert_eq!(store.get(), json!({}));
        store.put(json!({"a":"b"})).unwrap();
        assert_eq!(store.patch(json!({"a":"bc"})), Err(StoreError::TooLarge));
        assert_eq!(store.get(), json!({"a":"b"}));
        // The patch alone would not fit, what it leaves does.
        store.patch(json!({"a":null,"much":null})).unwrap();
        assert_eq!(store.get(), json!({}));
    }

    #[test]
    fn nothing_reads_as_an_empty_object() {
        for store in [Store::new(10), store(Value::Null)] {
            assert_eq!(store.get(), json!({}));
            assert_eq!(node(&store, "", Format::Imds).unwrap(), "");
            assert_eq!(node(&store, "/a", Format::Imds), Err(NoNode::NotFound));
        }
    }

    #[test]
    fn text_is_a_string_or_the_names_of_children() {
        let store = store(json!({
            "meta": {"name": "vm\n1", "empty": {}, "list": ["a"], "n": 1},
            "a/b": "slash",
        }));
        let text = |path| node(&store, path, Format::Imds);
        assert_eq!(text("").unwrap(), "a/b\nmeta/");
        assert_eq!(text("/meta").unwrap(), "empty/\nlist\nn\nname");
        assert_eq!(text("/meta/name").unwrap(), "vm\n1");
        assert_eq!(text("/meta/empty").unwrap(), "");
        assert_eq!(text("/meta/list/0").unwrap(), "a");
        assert_eq!(text("/a~1b").unwrap(), "slash");
        for path in ["/meta/list", "/meta/n"] {
            assert_eq!(text(path), Err(NoNode::NotText));
            assert!(node(&store, path, Format::Json).is_ok());
        }
        assert_eq!(text("/meta/list/1"), Err(NoNode::NotFound));
    }
}
