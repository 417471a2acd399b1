//! DolphinDB packages: found, read through, judged and unpacked.
//!
//! # How a package's version is known
//! No documented way makes the vendor's binary tell its version without starting a node, so until
//! `join` the version is *claimed* by the file name. What the package itself shows is compared with
//! the claim ([`Verdict`]):
//!
//! - every plugin in it names its version in the first line of its `Plugin*.txt`, and the first three
//!   numbers of it must be the server's, or the server would refuse to load it: another release in
//!   any of them refutes the claim;
//! - the binary is searched for texts that look like a version. The claimed one supports the claim.
//!   If it is absent, while all plugins agree on one other version of four numbers that is there,
//!   the claim is refuted; each of these alone proves nothing.
//!
//! Neither proves the claim: that is done by `join`, where every node is asked.

use std::{
    io,
    path::{Path, PathBuf},
};

use grayfin_types::{Code, DdbVersion};

use crate::files;

mod hints;
mod inspect;
mod staged;
mod unpack;

pub use hints::{Hints, Verdict};
pub use inspect::{Inspection, inspect, list_names};
pub use staged::{STAGE_PREFIX, Staged, own_folder, stage_place};
pub use unpack::{Unpack, unpack};

/// The top folder of every package.
pub const TOP: &str = "server";

/// The binary's name in every package; an installation may call it otherwise.
pub const BINARY: &str = "dolphindb";

/// Why a package cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not there.
    #[error(
        "no package `{file}` in `{}`: copy it there, or let the coordinator serve it",
        folder.display()
    )]
    Missing {
        /// Its name.
        file: String,
        /// Where it should be.
        folder: PathBuf,
    },
    /// It is damaged, hostile or no package of DolphinDB.
    #[error("the package `{}` is not usable: {why}", path.display())]
    Corrupt {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// What is inside is not what the name says.
    #[error("the package `{}` claims version {claimed}, but {evidence}", path.display())]
    WrongVersion {
        /// Which.
        path: PathBuf,
        /// What its name says.
        claimed: DdbVersion,
        /// What was found.
        evidence: String,
    },
    /// It is not the one that the plan names.
    #[error(
        "the package `{}` has SHA-256 {found}, but the plan says {expected}: copy the same file to every host",
        path.display()
    )]
    Differs {
        /// Which.
        path: PathBuf,
        /// What it has.
        found: String,
        /// What the plan says.
        expected: String,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    Files(#[from] files::Error),
}

impl Error {
    /// Returns the code with a page of its own.
    pub fn code(&self) -> Code {
        match self {
            Self::Missing { .. } => Code::PackageMissing,
            Self::Corrupt { .. } => Code::PackageCorrupt,
            Self::WrongVersion { .. } => Code::PackageWrongVersion,
            Self::Differs { .. } => Code::PackageDiffers,
            Self::Files(e) if e.is_no_space() => Code::DiskTooSmall,
            Self::Files(files::Error::Stopped) => Code::Aborted,
            Self::Files(_) => Code::PackageCorrupt,
        }
    }
}

/// What a package runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// `Linux64`: x86.
    Linux64,
    /// `ARM64`.
    Arm64,
}

impl Platform {
    /// This machine's.
    pub fn own() -> Self {
        if rustix::system::uname().machine().to_bytes() == b"aarch64" {
            Self::Arm64
        } else {
            Self::Linux64
        }
    }

    /// As it stands in file names.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Linux64 => "Linux64",
            Self::Arm64 => "ARM64",
        }
    }
}

/// A package in a folder, known by its name alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageFile {
    /// Where it is.
    pub path: PathBuf,
    /// What its name claims.
    pub version: DdbVersion,
    /// What its name claims.
    pub platform: Platform,
    /// Bytes.
    pub bytes: u64,
}

/// The name of the package of a version.
pub fn file_name(version: &DdbVersion, platform: Platform) -> String {
    format!("DolphinDB_{}_V{version}.zip", platform.name())
}

/// Reads a package's name; none if it is no such name.
pub fn parse_name(name: &str) -> Option<(Platform, DdbVersion)> {
    let rest = name.strip_prefix("DolphinDB_")?.strip_suffix(".zip")?;
    let (platform, version) = rest.split_once("_V")?;
    let platform = match platform {
        "Linux64" => Platform::Linux64,
        "ARM64" => Platform::Arm64,
        _ => return None,
    };
    Some((platform, version.parse().ok()?))
}

/// Lists the packages in a folder, oldest version first. Other files are passed over.
pub fn list(folder: &Path) -> Result<Vec<PackageFile>, Error> {
    let mut all = Vec::new();
    let at = |e: io::Error| files::Error::at("list", folder)(e);
    for entry in std::fs::read_dir(folder).map_err(at)? {
        let entry = entry.map_err(at)?;
        let Some((platform, version)) = entry.file_name().to_str().and_then(parse_name) else {
            continue;
        };
        let path = entry.path();
        let metadata = std::fs::metadata(&path).map_err(files::Error::at("look at", &path))?;
        if metadata.is_file() {
            all.push(PackageFile { path, version, platform, bytes: metadata.len() });
        }
    }
    all.sort_by(|a, b| a.version.cmp(&b.version));
    Ok(all)
}

/// Finds the package of a version for this machine.
pub fn find(folder: &Path, version: &DdbVersion) -> Result<PackageFile, Error> {
    let platform = Platform::own();
    let file = file_name(version, platform);
    let path = folder.join(&file);
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => {
            Ok(PackageFile { path, version: version.clone(), platform, bytes: metadata.len() })
        }
        Ok(_) => Err(Error::Corrupt { path, why: "it is no regular file".to_owned() }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            Err(Error::Missing { file, folder: folder.to_path_buf() })
        }
        Err(e) => Err(files::Error::at("look at", path)(e).into()),
    }
}

#[cfg(test)]
mod tests;
