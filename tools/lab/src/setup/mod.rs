//! Downloads, unpacks and builds all that the lab boots, once, into a cache directory.
//!
//! ```text
//! CACHE/lock             held while building
//! CACHE/packages/NAME/   unpacked Debian packages
//! CACHE/images-KEY/      the images of one recipe, complete or absent
//! CACHE/making-*/        work in progress, removed by the next build if it was interrupted
//! ```
//!
//! KEY is a digest of the recipe, so that a changed script makes new images and an unchanged
//! one makes none. Images are built under another name and renamed, so that an interrupted
//! build leaves nothing that looks finished.

mod cpio;
mod guest;
mod kernel;
mod modules;
mod outer;
mod packages;
mod tools;
mod tree;

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::BufWriter;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use tempfile::TempDir;

use modules::Modules;
use tree::Busybox;

pub use packages::find_program;
pub use tree::Tree;

/// Change it when this module makes other images from the same scripts.
const RECIPE: u32 = 3;

/// Size of the guest's root disk: room for its user space and for what tests write.
const ROOT_DISK: &str = "64M";
/// Size of the disk that carries the guest's images into the outer machine.
const IMAGES_DISK: &str = "512M";
/// Size of the disk with programs for tests.
const TOOLS_DISK: &str = "192M";

/// The images of one recipe, all there.
pub struct Images {
    directory: PathBuf,
}

impl Images {
    /// The kernel of the outer machine, as QEMU starts it fastest: unpacked.
    pub fn outer_kernel(&self) -> PathBuf {
        self.guest().join("vmlinux")
    }

    /// The initramfs of the outer machine. Programs are appended to it.
    pub fn outer_initramfs(&self) -> PathBuf {
        self.directory.join("outer.cpio")
    }

    /// A disk with the content of [`Images::guest`], for the outer machine.
    pub fn images_disk(&self) -> PathBuf {
        self.directory.join("images.ext4")
    }

    /// What guests boot: `vmlinux`, `bzImage`, `initramfs.cpio`, `root.ext4`, `tools.ext4`.
    pub fn guest(&self) -> PathBuf {
        self.directory.join("guest")
    }
}

/// Makes whatever is not in the cache yet, and says so. Safe to run twice at once.
///
/// # Errors
/// When a package is missing and cannot be had; the message says what is needed and why.
pub fn images(cache: &Path) -> Result<Images> {
    fs::create_dir_all(cache).with_context(|| format!("cannot create {}", cache.display()))?;
    // Other programs get these paths, whatever their working directory is.
    let cache = &cache.canonicalize()?;
    let lock_path = cache.join("lock");
    let lock = File::create(&lock_path)
        .with_context(|| format!("cannot create {}", lock_path.display()))?;
    // Released when the file closes, however this process ends.
    lock.lock()
        .with_context(|| format!("cannot lock {}", lock_path.display()))?;

    packages::install_programs()?;
    let images = Images {
        directory: cache.join(format!("images-{:016x}", recipe_digest())),
    };
    if !images.directory.is_dir() {
        let started = Instant::now();
        remove_stale(cache)?;
        build(cache, &images.directory)?;
        println!(
            "made the lab's images in {:.1} s",
            started.elapsed().as_secs_f64()
        );
    }
    Ok(images)
}

fn recipe_digest() -> u64 {
    let mut digest = DefaultHasher::new();
    (
        RECIPE,
        ROOT_DISK,
        IMAGES_DISK,
        TOOLS_DISK,
        tools::PROGRAMS,
        outer::SOURCES,
        outer::MODULES,
        guest::SOURCES,
        guest::MODULES,
    )
        .hash(&mut digest);
    digest.finish()
}

fn build(cache: &Path, finished: &Path) -> Result<()> {
    let kernel = packages::unpack(&packages::kernel_package()?, cache)?;
    let busybox = read_busybox(&packages::unpack("busybox-static", cache)?)?;
    let modules = Modules::find(&kernel.join("lib/modules"))?;

    println!("making images");
    let work = work_directory(cache)?;
    let guest = work.path().join("guest");
    fs::create_dir(&guest)?;
    let bzimage = read_bzimage(&kernel.join("boot"))?;
    fs::write(guest.join("vmlinux"), kernel::extract_vmlinux(&bzimage)?)?;
    fs::write(guest.join("bzImage"), bzimage)?;
    write_cpio(
        &guest::initramfs(&busybox, &modules)?,
        &guest.join("initramfs.cpio"),
    )?;
    let root = work.path().join("root");
    fs::create_dir(&root)?;
    guest::user_space(&busybox).write_directory(&root)?;
    make_ext4(&root, &guest.join("root.ext4"), ROOT_DISK)?;
    fs::remove_dir_all(&root)?;
    let tools = work.path().join("tools");
    tools::write(cache, &tools)?;
    make_ext4(&tools, &guest.join("tools.ext4"), TOOLS_DISK)?;
    fs::remove_dir_all(&tools)?;

    write_cpio(
        &outer::initramfs(&busybox, &modules)?,
        &work.path().join("outer.cpio"),
    )?;
    make_ext4(&guest, &work.path().join("images.ext4"), IMAGES_DISK)?;
    finish(work.path(), finished)
}

/// A directory that disappears unless it is finished.
fn work_directory(cache: &Path) -> Result<TempDir> {
    tempfile::Builder::new()
        .prefix("making-")
        .tempdir_in(cache)
        .with_context(|| format!("cannot create a directory in {}", cache.display()))
}

/// Gives a complete work directory its name, for every user to read.
fn finish(work: &Path, finished: &Path) -> Result<()> {
    fs::set_permissions(work, fs::Permissions::from_mode(0o755))?;
    fs::rename(work, finished).with_context(|| format!("cannot create {}", finished.display()))
}

fn read_busybox(package: &Path) -> Result<Busybox> {
    let path = package.join("bin/busybox");
    let program = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let list = Command::new(&path)
        .arg("--list")
        .output()
        .with_context(|| format!("cannot run {}", path.display()))?;
    let applets = String::from_utf8_lossy(&list.stdout)
        .lines()
        .map(str::to_owned)
        .collect();
    Ok(Busybox { program, applets })
}

fn read_bzimage(boot: &Path) -> Result<Vec<u8>> {
    let path = fs::read_dir(boot)
        .with_context(|| format!("cannot list {}", boot.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"))
        })
        .context("the kernel package has no boot/vmlinuz-*")?;
    fs::read(&path).with_context(|| format!("cannot read {}", path.display()))
}

fn write_cpio(tree: &Tree, path: &Path) -> Result<()> {
    tree.write_cpio(BufWriter::new(File::create_new(path)?))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn make_ext4(content: &Path, image: &Path, size: &str) -> Result<()> {
    let program = find_program("mkfs.ext4").context("mkfs.ext4 is missing")?;
    let mut mkfs = Command::new(program);
    // Blocks as large as pages, which direct access to the memory behind a disk asks for.
    mkfs.args(["-q", "-b", "4096", "-E", "root_owner=0:0", "-d"])
        .args([content, image])
        .arg(size);
    packages::run(&mut mkfs)
}

/// Removes the images of earlier recipes and what interrupted builds left.
fn remove_stale(cache: &Path) -> Result<()> {
    for entry in fs::read_dir(cache)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("images-") || name.starts_with("making-") {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}
