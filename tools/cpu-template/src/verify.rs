//! Whether a guest with a template finds what the template says.

use std::path::Path;

use anyhow::{Context, Result, bail};
use vm_config::CpuConfig;

use crate::registers::Registers;
use crate::{files, monitor};

/// Has the monitor make a vCPU with the template, and compares.
pub(crate) fn run(program: &Path, path: &Path) -> Result<()> {
    let template: CpuConfig = files::read(path)?;
    let name = path.to_str().context("the template's path is not UTF-8")?;
    let found = monitor::dump(program, Some(name))?;
    let differences = differences(&template, &found);
    for line in &differences {
        println!("{line}");
    }
    if !differences.is_empty() {
        bail!(
            "{} registers are not as the template says: KVM ignores it, or Cloister writes over it",
            differences.len()
        );
    }
    println!("every register is as the template says");
    Ok(())
}

fn differences(template: &CpuConfig, found: &CpuConfig) -> Vec<String> {
    let found = Registers::of(found);
    let asked = Registers::of(template).bits;
    let differing = asked.iter().filter_map(|(&place, bits)| {
        let Some(value) = found.value(place) else {
            return Some(format!("{place}: not among what guests are told"));
        };
        let wrong = (value ^ bits.set()) & bits.changed();
        (wrong != 0).then(|| {
            let (asked, found) = (bits.set() & wrong, value & wrong);
            format!("{place}: of the bits {wrong:#x} the template sets {asked:#x}, a guest finds {found:#x}")
        })
    });
    differing.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registers::tests::dump;

    #[test]
    fn only_bits_that_the_template_names_count() {
        let template = r#"{"cpuid_modifiers": [{"leaf": "0x1", "subleaf": "0x0", "flags": 0,
            "modifiers": [{"register": "ecx", "bitmap": "0b1x0"}]}]}"#;
        let template: CpuConfig = serde_json::from_str(template).unwrap();
        for good in [0b100, 0b110, 0xffff_fffe] {
            let found = dump(&[("0x1", "ecx", good)]);
            assert_eq!(differences(&template, &found), Vec::<String>::new());
        }
        let line = "CPUID leaf 0x1, subleaf 0x0, ecx: of the bits 0x5 the template sets 0x4, a guest finds 0x1";
        assert_eq!(
            differences(&template, &dump(&[("0x1", "ecx", 0b001)])),
            [line]
        );
        let line = "CPUID leaf 0x1, subleaf 0x0, ecx: not among what guests are told";
        assert_eq!(differences(&template, &CpuConfig::default()), [line]);
    }
}
