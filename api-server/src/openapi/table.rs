//! The table of requests in `docs/api.md` names every endpoint, no other, and when each can be asked.

use std::collections::BTreeMap;

use super::asked::Phase;
use super::examples;

const PAGE: &str = include_str!("../../../docs/api.md");

/// When each `VERB /path` of the table can be asked, in the page's words.
fn rows() -> BTreeMap<String, String> {
    let (_, table) = PAGE.split_once("## What can be asked").unwrap();
    let (table, _) = table.split_once("\n## ").unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>());
    let requests = cells.flat_map(|cells| {
        let when = cells[2].to_owned();
        requests(cells[1])
            .into_iter()
            .map(move |request| (request, when.clone()))
    });
    let mut table = BTreeMap::new();
    for (request, when) in requests {
        let earlier = table.insert(request.clone(), when);
        assert!(earlier.is_none(), "{request} is there twice");
    }
    table
}

/// `VERB /path` for each request of a cell: "`GET`, `PUT /a`" is two with one path, "`PUT /a/b`, `c`" two with one verb.
fn requests(cell: &str) -> Vec<String> {
    let mut requests: Vec<String> = Vec::new();
    let mut verbs = Vec::new();
    for span in cell.split('`').skip(1).step_by(2) {
        match span.split_once(' ') {
            Some((verb, path)) => {
                verbs.push(verb);
                requests.extend(verbs.drain(..).map(|verb| format!("{verb} {path}")));
            }
            None if span.bytes().all(|byte| byte.is_ascii_uppercase()) => verbs.push(span),
            None => {
                let last = requests.last().expect("a path before");
                let (before, _) = last.rsplit_once('/').unwrap();
                requests.push(format!("{before}/{span}"));
            }
        }
    }
    requests
}

fn says(when: &str, phase: Phase) -> bool {
    let beginnings: &[&str] = match phase {
        Phase::Always => &["always", "before the start; after it"],
        Phase::BeforeStart => &[
            "before the start",
            "in a process in which nothing was configured",
        ],
        Phase::AfterStart => &["after the start", "while paused"],
        Phase::ByBody => &["`"],
    };
    beginnings
        .iter()
        .any(|beginning| when.starts_with(beginning))
        && (phase == Phase::Always || !when.contains("after it"))
}

#[test]
fn openapi_table_of_the_page_names_each_endpoint_and_its_phase() {
    let mut rows = rows();
    let entries = examples::all();
    for endpoint in super::endpoints() {
        let request = format!("{} {}", endpoint.verb, endpoint.path);
        let when = rows.remove(&request);
        let when = when.unwrap_or_else(|| panic!("docs/api.md has no row for {request}"));
        let phase = examples::phase(endpoint.verb, endpoint.path, &entries[&request]);
        assert!(
            says(&when, phase),
            "{request} is there {when:?}, the code says {phase:?}"
        );
    }
    assert!(
        rows.is_empty(),
        "docs/api.md has rows for what is not there: {rows:?}"
    );
}
