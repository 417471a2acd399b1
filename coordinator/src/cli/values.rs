//! Values of the command line.

use std::str::FromStr;

use grayfin_types::{ClusterId, HostId};

/// A length of time: `90s`, `500ms`, `2m`, `1h`; a bare number is seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Duration {
    pub(crate) ms: u64,
}

impl FromStr for Duration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is no duration: use e.g. `500ms`, `90s`, `2m` or `1h`");
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at_checked(digits).ok_or_else(bad)?;
        let number: u64 = number.parse().map_err(|_| bad())?;
        let factor = match unit {
            "ms" => 1,
            "" | "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            _ => return Err(bad()),
        };
        number.checked_mul(factor).map(|ms| Self { ms }).ok_or_else(bad)
    }
}

/// `GATE=REASON`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Override {
    pub(crate) gate: String,
    pub(crate) reason: String,
}

impl FromStr for Override {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((gate, reason)) if !gate.is_empty() && !reason.trim().is_empty() => {
                Ok(Self { gate: gate.to_owned(), reason: reason.trim().to_owned() })
            }
            _ => Err(format!("`{text}` is not of the form GATE=REASON")),
        }
    }
}

/// Which canary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CanaryChoice {
    /// A database of its own.
    New,
    /// None.
    Off,
    /// A table that the site provides.
    Table { database: String, table: String },
}

impl FromStr for CanaryChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "new" => return Ok(Self::New),
            "off" => return Ok(Self::Off),
            _ => {}
        }
        let named = text.strip_prefix("table:").and_then(|name| name.rsplit_once('.'));
        match named {
            Some((database, table)) if !database.is_empty() && !table.is_empty() => {
                let database = if database.starts_with("dfs://") {
                    database.to_owned()
                } else {
                    format!("dfs://{database}")
                };
                Ok(Self::Table { database, table: table.to_owned() })
            }
            _ => Err(format!("`{text}` is none of `new`, `off`, `table DB.TABLE`")),
        }
    }
}

/// A host of a cluster: `CLUSTER/HOST`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostOf {
    pub(crate) cluster: ClusterId,
    pub(crate) host: HostId,
}

impl FromStr for HostOf {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let both = text.split_once('/').and_then(|(cluster, host)| {
            Some(Self { cluster: cluster.parse().ok()?, host: host.parse().ok()? })
        });
        both.ok_or_else(|| format!("`{text}` is no host of a cluster: write `CLUSTER/HOST`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_of_a_cluster_has_one_slash() {
        let place: HostOf = "trade/db2".parse().unwrap();
        assert_eq!((place.cluster.as_str(), place.host.as_str()), ("trade", "db2"));
        for bad in ["", "db2", "trade/", "/db2", "a/b/c"] {
            assert!(bad.parse::<HostOf>().is_err(), "{bad}");
        }
    }

    #[test]
    fn durations_have_units() {
        for (text, ms) in [("500ms", 500), ("2", 2_000), ("2s", 2_000), ("3m", 180_000)] {
            assert_eq!(text.parse(), Ok(Duration { ms }), "{text}");
        }
        for bad in ["", "s", "1.5s", "-1s", "2 s", "99999999999999999999h"] {
            assert!(bad.parse::<Duration>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_override_needs_a_gate_and_a_reason() {
        assert!("partition-capacity=we know".parse::<Override>().is_ok());
        for bad in ["", "room", "room=", "room= ", "=why"] {
            assert!(bad.parse::<Override>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_canary_is_new_off_or_a_table() {
        assert_eq!("new".parse(), Ok(CanaryChoice::New));
        let table = CanaryChoice::Table { database: "dfs://c".to_owned(), table: "t".to_owned() };
        assert_eq!("table:dfs://c.t".parse(), Ok(table.clone()));
        assert_eq!("table:c.t".parse(), Ok(table));
        for bad in ["", "yes", "table", "table:", "table:c", "table:.t"] {
            assert!(bad.parse::<CanaryChoice>().is_err(), "{bad}");
        }
    }
}
