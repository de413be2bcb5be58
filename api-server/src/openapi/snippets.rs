//! Requests in the pages under `docs/` are understood, and each page that uses `put` or `patch` says what they are.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::asked::{Asked, id_in};
use crate::router::Verb;

const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs");

fn pages(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = paths.partition(|path| path.is_dir());
    let files = files.into_iter();
    let files = files.filter(|path| path.extension().is_some_and(|end| end == "md"));
    files
        .chain(folders.iter().flat_map(|folder| pages(folder)))
        .collect()
}

/// The shell lines of a page.
fn commands(page: &str) -> impl Iterator<Item = &str> {
    let blocks = page.split("```").skip(1).step_by(2);
    let blocks = blocks.filter_map(|block| block.strip_prefix("sh\n"));
    blocks.flat_map(str::lines)
}

/// `put /path 'body'`, `patch /path 'body'`.
fn request(line: &str) -> Option<(&str, Verb, &str, &str)> {
    let (word, rest) = line.split_once(" /")?;
    let verb = match word {
        "put" => Verb::Put,
        "patch" => Verb::Patch,
        _ => return None,
    };
    let (path, body) = rest.split_once(" '")?;
    let (body, _) = body.split_once('\'')?;
    Some((word, verb, path, body))
}

#[test]
fn openapi_requests_in_the_pages_are_understood() {
    let mut count = 0;
    for path in pages(Path::new(DOCS)) {
        let page = std::fs::read_to_string(&path).unwrap();
        for line in commands(&page) {
            let Some((word, verb, place, body)) = request(line) else {
                continue;
            };
            assert!(
                page.contains(&format!("\n{word}() {{ curl ")),
                "{path:?} does not say what {word} is"
            );
            let body: Value =
                serde_json::from_str(body).unwrap_or_else(|why| panic!("{line}: {why}"));
            let asked = Asked::by(verb, &format!("/{place}"), Some(&body));
            assert!(asked.is_command, "{path:?}: {line}: {}", asked.answer);
            if let Some(id) = id_in(Some(&body)) {
                assert!(place.ends_with(id), "{path:?}: {line}");
            }
            count += 1;
        }
    }
    assert!(count > 10, "only {count} requests were found");
}
