//! `cluster.cfg`: what data and compute nodes use.
//!
//! A line applies to every node, to the nodes whose alias matches a pattern (`%` for any number of
//! characters, `?` for exactly one), or to one alias. The more explicit line wins, whatever the order;
//! between equals the later one. The macro `<ALIAS>` stands for the alias of the node that reads the
//! value; after an explicit alias it is refused, and then the controller does not start.

use std::collections::BTreeMap;
use std::path::Path;

use super::error::{Error, read};
use super::properties::{Properties, switch_value};
use super::site::Role;

/// The macro that stands for the reading node's alias.
const ALIAS_MACRO: &str = "<ALIAS>";

/// Which nodes a line is for; the order is how explicit it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// No prefix.
    All,
    /// A prefix with `%` or `?`.
    Pattern(String),
    /// A prefix that is an alias.
    Alias(String),
}

impl Scope {
    fn matches(&self, alias: &str) -> bool {
        match self {
            Self::All => true,
            Self::Pattern(pattern) => wildcard_matches(pattern, alias),
            Self::Alias(explicit) => explicit == alias,
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::All => 0,
            Self::Pattern(_) => 1,
            Self::Alias(_) => 2,
        }
    }
}

/// One line, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterEntry {
    /// Line number, from 1.
    pub line: usize,
    /// Which nodes it is for.
    pub scope: Scope,
    /// Key without prefix.
    pub key: String,
    /// Value with the macro still in it.
    pub value: String,
}

/// `cluster.cfg`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterConfig {
    file: String,
    entries: Vec<ClusterEntry>,
    lines: Vec<String>,
}

impl ClusterConfig {
    /// Reads a file.
    pub fn load(path: &Path) -> Result<Self, Error> {
        Self::parse(&path.display().to_string(), &read(path)?)
    }

    /// Parses a text; `file` is the name used in errors.
    pub fn parse(file: &str, text: &str) -> Result<Self, Error> {
        let properties = Properties::parse(file, text)?;
        let mut entries = Vec::with_capacity(properties.entries().len());
        for property in properties.entries() {
            let (scope, key) = match property.key.rsplit_once('.') {
                None => (Scope::All, property.key.clone()),
                Some((prefix, key)) if prefix.is_empty() || key.is_empty() => {
                    let reason = format!("`{prefix}.{key}` is not alias.key");
                    return Err(Error::line(file, property.line, reason));
                }
                Some((prefix, key)) if prefix.contains(['%', '?']) => {
                    (Scope::Pattern(prefix.to_owned()), key.to_owned())
                }
                Some((prefix, key)) => (Scope::Alias(prefix.to_owned()), key.to_owned()),
            };
            if let Scope::Alias(alias) = &scope
                && property.value.contains(ALIAS_MACRO)
            {
                let reason = format!(
                    "the macro {ALIAS_MACRO} is not allowed after the explicit alias `{alias}`"
                );
                return Err(Error::line(file, property.line, reason));
            }
            entries.push(ClusterEntry {
                line: property.line,
                scope,
                key,
                value: property.value.clone(),
            });
        }
        let lines = text.lines().map(|line| line.trim_end().to_owned()).collect();
        Ok(Self { file: file.to_owned(), entries, lines })
    }

    /// Name used in errors.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Every line that says something, in order.
    pub fn entries(&self) -> &[ClusterEntry] {
        &self.entries
    }

    /// The text line by line, as `loadClusterNodesConfigs()` answers it.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// What the node `alias` uses. Controllers and DolphinDB agents do not read this file.
    pub fn effective(&self, alias: &str, role: Role) -> Effective {
        let mut chosen: BTreeMap<&str, &ClusterEntry> = BTreeMap::new();
        match role {
            Role::Controller | Role::DdbAgent => {}
            Role::DataNode | Role::ComputeNode => {
                for entry in self.entries.iter().filter(|entry| entry.scope.matches(alias)) {
                    let beaten = chosen
                        .get(entry.key.as_str())
                        .is_none_or(|before| before.scope.rank() <= entry.scope.rank());
                    if beaten {
                        chosen.insert(&entry.key, entry);
                    }
                }
            }
        }
        let values = chosen
            .into_iter()
            .map(|(key, entry)| (key.to_owned(), entry.value.replace(ALIAS_MACRO, alias)))
            .collect();
        Effective { alias: alias.to_owned(), role, values }
    }
}

