//! `host:port:alias`, and the four things a process can be.

use std::fmt;
use std::str::FromStr;

/// What a process is in the cluster.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A DolphinDB controller.
    Controller,
    /// A DolphinDB agent (called `agent` in its own files).
    #[serde(rename = "agent")]
    DdbAgent,
    /// A data node.
    DataNode,
    /// A compute node.
    ComputeNode,
}

impl Role {
    /// The word used in `cluster.nodes`, in `sites=` and after `-mode`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Controller => "controller",
            Self::DdbAgent => "agent",
            Self::DataNode => "datanode",
            Self::ComputeNode => "computenode",
        }
    }

    /// The number in the column `mode` of `getClusterPerf` and the answer of `getNodeType()`.
    pub fn number(self) -> i32 {
        match self {
            Self::DataNode => 0,
            Self::DdbAgent => 1,
            Self::Controller => 2,
            Self::ComputeNode => 4,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "controller" => Ok(Self::Controller),
            "agent" => Ok(Self::DdbAgent),
            "datanode" => Ok(Self::DataNode),
            "computenode" => Ok(Self::ComputeNode),
            other => Err(format!(
                "unknown mode `{other}`: expected controller, agent, datanode or computenode"
            )),
        }
    }
}

/// Where a node listens and what it is called.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct Site {
    /// Host name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Alias, case-sensitive.
    pub alias: String,
}

impl Site {
    /// `host:port`, what clients connect to.
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

impl fmt::Display for Site {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}:{}", self.host, self.port, self.alias)
    }
}

impl FromStr for Site {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.trim().split(':');
        let (Some(host), Some(port), Some(alias), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(format!("`{text}` is not host:port:alias"));
        };
        if host.is_empty() || alias.is_empty() {
            return Err(format!("`{text}` is not host:port:alias"));
        }
        if alias.chars().any(|c| !(c.is_ascii_alphanumeric() || c == '_' || c == '-')) {
            return Err(format!("alias `{alias}` may hold letters, digits, `_` and `-` only"));
        }
        let port = port
            .parse::<u16>()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| format!("`{port}` in `{text}` is not a port"))?;
        Ok(Self { host: host.to_owned(), port, alias: alias.to_owned() })
    }
}
