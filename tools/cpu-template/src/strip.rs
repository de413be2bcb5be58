//! Leaves out of dumps what is the same in all of them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use vm_config::CpuConfig;

use crate::files;
use crate::registers::Registers;

/// Writes beside each file one whose name ends with `suffix`.
pub(crate) fn run(paths: &[PathBuf], suffix: &str) -> Result<()> {
    ensure!(
        !suffix.is_empty(),
        "an empty --suffix would replace the dumps; give one"
    );
    let dumps = paths.iter().map(|path| files::read(path));
    let dumps: Vec<CpuConfig> = dumps.collect::<Result<_>>()?;
    for (path, stripped) in paths.iter().zip(strip(&dumps)) {
        let output = beside(path, suffix)?;
        files::write(&output, &stripped)?;
        println!("{}", output.display());
    }
    Ok(())
}

fn beside(path: &Path, suffix: &str) -> Result<PathBuf> {
    let stem = path
        .file_stem()
        .with_context(|| format!("{path:?} is no file"))?;
    let mut name = stem.to_owned();
    name.push(suffix);
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    Ok(path.with_file_name(name))
}

fn strip(dumps: &[CpuConfig]) -> Vec<CpuConfig> {
    let all: Vec<Registers> = dumps.iter().map(Registers::of).collect();
    let stripped = all.iter().map(|own| {
        let mut rest = own.clone();
        rest.bits
            .retain(|place, bits| all.iter().any(|other| other.bits.get(place) != Some(bits)));
        rest.to_template()
    });
    stripped.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registers::tests::dump;

    #[test]
    fn what_differs_stays_and_what_is_missing_elsewhere_too() {
        let one = dump(&[("0x1", "eax", 1), ("0x1", "ebx", 2), ("0x5", "eax", 5)]);
        let two = dump(&[("0x1", "eax", 1), ("0x1", "ebx", 3)]);
        let expected = [
            dump(&[("0x1", "ebx", 2), ("0x5", "eax", 5)]),
            dump(&[("0x1", "ebx", 3)]),
        ];
        assert_eq!(strip(&[one.clone(), two]), expected);
        assert_eq!(
            strip(&[one.clone(), one]),
            [CpuConfig::default(), CpuConfig::default()]
        );
    }

    #[test]
    fn the_suffix_goes_before_the_extension() {
        let at = |path: &str| beside(Path::new(path), "_s").unwrap();
        assert_eq!(at("a/b.json"), Path::new("a/b_s.json"));
        assert_eq!(at("b"), Path::new("b_s"));
    }
}
