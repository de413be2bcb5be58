//! `docs/metrics.md`: the list at its end is made from the descriptions. With `UPDATE_OPENAPI=1` in the environment it is
//! written instead of compared.

use std::fmt::Write;

use devices::metrics::{About, Field, Unit};

use crate::metrics::exposition::family;
use crate::metrics::gauges::{BalloonGauges, PlugGauges, VmGauges};
use crate::metrics::registry::{GUEST_PANIC, SHAPES, Shape, Show};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");

/// Behind it stands what is made.
const MARK: &str = "## Every key\n";

fn list() -> String {
    let mut text = String::new();
    for shape in SHAPES.iter().chain([&GUEST_PANIC]) {
        let about = shape.about;
        write!(text, "\n### {}\n\n{}\n\n", title(shape), about.help.trim()).unwrap();
        text += "| key | unit | what | in `GET /metrics` |\n|---|---|---|---|\n";
        for field in about.fields {
            text += &row(about, field, &format!("`{}`", field.key));
        }
    }
    text += "\n### In `GET /metrics` alone\n\n| unit | what | name |\n|---|---|---|\n";
    for about in [VmGauges::ABOUT, BalloonGauges::ABOUT, PlugGauges::ABOUT] {
        for field in about.fields {
            let (unit, help) = (unit(field.unit), field.help.trim());
            let name = name(about, field);
            writeln!(text, "| {unit} | {help} | {name} |").unwrap();
        }
    }
    text
}

fn title(shape: &Shape) -> String {
    let (key, label) = (shape.about.key, shape.label.unwrap_or_default());
    match shape.show {
        Show::Sum => format!("`{key}`"),
        Show::Each => format!("`{key}_{{{label}}}`"),
        Show::EachAndSum => format!("`{key}_{{{label}}}`, and `{key}` for all of them together"),
    }
}

fn row(about: &About, field: &Field, key: &str) -> String {
    let (unit, help) = (unit(field.unit), field.help.trim());
    let (name, what) = (name(about, field), help.replace('|', "\\|"));
    format!("| {key} | {unit} | {what} | {name} |\n")
}

fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Count => "",
        Unit::Bytes => "bytes",
        Unit::Micros => "µs",
        Unit::Nanos => "µs, `_agg`",
    }
}

/// What a user looks for; of a latency, the counter.
fn name(about: &About, field: &Field) -> String {
    let part = field.parts.last().expect("a metric has a number");
    let total = match part.kind {
        devices::metrics::Kind::Counter | devices::metrics::Kind::Total => "_total",
        _ => "",
    };
    format!("`{}{total}`", family(about, field, part))
}

#[test]
fn the_page_lists_every_key() {
    let page = std::fs::read_to_string(PAGE).unwrap();
    let (head, committed) = page.split_once(MARK).expect("the list has a title");
    let list = list();
    if std::env::var_os("UPDATE_OPENAPI").is_some() {
        std::fs::write(PAGE, format!("{head}{MARK}{list}")).unwrap();
    } else {
        assert!(
            committed == list,
            "docs/metrics.md is old: run `make openapi`"
        );
    }
}
