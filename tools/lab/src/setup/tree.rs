//! A directory tree held in memory, to become an initramfs or a file system image.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use super::cpio::Archive;
use super::modules::Module;

/// Files, links and directories by path without a leading slash, parents first.
#[derive(Default)]
pub struct Tree {
    nodes: Vec<(String, Node)>,
}

/// What lies at one path.
pub enum Node {
    /// A directory for everybody to read.
    Directory,
    /// A file, and its permissions.
    File { mode: u32, data: Vec<u8> },
    /// A symbolic link to a path.
    Link(String),
}

impl Tree {
    /// Adds directories.
    pub fn directories(&mut self, paths: &[&str]) -> &mut Self {
        self.nodes.extend(
            paths
                .iter()
                .map(|path| ((*path).to_owned(), Node::Directory)),
        );
        self
    }

    /// Adds a file that can only be read.
    pub fn file(&mut self, path: &str, data: impl Into<Vec<u8>>) -> &mut Self {
        self.add(
            path,
            Node::File {
                mode: 0o644,
                data: data.into(),
            },
        )
    }

    /// Adds a program or script.
    pub fn executable(&mut self, path: &str, data: impl Into<Vec<u8>>) -> &mut Self {
        self.add(
            path,
            Node::File {
                mode: 0o755,
                data: data.into(),
            },
        )
    }

    /// Adds a symbolic link at `path` that points to `target`.
    pub fn link(&mut self, path: &str, target: &str) -> &mut Self {
        self.add(path, Node::Link(target.to_owned()))
    }

    /// Adds symbolic links, each a path and its target.
    pub fn links(&mut self, links: &[(&str, &str)]) -> &mut Self {
        for (path, target) in links {
            self.link(path, target);
        }
        self
    }

    /// Adds busybox as `bin/busybox`, and a link for each of its applets.
    pub fn busybox(&mut self, busybox: &Busybox) -> &mut Self {
        self.executable("bin/busybox", busybox.program.as_slice());
        for applet in busybox.applets.iter().filter(|applet| *applet != "busybox") {
            self.link(&format!("bin/{applet}"), "busybox");
        }
        self
    }

    /// Adds modules as `modules/NAME.ko`, and their load order as `modules/order`.
    pub fn modules(&mut self, modules: Vec<Module>) -> &mut Self {
        let order: String = modules
            .iter()
            .map(|module| format!("{}\n", module.name))
            .collect();
        self.directories(&["modules"]).file("modules/order", order);
        for module in modules {
            self.file(&format!("modules/{}.ko", module.name), module.data);
        }
        self
    }

    /// Writes the tree as a cpio archive.
    pub fn write_cpio(&self, out: impl Write) -> io::Result<()> {
        let mut archive = Archive::new(out);
        for (path, node) in &self.nodes {
            archive.add(path, node)?;
        }
        archive.finish()?;
        Ok(())
    }

    /// Writes the tree into an existing directory.
    pub fn write_directory(&self, root: &Path) -> io::Result<()> {
        for (path, node) in &self.nodes {
            let path = root.join(path);
            match node {
                Node::Directory => fs::create_dir(&path)?,
                Node::Link(target) => symlink(target, &path)?,
                Node::File { mode, data } => {
                    let mut open = OpenOptions::new();
                    let mut file = open.write(true).create_new(true).mode(*mode).open(&path)?;
                    file.write_all(data)?;
                    // The umask had a say in the mode above.
                    file.set_permissions(Permissions::from_mode(*mode))?;
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &str, node: Node) -> &mut Self {
        self.nodes.push((path.to_owned(), node));
        self
    }
}

/// The static busybox and the names it answers to.
pub struct Busybox {
    /// The whole program.
    pub program: Vec<u8>,
    /// Names of its applets.
    pub applets: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_gets_links_and_modes() {
        let mut tree = Tree::default();
        tree.directories(&["bin"])
            .executable("bin/busybox", "x")
            .link("bin/sh", "busybox");
        let root = tempfile::tempdir().unwrap();
        tree.write_directory(root.path()).unwrap();

        let program = root.path().join("bin/busybox");
        assert_eq!(
            fs::metadata(program).unwrap().permissions().mode() & 0o777,
            0o755
        );
        assert_eq!(
            fs::read_link(root.path().join("bin/sh")).unwrap(),
            Path::new("busybox")
        );
    }
}
