//! Gets what the lab needs from Debian: programs to run here are installed, everything that
//! goes into a virtual machine is only downloaded and unpacked.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

/// A program of this machine, and the package that brings it.
struct Program {
    name: &'static str,
    package: &'static str,
    reason: &'static str,
}

const PROGRAMS: [Program; 2] = [
    Program {
        name: "qemu-system-x86_64",
        package: "qemu-system-x86",
        reason: "emulates a processor with virtualization",
    },
    Program {
        name: "mkfs.ext4",
        package: "e2fsprogs",
        reason: "makes the guests' disk images",
    },
];

/// Installs the programs that are missing. Does nothing, and needs no root, when all are there.
///
/// # Errors
/// When something is missing and cannot be installed; the message names it and says why.
pub fn install_programs() -> Result<()> {
    let missing: Vec<_> = PROGRAMS
        .iter()
        .filter(|program| find_program(program.name).is_none())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<_> = missing.iter().map(|program| program.package).collect();
    let command = format!(
        "apt-get install --no-install-recommends {}",
        packages.join(" ")
    );
    let reasons: Vec<_> = missing
        .iter()
        .map(|program| format!("{} ({})", program.package, program.reason))
        .collect();
    let needs = format!("the lab needs {}", reasons.join(" and "));
    ensure!(
        find_program("apt-get").is_some(),
        "{needs}; this machine has no apt-get, so install the programs by hand"
    );
    ensure!(
        rustix::process::geteuid().is_root(),
        "{needs}, and only root can install; run `sudo {command}`, then this again"
    );

    println!("installing {}", packages.join(" "));
    let mut install = apt_get();
    install
        .args(["install", "--yes", "--no-install-recommends"])
        .args(&packages);
    install.env("DEBIAN_FRONTEND", "noninteractive");
    with_fresh_lists(&mut install).with_context(|| format!("{needs}; `{command}` failed"))
}

/// The full path of a program, looked up as a shell would and in the system's own directories,
/// which are not on everybody's `PATH`.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

/// Downloads `package` and unpacks it as `packages/NAME` in the cache, unless it is there.
/// Needs no root: nothing is installed.
pub fn unpack(package: &str, cache: &Path) -> Result<PathBuf> {
    unpack_together(package, &[package], cache)
}

/// Downloads packages and unpacks them over each other as `packages/NAME` in the cache, unless that is there.
pub fn unpack_together(name: &str, members: &[&str], cache: &Path) -> Result<PathBuf> {
    let packages = cache.join("packages");
    let tree = packages.join(name);
    if tree.is_dir() {
        return Ok(tree);
    }
    println!("downloading {name}");
    fs::create_dir_all(&packages)?;
    let work = super::work_directory(cache)?;
    let mut download = apt_get();
    download
        .current_dir(work.path())
        .arg("download")
        .args(members);
    with_fresh_lists(&mut download).with_context(|| {
        format!("cannot download {members:?}; the lab is made of Debian's packages")
    })?;

    let archives: Vec<_> = fs::read_dir(work.path())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .collect();
    ensure!(
        archives.len() == members.len(),
        "apt-get downloaded {} files for {members:?}",
        archives.len()
    );
    let unpacked = work.path().join("unpacked");
    for archive in archives {
        run(Command::new("dpkg").arg("-x").args([&archive, &unpacked]))?;
    }
    super::finish(&unpacked, &tree)?;
    Ok(tree)
}

/// `programs` and the libraries they need, directly or through other libraries, as package names.
pub fn with_libraries(programs: &[&str]) -> Result<Vec<String>> {
    let mut all: Vec<String> = Vec::new();
    let mut next: Vec<String> = programs.iter().map(|name| (*name).to_owned()).collect();
    while !next.is_empty() {
        let depends = apt_depends(&next)?;
        all.append(&mut next);
        next = libraries(&depends)
            .filter(|name| !all.iter().any(|known| known == name))
            .map(str::to_owned)
            .collect();
        next.sort_unstable();
        next.dedup();
    }
    Ok(all)
}

/// The names of libraries in what `apt-cache depends` printed. Alternatives begin with `|`.
fn libraries(depends: &str) -> impl Iterator<Item = &str> {
    depends
        .lines()
        .filter_map(|line| {
            let line = line.trim().trim_start_matches('|');
            line.strip_prefix("Depends: ")
                .or_else(|| line.strip_prefix("PreDepends: "))
        })
        .filter(|name| name.starts_with("lib") || *name == "zlib1g")
}

fn apt_depends(packages: &[String]) -> Result<String> {
    let ask = || -> Result<Option<String>> {
        let output = Command::new("apt-cache")
            .arg("depends")
            .args(packages)
            .output()
            .context("cannot run apt-cache; the lab is made of Debian's packages")?;
        let depends = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(output.status.success().then_some(depends))
    };
    if let Some(depends) = ask()? {
        return Ok(depends);
    }
    update_lists()?;
    ask()?.with_context(|| {
        format!("apt-cache does not know all of {packages:?}; the lab needs Debian's package lists")
    })
}

/// The package that `linux-image-cloud-amd64` stands for: it holds no file itself.
pub fn kernel_package() -> Result<String> {
    const META: &str = "linux-image-cloud-amd64";
    let find = || -> Result<Option<String>> {
        let output = Command::new("apt-cache")
            .args(["depends", META])
            .output()
            .context("cannot run apt-cache; the lab is made of Debian's packages")?;
        Ok(versioned_image(&String::from_utf8_lossy(&output.stdout)))
    };
    if let Some(package) = find()? {
        return Ok(package);
    }
    update_lists()?;
    find()?.with_context(|| {
        format!("apt-cache knows no package {META}; the lab needs Debian's package lists")
    })
}

fn versioned_image(depends: &str) -> Option<String> {
    depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|package| package.starts_with("linux-image-"))
        .map(str::to_owned)
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    // Waits for another apt-get instead of failing. Downloads go to our own directory, which
    // apt's unprivileged user cannot write.
    command.args([
        "--quiet",
        "--quiet",
        "-oDPkg::Lock::Timeout=300",
        "-oAPT::Sandbox::User=root",
    ]);
    command
}

/// Runs an apt-get command; if it fails, once more after `apt-get update`: on a new machine the
/// package lists are empty.
fn with_fresh_lists(command: &mut Command) -> Result<()> {
    if run(command).is_ok() {
        return Ok(());
    }
    update_lists()?;
    run(command)
}

fn update_lists() -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "the package lists are missing or old; run `sudo apt-get update`, then this again"
    );
    println!("updating the package lists");
    run(apt_get().arg("update"))
}

/// Runs a command quietly; its output becomes part of the error.
pub fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    if output.status.success() {
        return Ok(());
    }
    bail!(
        "{command:?} failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_libraries_are_followed() {
        let depends =
            "socat\n  Depends: libc6\n |Depends: debconf\n  PreDepends: zlib1g\n  Suggests: libx\n";
        assert_eq!(libraries(depends).collect::<Vec<_>>(), ["libc6", "zlib1g"]);
    }

    #[test]
    fn the_image_behind_the_meta_package_is_found() {
        let depends = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        assert_eq!(
            versioned_image(depends).as_deref(),
            Some("linux-image-6.1.0-56-cloud-amd64")
        );
        assert_eq!(versioned_image("E: No packages found\n"), None);
    }
}
