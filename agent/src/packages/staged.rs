//! The unpacked package beside the installation.
//!
//! ```text
//! <server_dir>/../.grayfin-stage-<name of server_dir>-<16 digits of the package's SHA-256>/
//!     CONTENTS.jsonl    manifest of what is below server/, written last
//!     server/…          the package
//! ```
//! While it is being made it has `.partial` behind its name. It must lie on the file system of the
//! installation, because the upgrade moves files from here to there; where the folder above the
//! installation is on another one, it is made inside the installation instead.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use grayfin_types::DdbVersion;
use serde::{Deserialize, Serialize};

use super::{Error, Unpack, inspect::corrupt, unpack};
use crate::files::{
    Compared, Comparison, Control, Disk, Entry, Error as FilesError, ManifestError, chain,
    create_dir_durably, read_manifest, remove_tree, rename_durably, write_manifest,
};

/// What the names of these folders begin with.
pub const STAGE_PREFIX: &str = ".grayfin-stage-";

/// The manifest's name.
const CONTENTS: &str = "CONTENTS.jsonl";

/// What is said about a staged package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    sha256: String,
    version: DdbVersion,
}

/// A package that was unpacked as a whole.
#[derive(Debug, Clone)]
pub struct Staged {
    /// Its folder.
    pub root: PathBuf,
    /// The version that it claims.
    pub version: DdbVersion,
    /// SHA-256 of the zip.
    pub sha256: String,
    /// What was unpacked, as paths below the folder: `server/…`.
    pub entries: Vec<Entry>,
}

/// Where the package with this SHA-256 is unpacked for an installation.
pub fn stage_place(server_dir: &Path, sha256: &str) -> PathBuf {
    let short: String = sha256.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    own_folder(server_dir, STAGE_PREFIX, &short)
}

/// A folder of ours beside the installation, on the same file system. Its name has the
/// installation's, because another one may lie in the same folder.
pub fn own_folder(server_dir: &Path, prefix: &str, what: &str) -> PathBuf {
    let name = server_dir.file_name().unwrap_or_default().to_string_lossy();
    let name = format!("{prefix}{name}-{what}");
    let device = |path: &Path| std::fs::metadata(path).map(|m| m.dev()).ok();
    match server_dir.parent() {
        Some(above) if device(above) == device(server_dir) => above.join(name),
        Some(_) | None => server_dir.join(name),
    }
}

impl Staged {
    /// Opens a staged package; none if it is not there or not whole.
    pub fn open(disk: &dyn Disk, place: &Path) -> Result<Option<Self>, Error> {
        let path = place.join(CONTENTS);
        if !path.exists() {
            return Ok(None);
        }
        match read_manifest::<Header, Entry>(disk, &path) {
            Ok((header, entries, _)) => Ok(Some(Self {
                root: place.to_path_buf(),
                version: header.version,
                sha256: header.sha256,
                entries,
            })),
            Err(ManifestError::Files(e)) => Err(e.into()),
            // Written last and durably: if it is damaged, so may be the rest. Unpack again.
            Err(ManifestError::Damaged { .. }) => Ok(None),
        }
    }

    /// Unpacks a package whose SHA-256 was checked. What an interrupted attempt left is removed.
    pub fn make(
        how: &Unpack<'_>,
        package: &Path,
        sha256: &str,
        version: &DdbVersion,
        place: &Path,
    ) -> Result<Self, Error> {
        let mut partial = place.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        remove_tree(how.disk, &partial)?;
        remove_tree(how.disk, place)?;
        let entries = Self::fill(how, package, sha256, version, &partial).inspect_err(|_| {
            // Room is what is missing most often: give back at once what was used.
            drop(remove_tree(how.disk, &partial));
        })?;
        rename_durably(how.disk, &partial, place)?;
        let (sha256, version) = (sha256.to_owned(), version.clone());
        Ok(Self { root: place.to_path_buf(), version, sha256, entries })
    }

    fn fill(
        how: &Unpack<'_>,
        package: &Path,
        sha256: &str,
        version: &DdbVersion,
        partial: &Path,
    ) -> Result<Vec<Entry>, Error> {
        create_dir_durably(how.disk, partial, 0o755)?;
        let entries = unpack(how, package, partial)?;
        let header = Header { sha256: sha256.to_owned(), version: version.clone() };
        write_manifest(how.disk, &partial.join(CONTENTS), &header, &entries)?;
        Ok(entries)
    }

    /// Hashes everything again and fails at the first difference.
    pub fn verify(&self, disk: &dyn Disk, control: &Control) -> Result<Compared, Error> {
        let compared = Comparison { attributes: false, ..Comparison::new(disk, control) }
            .run(&self.root, &self.entries)
            .map_err(Error::Files)?;
        match compared.differences.first() {
            None => Ok(compared),
            Some(first) => Err(corrupt(&self.root, format!("unpacked, it is not whole: {first}"))),
        }
    }

    /// Removes it.
    pub fn remove(disk: &dyn Disk, place: &Path) -> Result<(), FilesError> {
        remove_tree(disk, place)
    }
}

impl From<ManifestError> for Error {
    fn from(error: ManifestError) -> Self {
        match error {
            ManifestError::Files(e) => Self::Files(e),
            ManifestError::Damaged { ref path, .. } => corrupt(path, chain(&error)),
        }
    }
}
