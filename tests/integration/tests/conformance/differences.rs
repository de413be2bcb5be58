//! The rows with a reason (`why`), as the list in `docs/migrating-from-firecracker.md`: none is missing there.
//!
//! With `UPDATE_OPENAPI=1` in the environment the list is written instead of compared.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use crate::rows::{Group, Row};
use crate::{FILES, folder};

const PAGE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../docs/migrating-from-firecracker.md"
);
const BEGIN: &str = "<!-- rows -->\n";
const END: &str = "<!-- end of rows -->";

/// The longest request that is told whole, in characters.
const LONGEST: usize = 160;

/// The list, as Markdown.
fn list() -> String {
    let mut list = "\n| request | here | why |\n|---|---|---|\n".to_owned();
    let mut told = BTreeSet::new();
    for name in FILES {
        let text = std::fs::read_to_string(folder().join(format!("{name}.json"))).unwrap();
        let groups: Vec<Group> = serde_json::from_str(&text).unwrap();
        for row in groups.iter().flat_map(|group| &group.rows) {
            let Some(why) = &row.why else { continue };
            let line = format!("| {} | {} | {why} |\n", request(row), answer(row));
            if told.insert(line.clone()) {
                list.push_str(&line);
            }
        }
    }
    list.push('\n');
    list
}

fn request(row: &Row) -> String {
    let mut text = match &row.send {
        Some(bytes) => bytes.escape_debug().to_string(),
        None => row.request.clone(),
    };
    if let Some(body) = &row.body {
        write!(text, " {body}").unwrap();
    }
    if text.chars().count() > LONGEST {
        text = text.chars().take(LONGEST).chain(" …".chars()).collect();
    }
    format!("`{}`", text.replace('|', "\\|").replace("$dir/", "/vm/"))
}

fn answer(row: &Row) -> String {
    let mut text = row.answer.status.to_string();
    if let Some(code) = &row.answer.code {
        write!(text, " `{code}`").unwrap();
    }
    for then in &row.then {
        write!(text, ", then {}", then.status).unwrap();
    }
    if row.closes {
        text.push_str(", and the connection ends");
    }
    text
}

#[test]
fn the_page_for_those_who_switch_has_every_row_that_differs() {
    let page = std::fs::read_to_string(Path::new(PAGE)).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let wanted = format!("{before}{BEGIN}{}{END}{after}", list());
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(PAGE, &wanted).unwrap();
    } else {
        assert!(page == wanted, "{PAGE} is out of date: run `make openapi`");
    }
}
