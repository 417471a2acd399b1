//! `dolphindb.lic` of the stand-in: a JSON document with the fields that `license()` answers.
//!
//! The real file is signed and opaque; nothing that reads this one may be taken to read the real one.

use std::path::Path;

/// What a licence allows.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct License {
    /// `trial`, `test`, `site` or `commercial`.
    pub authorization: String,
    /// Number of the licence type.
    pub license_type: i32,
    /// GiB a node may use.
    pub max_memory_per_node: i32,
    /// Cores a node may use.
    pub max_cores_per_node: i32,
    /// Who it was made out to.
    pub client_name: String,
    /// Last day, `yyyy.mm.dd`.
    pub expiration: String,
    /// Nodes in a cluster.
    pub max_nodes: i32,
    /// Highest server version; empty for any.
    pub version: String,
    /// Bit set of modules; -1 for all.
    pub modules: i64,
}

impl Default for License {
    fn default() -> Self {
        Self {
            authorization: "commercial".into(),
            license_type: 0,
            max_memory_per_node: 512,
            max_cores_per_node: 64,
            client_name: "stand-in".into(),
            expiration: "2099.12.31".into(),
            max_nodes: 128,
            version: String::new(),
            modules: -1,
        }
    }
}

/// The licence file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be read.
    #[error("read the licence `{path}`")]
    Io {
        /// The file.
        path: String,
        /// The operating system's words.
        #[source]
        source: std::io::Error,
    },
    /// It is not a licence of the stand-in.
    #[error("the licence `{path}` is not valid: {reason}")]
    Invalid {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl License {
    /// Reads a licence file.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|source| Error::Io { path: name.clone(), source })?;
        serde_json::from_str(&text)
            .map_err(|error| Error::Invalid { path: name, reason: error.to_string() })
    }

    /// The file's text.
    pub fn to_text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("strings always serialise");
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_reads_back_and_absent_fields_have_defaults() {
        let license = License { version: "2.00.8".into(), ..License::default() };
        assert_eq!(serde_json::from_str::<License>(&license.to_text()).unwrap(), license);
        assert!(license.to_text().contains("\"maxNodes\""));
        let sparse: License = serde_json::from_str("{\"expiration\":\"2020.01.01\"}").unwrap();
        assert_eq!(sparse.expiration, "2020.01.01");
        assert_eq!(sparse.max_nodes, 128);
    }
}
