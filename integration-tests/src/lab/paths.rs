//! Folders and files of a lab.

use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::topology::Cluster;

/// The word that a vendor's stop script looks for: no path of ours may have it.
const FORBIDDEN: &str = "dolphindb";

/// Folders and files of a lab, all absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    root: PathBuf,
}

impl Paths {
    /// Makes the folder of a new lab.
    pub(crate) fn of_new(folder: &Path) -> anyhow::Result<Self> {
        let absolute = std::path::absolute(folder)
            .with_context(|| format!("`{}` is no folder", folder.display()))?;
        let text = absolute.to_str().context("the lab's folder is not UTF-8")?;
        anyhow::ensure!(
            !text.contains(FORBIDDEN),
            "the lab's folder `{text}` has the word `{FORBIDDEN}` in it: the vendor's stop script would \
             end Grayfin's processes too; choose another folder"
        );
        anyhow::ensure!(
            !text.contains(char::is_whitespace),
            "the lab's folder `{text}` has a space in it: the vendor's scripts break on it"
        );
        std::fs::create_dir_all(&absolute).with_context(|| format!("make `{text}`"))?;
        let paths = Self::of_existing(&absolute)?;
        let empty = std::fs::read_dir(&paths.root)?.next().is_none();
        anyhow::ensure!(empty, "`{text}` is not empty: `lab down --dir {text}` takes a lab down");
        Ok(paths)
    }

    /// The folder of a lab that is there.
    pub(crate) fn of_existing(folder: &Path) -> anyhow::Result<Self> {
        let root = folder
            .canonicalize()
            .with_context(|| format!("there is no lab at `{}`", folder.display()))?;
        Ok(Self { root })
    }

    /// The lab's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What the lab is.
    pub(crate) fn spec(&self) -> PathBuf {
        self.root.join("lab.json")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("lab.lock")
    }

    /// Copies of our programs, and the scripts' tools.
    pub fn programs(&self) -> PathBuf {
        self.root.join("bin")
    }

    /// Certificates and keys.
    pub fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }

    /// A machine's folder.
    pub fn machine(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Milliseconds by which the clock of a machine's Grayfin is wrong; it may change at any time.
    pub fn clock(&self, machine: &str) -> PathBuf {
        self.machine(machine).join("clock")
    }

    /// A cluster's `server` folder on a host.
    pub fn server(&self, host: &str, cluster: &Cluster) -> PathBuf {
        self.machine(host).join(cluster.installation()).join("server")
    }

    /// A cluster's `clusterDemo` folder on a host.
    pub fn work(&self, host: &str, cluster: &Cluster) -> PathBuf {
        self.server(host, cluster).join("clusterDemo")
    }

    /// The host agent's folder on a host: configuration, state, log.
    pub fn agent(&self, host: &str) -> PathBuf {
        self.machine(host).join("grayfin")
    }

    /// Where the host agent finds package zips.
    pub fn packages(&self, host: &str) -> PathBuf {
        self.machine(host).join("packages")
    }

    /// Where the host agent puts backups of a cluster.
    pub fn backups(&self, host: &str, cluster: &Cluster) -> PathBuf {
        self.machine(host).join("backups").join(&cluster.name)
    }
}
