//! The package zips of every modelled version, made once and shared by all labs of a profile.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::Context;
use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};
use standin::package::{Builder, Release};

use crate::binaries::Binaries;

/// Caches of this many node binaries are kept; labs that still use an older one have their own links.
const GENERATIONS_KEPT: usize = 2;

/// Zips by version, for the node binary as it is now.
#[derive(Debug, Clone)]
pub struct Packages {
    folder: PathBuf,
    builder: Builder,
}

impl Packages {
    /// Opens the cache for the node binary, making what is missing.
    pub fn ensure(binaries: &Binaries) -> anyhow::Result<Self> {
        let builder = Builder::new(&binaries.node())?;
        let root = binaries.folder.join("lab-packages");
        fs::create_dir_all(&root).with_context(|| format!("make `{}`", root.display()))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(root.join("lock"))
            .context("open the package cache's lock")?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive)
            .context("lock the package cache")?;
        let folder = root.join(digest(&builder));
        fs::create_dir_all(&folder).with_context(|| format!("make `{}`", folder.display()))?;
        std::thread::scope(|scope| {
            let workers: Vec<_> = Release::all()
                .into_iter()
                .map(|release| (folder.join(release.zip_name()), release))
                .filter(|(path, _)| !path.exists())
                .map(|(path, release)| {
                    let builder = &builder;
                    scope.spawn(move || builder.write_zip(&release, &path))
                })
                .collect();
            for worker in workers {
                worker.join().map_err(|_panic| anyhow::anyhow!("a package writer panicked"))??;
            }
            anyhow::Ok(())
        })?;
        prune(&root);
        Ok(Self { folder, builder })
    }

    /// Makes trees and special packages.
    pub fn builder(&self) -> &Builder {
        &self.builder
    }

    /// The zip of a release.
    pub fn zip(&self, release: &Release) -> PathBuf {
        self.folder.join(release.zip_name())
    }

    /// Puts every zip into a folder, by hard link where that works.
    pub fn put_all(&self, folder: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(folder).with_context(|| format!("make `{}`", folder.display()))?;
        for release in Release::all() {
            let (from, to) = (self.zip(&release), folder.join(release.zip_name()));
            if fs::hard_link(&from, &to).is_err() {
                fs::copy(&from, &to).with_context(|| format!("copy to `{}`", to.display()))?;
            }
        }
        Ok(())
    }
}

/// Name of the cache of this binary: the scripts and files around it are part of it.
fn digest(builder: &Builder) -> String {
    let mut hash = Sha256::new();
    hash.update(builder.program());
    for release in Release::all() {
        hash.update(release.zip_name());
        for file in standin::package::files(&release) {
            hash.update(file.path);
            hash.update(file.mode.to_le_bytes());
            if let standin::package::Content::Bytes(bytes) = file.content {
                hash.update(bytes);
            }
        }
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Removes the oldest caches; failing to is no reason to fail.
fn prune(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else {
        return;
    };
    let mut caches: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            let metadata = entry.metadata().ok()?;
            metadata.is_dir().then_some((metadata.modified().ok()?, entry.path()))
        })
        .collect();
    caches.sort();
    caches.reverse();
    for (_, path) in caches.into_iter().skip(GENERATIONS_KEPT) {
        fs::remove_dir_all(path).ok();
    }
}
