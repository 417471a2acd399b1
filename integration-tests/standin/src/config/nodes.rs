//! `cluster.nodes`: who is in the cluster.

use std::collections::BTreeMap;
use std::path::Path;

use super::error::{Error, read, refuse_blank_first_line};
use super::site::{Role, Site};

/// Columns of the header, in order; the first two are required.
const COLUMNS: [&str; 4] = ["localSite", "mode", "computeGroup", "zone"];

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeEntry {
    /// Line number, from 1.
    pub line: usize,
    /// Where the node listens, and its alias.
    pub site: Site,
    /// What it is.
    pub role: Role,
    /// Compute group, where the column is there and filled.
    pub compute_group: Option<String>,
    /// Zone, where the column is there and filled.
    pub zone: Option<String>,
}

/// `cluster.nodes`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterNodes {
    file: String,
    nodes: Vec<NodeEntry>,
    lines: Vec<String>,
}

impl ClusterNodes {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self, Error> {
        Self::parse(&path.display().to_string(), &read(path)?)
    }

    /// Parses a text; `file` is the name used in errors.
    pub fn parse(file: &str, text: &str) -> Result<Self, Error> {
        refuse_blank_first_line(file, text)?;
        let mut rows = text.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
        let header = rows.next().map_or("", |(_, line)| line);
        let columns = header_width(file, header)?;
        let mut nodes = Vec::new();
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for (line, row) in rows.filter(|(_, row)| !row.is_empty() && !row.starts_with('#')) {
            let entry = parse_row(file, line, row, columns)?;
            for unique in [entry.site.alias.clone(), entry.site.address()] {
                if let Some(before) = seen.insert(unique.clone(), line) {
                    let reason = format!("`{unique}` is already on line {before}");
                    return Err(Error::line(file, line, reason));
                }
            }
            nodes.push(entry);
        }
        let lines = text.lines().map(|line| line.trim_end().to_owned()).collect();
        Ok(Self { file: file.to_owned(), nodes, lines })
    }

    /// Name used in errors.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Every row, in order.
    pub fn nodes(&self) -> &[NodeEntry] {
        &self.nodes
    }

    /// The text line by line, as `getClusterNodesCfg()` answers it.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// The row of an alias.
    pub fn by_alias(&self, alias: &str) -> Option<&NodeEntry> {
        self.nodes.iter().find(|node| node.site.alias == alias)
    }

    /// The rows of a role, in order.
    pub fn with_role(&self, role: Role) -> impl Iterator<Item = &NodeEntry> {
        self.nodes.iter().filter(move |node| node.role == role)
    }

    /// The DolphinDB agent that starts and stops the node `alias`: the one on the same host.
    pub fn agent_of(&self, alias: &str) -> Option<&NodeEntry> {
        let host = &self.by_alias(alias)?.site.host;
        self.with_role(Role::DdbAgent).find(|agent| agent.site.host == *host)
    }
}

/// Checks the header and says how many columns it has.
fn header_width(file: &str, header: &str) -> Result<usize, Error> {
    let names: Vec<&str> = header.split(',').map(str::trim).collect();
    let known = names.len() >= 2
        && names.len() <= COLUMNS.len()
        && names.iter().zip(COLUMNS).all(|(name, column)| *name == column);
    if known {
        Ok(names.len())
    } else {
        let reason = format!("header `{header}` is not localSite,mode[,computeGroup[,zone]]");
        Err(Error::line(file, 1, reason))
    }
}

/// Reads one row; missing trailing fields are empty.
fn parse_row(file: &str, line: usize, row: &str, columns: usize) -> Result<NodeEntry, Error> {
    let bad = |reason: String| Error::line(file, line, reason);
    let fields: Vec<&str> = row.split(',').map(str::trim).collect();
    let [site, mode, rest @ ..] = fields.as_slice() else {
        return Err(bad(format!("`{row}` has no mode")));
    };
    if fields.len() > columns {
        return Err(bad(format!("`{row}` has {} fields but the header {columns}", fields.len())));
    }
    let filled = |index: usize| {
        rest.get(index).filter(|field| !field.is_empty()).map(|field| (*field).to_owned())
    };
    Ok(NodeEntry {
        line,
        site: site.parse().map_err(bad)?,
        role: mode.parse().map_err(bad)?,
        compute_group: filled(0),
        zone: filled(1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: &str = "localSite,mode\n10.10.11.1:8920:HActl43,controller\n\
        10.10.11.2:8920:HActl44,controller\n10.10.11.1:8921:agent43,agent\n\
        10.10.11.1:8922:node43,datanode\n\n10.10.11.1:8930:cnode43,computenode\n";

    #[test]
    fn reads_the_rows() {
        let nodes = ClusterNodes::parse("cluster.nodes", THREE).unwrap();
        assert_eq!(nodes.nodes().len(), 5);
        assert_eq!(nodes.with_role(Role::Controller).count(), 2);
        assert_eq!(nodes.agent_of("node43").unwrap().site.alias, "agent43");
        assert_eq!(nodes.by_alias("cnode43").unwrap().line, 7);
        assert!(nodes.by_alias("NODE43").is_none(), "aliases are case-sensitive");
        assert!(nodes.agent_of("HActl44").is_none());
    }

    #[test]
    fn reads_groups_and_zones() {
        let text = "localSite,mode,computeGroup,zone\nh:1:a,computenode,cg1,z1\nh:2:b,datanode,,z2\nh:3:c,agent\n";
        let nodes = ClusterNodes::parse("f", text).unwrap();
        let of = |alias: &str| {
            let node = nodes.by_alias(alias).unwrap();
            (node.compute_group.as_deref(), node.zone.as_deref())
        };
        assert_eq!(of("a"), (Some("cg1"), Some("z1")));
        assert_eq!(of("b"), (None, Some("z2")));
        assert_eq!(of("c"), (None, None));
    }

    #[test]
    fn refusals_name_file_and_line() {
        for (text, expected) in [
            ("", "The input file is empty."),
            ("\nlocalSite,mode\n", "The input file is empty."),
            ("site,mode\n", "f:1: header"),
            ("localSite,mode\nh:1:a\n", "f:2: `h:1:a` has no mode"),
            ("localSite,mode\nh:1:a,agent,x\n", "f:2: `h:1:a,agent,x` has 3 fields"),
            ("localSite,mode\nh:1:a,boss\n", "f:2: unknown mode `boss`"),
            ("localSite,mode\nh:x:a,agent\n", "f:2: `x` in `h:x:a` is not a port"),
            ("localSite,mode\nh:1:a,agent\nh:2:a,agent\n", "f:3: `a` is already on line 2"),
            ("localSite,mode\nh:1:a,agent\nh:1:b,agent\n", "f:3: `h:1` is already on line 2"),
        ] {
            let error = ClusterNodes::parse("f", text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
