//! Room on volumes, with needs on the same volume added up.

use std::{
    collections::BTreeMap,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{Disk, Error};

/// The room on one file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Identifies the file system.
    pub device: u64,
    /// Bytes that an ordinary user may still use.
    pub free_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

impl Space {
    /// Asks the kernel.
    pub fn of(path: &Path) -> io::Result<Self> {
        let device = std::fs::metadata(path)?.dev();
        let all = rustix::fs::statvfs(path)?;
        let unit = if all.f_frsize == 0 { all.f_bsize } else { all.f_frsize };
        Ok(Self {
            device,
            // `f_bavail`: what root alone may use is not ours to plan with.
            free_bytes: all.f_bavail.saturating_mul(unit),
            total_bytes: all.f_blocks.saturating_mul(unit),
        })
    }
}

/// Room that will be needed at a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Where; it need not exist yet.
    pub path: PathBuf,
    /// For what, in a person's words: `backup`, `unpacked package`.
    pub purpose: String,
    /// Bytes.
    pub bytes: u64,
}

/// A volume that is too small.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// A path on it.
    pub path: PathBuf,
    /// What would be put there, with bytes.
    pub needs: Vec<(String, u64)>,
    /// Bytes that must stay free.
    pub floor_bytes: u64,
    /// Bytes free now.
    pub free_bytes: u64,
}

impl Shortage {
    /// Bytes that are missing.
    pub fn missing_bytes(&self) -> u64 {
        let needed = self.needs.iter().fold(0_u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
        needed.saturating_add(self.floor_bytes).saturating_sub(self.free_bytes)
    }
}

impl std::fmt::Display for Shortage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let needs: Vec<String> = self
            .needs
            .iter()
            .map(|(what, bytes)| format!("{bytes} bytes for the {what}"))
            .collect();
        write!(
            f,
            "the volume of `{}` has {} bytes free, but {} are needed and {} must stay free: {} more bytes",
            self.path.display(),
            self.free_bytes,
            needs.join(" and "),
            self.floor_bytes,
            self.missing_bytes()
        )
    }
}

/// Returns the nearest existing folder at or above a path.
pub fn volume_root(path: &Path) -> PathBuf {
    path.ancestors().find(|p| p.is_dir()).map_or_else(|| PathBuf::from("/"), Path::to_path_buf)
}

/// Adds up needs per volume and returns the volumes that are too small.
pub fn shortages(
    disk: &dyn Disk,
    needs: &[Need],
    floor_bytes: u64,
) -> Result<Vec<Shortage>, Error> {
    let mut volumes: BTreeMap<u64, Shortage> = BTreeMap::new();
    for need in needs {
        let root = volume_root(&need.path);
        let space = disk.space(&root).map_err(Error::at("ask for the free room of", &root))?;
        volumes
            .entry(space.device)
            .or_insert_with(|| Shortage {
                path: root,
                needs: Vec::new(),
                floor_bytes,
                free_bytes: space.free_bytes,
            })
            .needs
            .push((need.purpose.clone(), need.bytes));
    }
    Ok(volumes.into_values().filter(|volume| volume.missing_bytes() > 0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::RealDisk;

    #[test]
    fn needs_on_one_volume_are_added_up() {
        let dir = tempfile::tempdir().unwrap();
        let free = RealDisk.space(dir.path()).unwrap().free_bytes;
        let need = |name: &str, bytes| Need {
            path: dir.path().join(name).join("not/there/yet"),
            purpose: name.to_owned(),
            bytes,
        };
        let half = free / 2;
        assert_eq!(shortages(&RealDisk, &[need("backup", half)], 0).unwrap(), []);
        let both = [need("backup", half), need("unpacked package", half + (1 << 32))];
        let short = shortages(&RealDisk, &both, 7).unwrap();
        assert_eq!(short.len(), 1);
        assert_eq!(short[0].needs.len(), 2);
        assert!(short[0].to_string().contains("unpacked package"), "{}", short[0]);
    }
}
