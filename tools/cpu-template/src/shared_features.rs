//! The template with which guests of all hosts find the same features: those that every host has.
//!
//! By the register's [`Kind`]. Bits of features: what some host does not have is cleared, also bits that no host of today
//! has, so that the template holds for a newer host. Limits (highest leaf, sizes): the least. The model: the first
//! host's. All else that differs (caches, frequencies) is named and left as each host has it.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use vm_config::CpuConfig;
use vm_config::CpuidRegister::{Ebx, Ecx, Edx};

use crate::files;
use crate::kinds::{Kind, kind};
use crate::registers::{Place, Registers};

/// Writes the template, and says what stays different.
pub(crate) fn run(paths: &[PathBuf], output: &Path) -> Result<()> {
    let dumps = paths.iter().map(|path| files::read(path));
    let dumps: Vec<CpuConfig> = dumps.collect::<Result<_>>()?;
    let (template, rest) = common(&dumps)?;
    for place in rest {
        eprintln!("differs and is left as it is: {place}");
    }
    files::write(output, &template)
}

fn common(dumps: &[CpuConfig]) -> Result<(CpuConfig, Vec<Place>)> {
    let all: Vec<Registers> = dumps.iter().map(Registers::of).collect();
    for register in [Ebx, Ecx, Edx] {
        let place = Place::Cpuid(0, 0, register);
        let vendor = all[0].value(place);
        ensure!(
            vendor.is_some() && all.iter().all(|host| host.value(place) == vendor),
            "the hosts' processors are of different vendors, or a file is not a dump; make one template for each vendor"
        );
    }
    let mut template = Registers::default().with_flags_of(&all[0]);
    let mut rest = Vec::new();
    for &place in all[0].bits.keys() {
        let values: Option<Vec<u64>> = all.iter().map(|host| host.value(place)).collect();
        let kind = kind(place);
        match (values, kind) {
            (Some(values), Some(kind)) => say(&mut template, place, kind, &values),
            (Some(values), None) if values.iter().all(|value| *value == values[0]) => {}
            _ => rest.push(place),
        }
    }
    let elsewhere = all.iter().flat_map(|host| host.bits.keys());
    rest.extend(elsewhere.filter(|place| !all[0].bits.contains_key(place)));
    rest.sort_unstable();
    rest.dedup();
    Ok((template.to_template(), rest))
}

/// Adds what a register with `values` on the hosts is to be on all of them.
fn say(template: &mut Registers, place: Place, kind: Kind, values: &[u64]) {
    let all_bits = match place {
        Place::Cpuid(..) => u64::from(u32::MAX),
        Place::Msr(_) => u64::MAX,
    };
    let and = values.iter().fold(u64::MAX, |all, value| all & value);
    let or = values.iter().fold(0, |all, value| all | value);
    let (set, changed) = match kind {
        Kind::Features { inverse } => (or & inverse, all_bits & !and & !inverse | or & inverse),
        Kind::Limit => (values.iter().copied().min().unwrap_or(0), and ^ or),
        Kind::Limits => (least_bytes(values), and ^ or),
        Kind::Model => (values[0], and ^ or),
    };
    // Where only some bits differ between numbers, the whole number is said.
    let changed = match kind {
        Kind::Features { .. } => changed,
        _ if changed == 0 => 0,
        _ => all_bits,
    };
    template.say(place, set & changed, changed);
}

fn least_bytes(values: &[u64]) -> u64 {
    let bytes = values.iter().map(|value| value.to_le_bytes());
    let least = bytes.reduce(|a, b| std::array::from_fn(|index| a[index].min(b[index])));
    u64::from_le_bytes(least.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use vm_config::CpuidRegister::Eax;

    use super::*;
    use crate::registers::tests::dump;

    const VENDOR: [(&str, &str, u64); 3] =
        [("0x0", "ebx", 1), ("0x0", "ecx", 2), ("0x0", "edx", 3)];

    fn host(registers: &[(&str, &str, u64)]) -> CpuConfig {
        dump(&[&VENDOR, registers].concat())
    }

    fn applied(template: &CpuConfig, host: &CpuConfig, place: Place) -> u64 {
        let value = Registers::of(host).value(place).unwrap();
        let bits = Registers::of(template).bits;
        bits.get(&place).map_or(value, |bits| bits.apply(value))
    }

    #[test]
    fn every_host_comes_to_have_what_all_have() {
        let leaf_7 = Place::Cpuid(7, 0, Ebx);
        let hosts = [0b0111, 0b1110, 0b0110].map(|value| host(&[("0x7", "ebx", value)]));
        let (template, rest) = common(&hosts).unwrap();
        assert_eq!(rest, []);
        // One that joins later, with more, comes to have the same.
        let newer = host(&[("0x7", "ebx", 0xffff_1f16)]);
        for host in hosts.iter().chain([&newer]) {
            assert_eq!(applied(&template, host, leaf_7), 0b0110);
        }
    }

    #[test]
    fn a_lack_of_one_host_is_told_on_all() {
        let hosts = [1 << 6 | 1, 1].map(|value| host(&[("0x7", "ebx", value)]));
        let (template, _) = common(&hosts).unwrap();
        for host in &hosts {
            assert_eq!(
                applied(&template, host, Place::Cpuid(7, 0, Ebx)),
                1 << 6 | 1
            );
        }
    }

    #[test]
    fn limits_are_the_least_and_the_model_is_the_first_ones() {
        let one = host(&[
            ("0x0", "eax", 0x10),
            ("0x1", "eax", 9),
            ("0x80000008", "eax", 0x3028),
        ]);
        let two = host(&[
            ("0x0", "eax", 0x0f),
            ("0x1", "eax", 6),
            ("0x80000008", "eax", 0x2f2a),
        ]);
        let (template, _) = common(&[one.clone(), two.clone()]).unwrap();
        for host in [&one, &two] {
            assert_eq!(applied(&template, host, Place::Cpuid(0, 0, Eax)), 0x0f);
            assert_eq!(applied(&template, host, Place::Cpuid(1, 0, Eax)), 9);
            assert_eq!(
                applied(&template, host, Place::Cpuid(0x8000_0008, 0, Eax)),
                0x2f28
            );
        }
    }

    #[test]
    fn what_is_no_feature_is_named_and_left() {
        let one = host(&[("0x4", "eax", 1), ("0x5", "eax", 1)]);
        let two = host(&[("0x4", "eax", 2), ("0x6", "ebx", 1)]);
        let (template, rest) = common(&[one, two]).unwrap();
        assert_eq!(template, CpuConfig::default());
        let place = |leaf, register| Place::Cpuid(leaf, 0, register);
        assert_eq!(rest, [place(4, Eax), place(5, Eax), place(6, Ebx)]);
    }

    #[test]
    fn vendors_have_nothing_in_common() {
        let other = dump(&[("0x0", "ebx", 9), ("0x0", "ecx", 2), ("0x0", "edx", 3)]);
        assert!(common(&[host(&[]), other]).is_err());
        assert!(common(&[CpuConfig::default(), CpuConfig::default()]).is_err());
    }
}
