//! Finds kernel modules and the order to load them in.
//!
//! The unpacked package has no `modules.dep`, but each module names what it needs in its
//! `.modinfo` section: `depends=virtio,virtio_ring`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The modules of one unpacked kernel package, by name with underscores.
pub struct Modules {
    files: BTreeMap<String, PathBuf>,
}

/// One module, ready to be put into an initramfs.
pub struct Module {
    /// As `lsmod` shows it.
    pub name: String,
    /// The whole `.ko` file.
    pub data: Vec<u8>,
}

impl Modules {
    /// Lists every `.ko` file under `root`.
    pub fn find(root: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        collect(root, &mut files)?;
        Ok(Self { files })
    }

    /// The modules `wanted` and all they need, each after what it needs.
    pub fn in_load_order(&self, wanted: &[&str]) -> Result<Vec<Module>> {
        let mut ordered = Vec::new();
        for name in wanted {
            self.add(name, &mut ordered)?;
        }
        Ok(ordered)
    }

    // The kernel's build refuses cycles, so this ends.
    fn add(&self, name: &str, ordered: &mut Vec<Module>) -> Result<()> {
        if ordered.iter().any(|module| module.name == name) {
            return Ok(());
        }
        let path = self
            .files
            .get(name)
            .with_context(|| format!("the kernel package has no module `{name}`"))?;
        let data = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        for needed in depends(&data) {
            self.add(&needed, ordered)?;
        }
        ordered.push(Module {
            name: name.to_owned(),
            data,
        });
        Ok(())
    }
}

fn collect(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "ko") {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            files.insert(stem.replace('-', "_"), path);
        }
    }
    Ok(())
}

/// The names after `depends=` in the NUL-separated strings of a module.
fn depends(module: &[u8]) -> Vec<String> {
    module
        .split(|byte| *byte == 0)
        .find_map(|string| string.strip_prefix(b"depends="))
        .map(|names| String::from_utf8_lossy(names).replace('-', "_"))
        .unwrap_or_default()
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn needs_come_first_and_only_once() {
        let directory = tempfile::tempdir().unwrap();
        let nested = directory.path().join("net");
        fs::create_dir(&nested).unwrap();
        let write = |path: PathBuf, needs: &str| {
            fs::write(
                path,
                format!("\x7fELF\0license=GPL\0depends={needs}\0name=x\0"),
            )
            .unwrap();
        };
        write(directory.path().join("virtio.ko"), "virtio-ring");
        write(directory.path().join("virtio-ring.ko"), "");
        write(nested.join("virtio_net.ko"), "virtio_ring,virtio");

        let modules = Modules::find(directory.path()).unwrap();
        let ordered = modules.in_load_order(&["virtio_net", "virtio"]).unwrap();
        let names: Vec<_> = ordered.iter().map(|module| module.name.as_str()).collect();
        assert_eq!(names, ["virtio_ring", "virtio", "virtio_net"]);
    }

    #[test]
    fn a_module_that_is_not_there_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let modules = Modules::find(directory.path()).unwrap();
        let error = modules.in_load_order(&["kvm"]).err().unwrap();
        assert!(error.to_string().contains("`kvm`"), "{error}");
    }
}
