//! The versions that are modelled.

use super::trailer::Trailer;

/// One version of the server, as far as a package shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// Version, such as `2.00.8.12`.
    pub version: String,
    /// Release date as `version()` prints it.
    pub date: String,
    /// Words behind the date, and wishes for tests; see [`Trailer::flags`].
    pub flags: Vec<String>,
    /// Which one of the files that only one release has is in this one; two releases with different
    /// numbers differ by a file more and a file less.
    pub generation: u32,
    /// The shipped configuration lets controllers start nodes by themselves (from 3.00.2 on).
    pub restarts_data_nodes: bool,
    /// The package has `stopController.sh` (3.x).
    pub has_stop_controller: bool,
}

/// Version and date of each modelled release. Only the dates of 2.00.7.4 and 2.00.8.12 are documented;
/// the others are plausible.
const MODELLED: [(&str, &str); 7] = [
    ("2.00.7.4", "2022.12.08"),
    ("2.00.8.10", "2022.12.28"),
    ("2.00.8.12", "2023.01.10"),
    ("2.00.9.4", "2023.05.18"),
    ("2.00.10.2", "2023.09.27"),
    ("3.00.0.1", "2024.04.22"),
    ("3.00.2.1", "2024.11.12"),
];

impl Release {
    /// Every modelled release, oldest first.
    pub fn all() -> Vec<Self> {
        (1_u32..)
            .zip(MODELLED)
            .map(|(generation, (version, date))| Self {
                version: version.to_owned(),
                date: date.to_owned(),
                flags: Vec::new(),
                generation,
                restarts_data_nodes: version == "3.00.2.1",
                has_stop_controller: version.starts_with("3."),
            })
            .collect()
    }

    /// The modelled release of a version.
    pub fn of(version: &str) -> Option<Self> {
        Self::all().into_iter().find(|release| release.version == version)
    }

    /// `DolphinDB_Linux64_V2.00.8.12.zip`, with the variant behind the version where there is one.
    pub fn zip_name(&self) -> String {
        let variants: String = self
            .flags
            .iter()
            .filter(|flag| matches!(flag.as_str(), "JIT" | "ABI"))
            .map(|flag| format!("_{flag}"))
            .collect();
        format!("DolphinDB_Linux64_V{}{variants}.zip", self.version)
    }

    /// What the binary of this release knows about itself.
    pub fn trailer(&self) -> Trailer {
        Trailer {
            version: self.version.clone(),
            date: self.date.clone(),
            flags: self.flags.clone(),
        }
    }

    /// The first three parts of the version, which a plugin must share with the server.
    pub fn plugin_series(&self) -> String {
        self.version.split('.').take(3).collect::<Vec<_>>().join(".")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_missions_pair_is_modelled() {
        assert_eq!(
            Release::of("2.00.7.4").unwrap().trailer().version_line(),
            "2.00.7.4 2022.12.08"
        );
        let new = Release::of("2.00.8.12").unwrap();
        assert_eq!(new.trailer().version_line(), "2.00.8.12 2023.01.10");
        assert_eq!(new.zip_name(), "DolphinDB_Linux64_V2.00.8.12.zip");
        assert_eq!(new.plugin_series(), "2.00.8");
        assert!(Release::of("9.9").is_none());
    }

    #[test]
    fn a_variant_is_part_of_the_name() {
        let mut release = Release::of("2.00.9.4").unwrap();
        release.flags.push("JIT".into());
        assert_eq!(release.zip_name(), "DolphinDB_Linux64_V2.00.9.4_JIT.zip");
    }
}
