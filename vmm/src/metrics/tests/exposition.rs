//! `GET /metrics`, read back by the rules of the format (OpenMetrics 1.0, "ABNF" and "Overall Structure").

use std::collections::BTreeMap;

use devices::metrics::{Kind, NetMetrics, Unit};

use super::*;
use crate::metrics::exposition::family;
use crate::metrics::registry::SHAPES;

/// A family as a scraper understands it.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    unit: Option<String>,
    help: Option<String>,
    /// What follows the family's name, the labels, the value.
    samples: Vec<(String, BTreeMap<String, String>, f64)>,
}

/// Reads a whole exposition; panics where it breaks a rule.
fn parse(text: &str) -> BTreeMap<String, Family> {
    let body = text.strip_suffix("# EOF\n").expect("it ends with # EOF");
    let mut families = BTreeMap::<String, Family>::new();
    let mut current = String::new();
    for line in body.lines() {
        assert!(line != "# EOF" && !line.is_empty());
        let Some(descriptor) = line.strip_prefix("# ") else {
            let (name, labels, value) = sample(line);
            let family = families.get_mut(&current).expect("a family before samples");
            let suffix = name
                .strip_prefix(&current)
                .expect("samples of a family are together");
            family.samples.push((suffix.to_owned(), labels, value));
            continue;
        };
        let mut words = descriptor.splitn(3, ' ');
        let mut word = || words.next().expect("three words");
        let (what, name, rest) = (word(), word(), word());
        if name != current {
            let is_new = families.insert(name.to_owned(), Family::default());
            assert!(is_new.is_none(), "{name} is in two places");
            name.clone_into(&mut current);
        }
        let family = families.get_mut(name).unwrap();
        assert!(
            family.samples.is_empty(),
            "{name} is described before its samples"
        );
        match what {
            "TYPE" => rest.clone_into(&mut family.kind),
            "UNIT" => family.unit = Some(rest.to_owned()),
            "HELP" => family.help = Some(unescaped(rest)),
            other => panic!("{other}"),
        }
    }
    families
}

fn sample(line: &str) -> (String, BTreeMap<String, String>, f64) {
    let end = line.find(['{', ' ']).expect("a value");
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(mut inner) = rest.strip_prefix('{') {
        while !inner.starts_with('}') {
            inner = inner.strip_prefix(',').unwrap_or(inner);
            let (label, after) = inner.split_once("=\"").expect("a label's value");
            let mut escapes = false;
            let end = after.char_indices().find(|(_, c)| {
                let is_end = *c == '"' && !escapes;
                escapes = *c == '\\' && !escapes;
                is_end
            });
            let (value, after) = after.split_at(end.expect("quotes are closed").0);
            let is_new = labels.insert(label.to_owned(), unescaped(value));
            assert!(is_new.is_none(), "{label} twice");
            inner = &after[1..];
        }
        rest = &inner[1..];
    }
    let value = rest.strip_prefix(' ').expect("one space").parse();
    (name.to_owned(), labels, value.expect("a number"))
}

fn unescaped(text: &str) -> String {
    let mut chars = text.chars();
    let mut plain = String::new();
    while let Some(c) = chars.next() {
        plain.push(match c {
            '"' | '\n' => panic!("{c:?} is not escaped"),
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some(c @ ('\\' | '"')) => c,
                other => panic!("{other:?} is no escape"),
            },
            other => other,
        });
    }
    plain
}

#[test]
fn every_family_keeps_the_rules_of_its_type_and_unit() {
    let fixture = Fixture::new();
    fixture.drive("a").read_count.increment();
    fixture.metrics.add("eth0", Arc::new(NetMetrics::new()));
    let families = parse(&fixture.text());
    assert!(families.len() > 150, "{}", families.len());
    for (name, family) in &families {
        let is_good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        assert!(
            name.starts_with("cloister_") && name.chars().all(is_good),
            "{name}"
        );
        assert!(
            family.help.as_ref().is_some_and(|help| help.len() > 3),
            "{name}"
        );
        if let Some(unit) = &family.unit {
            assert!(name.ends_with(&format!("_{unit}")), "{name} in {unit}");
        }
        let suffix = match family.kind.as_str() {
            "counter" => "_total",
            "gauge" | "stateset" => "",
            "info" => "_info",
            other => panic!("{name} is a {other}"),
        };
        assert!(!family.samples.is_empty(), "{name}");
        let mut labels = Vec::new();
        for (own, with, value) in &family.samples {
            assert_eq!(own, suffix, "{name}");
            assert!(*value >= 0.0, "{name}");
            assert!(!labels.contains(&with), "{name} has a sample twice");
            labels.push(with);
        }
    }
    for name in families.keys() {
        let clash = format!("{name}_total");
        assert!(!families.contains_key(&clash), "{clash}");
    }
}