/// The values one node uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// The node.
    pub alias: String,
    /// What it is.
    pub role: Role,
    /// Key to value, macros replaced.
    pub values: BTreeMap<String, String>,
}

impl Effective {
    /// Value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// Value of a key as a number; `Err` holds the words for a refusal.
    pub fn number<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, String> {
        self.get(key).map_or(Ok(None), |value| {
            let bad = || format!("`{value}` is not a valid value of `{key}` for `{}`", self.alias);
            value.parse().map(Some).map_err(|_ignored| bad())
        })
    }

    /// Value of a key as a switch; `Err` holds the words for a refusal.
    pub fn switch(&self, key: &str) -> Result<Option<bool>, String> {
        self.get(key).map_or(Ok(None), |value| {
            let bad = || format!("`{value}` is not a valid value of `{key}` for `{}`", self.alias);
            switch_value(value).map(Some).ok_or_else(bad)
        })
    }
}

/// True when `text` matches `pattern`, with `%` for any characters and `?` for exactly one.
pub fn wildcard_matches(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let text: Vec<char> = text.chars().collect();
    // `reach[i]` says whether the pattern so far can match the first `i` characters.
    let mut reach = vec![false; text.len() + 1];
    reach[0] = true;
    for symbol in pattern {
        let mut next = vec![false; text.len() + 1];
        let mut any = false;
        for index in 0..=text.len() {
            any |= reach[index];
            next[index] = match symbol {
                '%' => any,
                '?' => index > 0 && reach[index - 1],
                letter => index > 0 && reach[index - 1] && text[index - 1] == letter,
            };
        }
        reach = next;
    }
    reach[text.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards() {
        for (pattern, text, expected) in [
            ("%", "", true),
            ("%", "node43", true),
            ("node%", "node43", true),
            ("%43", "node43", true),
            ("node4?", "node43", true),
            ("node4?", "node4", false),
            ("node4?", "node433", false),
            ("n%4%3", "node4x3", true),
            ("?ode%", "node43", true),
            ("Node%", "node43", false),
            ("", "", true),
            ("", "a", false),
            ("%%?", "a", true),
        ] {
            assert_eq!(wildcard_matches(pattern, text), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn the_more_explicit_line_wins_whatever_the_order() {
        let text = "node43.volumes=/only43\nvolumes=/all/<ALIAS>\n%44.volumes=/pattern/<ALIAS>,/b\n\
            workerNum=4\nnode4?.workerNum=8\nnode%.workerNum=16\n";
        let config = ClusterConfig::parse("cluster.cfg", text).unwrap();
        let volumes = |alias: &str| {
            config.effective(alias, Role::DataNode).get("volumes").map(ToOwned::to_owned)
        };
        assert_eq!(volumes("node43").as_deref(), Some("/only43"));
        assert_eq!(volumes("node44").as_deref(), Some("/pattern/node44,/b"));
        assert_eq!(volumes("node45").as_deref(), Some("/all/node45"));
        let numbers = config.effective("node45", Role::ComputeNode);
        assert_eq!(numbers.number::<u32>("workerNum"), Ok(Some(16)));
        assert_eq!(numbers.number::<u32>("absent"), Ok(None));
        assert!(config.effective("HActl43", Role::Controller).values.is_empty());
    }

    #[test]
    fn macro_after_an_explicit_alias_is_refused() {
        let error =
            ClusterConfig::parse("cluster.cfg", "a=1\nnode43.volumes=/x/<ALIAS>\n").unwrap_err();
        let expected =
            "cluster.cfg:2: the macro <ALIAS> is not allowed after the explicit alias `node43`";
        assert_eq!(error.to_string(), expected);
        ClusterConfig::parse("cluster.cfg", "node4?.volumes=/x/<ALIAS>\n").unwrap();
    }

    #[test]
    fn bad_prefix_is_refused() {
        let error = ClusterConfig::parse("c", ".volumes=/x").unwrap_err();
        assert!(error.to_string().starts_with("c:1: "), "{error}");
        assert!(ClusterConfig::parse("c", "\nvolumes=/x").is_err());
    }

    #[test]
    fn bad_values_name_key_and_node() {
        let config = ClusterConfig::parse("c", "n.workerNum=lots\nn.flag=maybe\n").unwrap();
        let values = config.effective("n", Role::DataNode);
        assert!(values.number::<u32>("workerNum").unwrap_err().contains("`workerNum` for `n`"));
        assert!(values.switch("flag").is_err());
    }
}