#[test]
fn names_in_both_forms_come_from_one_table_and_are_unique() {
    let mut names = BTreeMap::new();
    for shape in &SHAPES {
        for field in shape.about.fields {
            for part in field.parts {
                let name = family(shape.about, field, part);
                let place = (shape.about.key, field.key, part.key);
                let other = names.insert(name.clone(), place);
                assert_eq!(other, None, "{name}");
            }
        }
    }
    let place = names["cloister_net_rx_bytes"];
    assert_eq!(place, ("net", "rx_bytes_count", None));
    let place = names["cloister_latencies_pause_vm_seconds"];
    assert_eq!(place, ("latencies_us", "pause_vm", None));
    let place = names["cloister_block_read_max_seconds"];
    assert_eq!(place, ("block", "read_agg", Some("max_us")));
    let place = names["cloister_balloon_free_page_report_freed_bytes"];
    assert_eq!(place, ("balloon", "free_page_report_freed", None));
}

#[test]
fn numbers_are_told_whole_in_base_units_and_for_each_device() {
    let fixture = Fixture::with_lines();
    let name = "we\"ird\\\nname";
    let (a, b) = (fixture.drive("a"), fixture.drive(name));
    a.read_bytes.add(u64::MAX);
    a.read_agg.record(Duration::from_nanos(1_500_000_001));
    b.read_bytes.add(2);
    fixture.metrics.process.latencies_us.pause_vm.set(2_000_001);
    // Lines change nothing here.
    fixture.metrics.flush();
    let text = fixture.text();
    assert!(
        text.contains("cloister_block_read_bytes_total{drive_id=\"a\"} 18446744073709551615\n")
    );
    assert!(text.contains("cloister_block_read_seconds_total{drive_id=\"a\"} 1.500000001\n"));
    assert!(text.contains("cloister_latencies_pause_vm_seconds 2.000001\n"));
    let families = parse(&text);
    let bytes = &families["cloister_block_read_bytes"];
    assert_eq!(bytes.kind, "counter");
    assert_eq!(bytes.unit.as_deref(), Some("bytes"));
    let (_, labels, value) = &bytes.samples[1];
    assert_eq!((labels["drive_id"].as_str(), *value), (name, 2.0));
}

#[test]
fn the_microvm_its_state_and_its_size_are_told() {
    let families = parse(&Fixture::new().text());
    let (_, labels, value) = &families["cloister_vm"].samples[0];
    let told = ["id", "version", "api_level"].map(|label| labels[label].as_str());
    assert_eq!((told, *value), (["some-vm", "1.2.3", "4.5.6"], 1.0));
    let state = &families["cloister_vm_state"];
    let now = state.samples.iter().filter(|(_, _, value)| *value == 1.0);
    let now: Vec<&str> = now
        .map(|(_, labels, _)| labels["cloister_vm_state"].as_str())
        .collect();
    assert_eq!(now, ["paused"]);
    let one = |name: &str| families[name].samples[0].2;
    assert_eq!(one("cloister_vm_memory_bytes"), f64::from(128 << 20));
    assert_eq!(one("cloister_vm_vcpus"), 1.0);
    assert!(one("cloister_vm_cpu_time_seconds") > 0.0);
    // No drive, no family of drives.
    assert!(!families.contains_key("cloister_block_read_bytes"));
}

#[test]
fn only_counters_grow() {
    for shape in &SHAPES {
        for field in shape.about.fields {
            let is_time = matches!(field.unit, Unit::Micros | Unit::Nanos);
            let is_agg = field.key.ends_with("_agg");
            assert_eq!(is_agg, field.parts.len() == 3, "{}", field.key);
            let is_store = field.parts.iter().any(|part| part.kind == Kind::Store);
            assert_eq!(is_store || is_agg, is_time, "{}", field.key);
        }
    }
}
