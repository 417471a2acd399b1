//! The version of the running binary, and what depends on it.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// A server version of three or four numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    text: String,
    parts: [u32; 4],
}

/// A text that is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a version of three or four numbers")]
pub struct BadVersion(String);

impl FromStr for Version {
    type Err = BadVersion;

    fn from_str(text: &str) -> Result<Self, BadVersion> {
        let bad = || BadVersion(text.to_owned());
        let numbers: Vec<u32> = text
            .split('.')
            .map(|part| part.parse().map_err(|_| bad()))
            .collect::<Result<_, _>>()?;
        if !(1..=4).contains(&numbers.len()) {
            return Err(bad());
        }
        let mut parts = [0; 4];
        for (slot, number) in parts.iter_mut().zip(&numbers) {
            *slot = *number;
        }
        Ok(Self { text: text.to_owned(), parts })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        self.parts.cmp(&other.parts)
    }
}

impl Version {
    /// Is this version that one or a later one?
    #[must_use]
    pub fn is_at_least(&self, parts: [u32; 4]) -> bool {
        self.parts >= parts
    }

    /// Servers from 2.00.9 on run a request that a client sent twice only once.
    #[must_use]
    pub fn runs_once(&self) -> bool {
        self.is_at_least([2, 0, 9, 0])
    }

    /// From 3.00.2 on `stopDataNode` returns before the nodes are gone.
    #[must_use]
    pub fn stops_asynchronously(&self) -> bool {
        self.is_at_least([3, 0, 2, 0])
    }

    /// At 2.00.11 the start markers in the log got other words.
    #[must_use]
    pub fn has_new_markers(&self) -> bool {
        self.is_at_least([2, 0, 11, 0])
    }

    /// From 2.00.10 on recovery tasks are `Finished` and `Aborted`, before `Finish` and `Abort`.
    #[must_use]
    pub fn has_new_recovery_words(&self) -> bool {
        self.is_at_least([2, 0, 10, 0])
    }

    /// Before 2.00.9.4 `datanodeRestartInterval` had 100 s in it that did not count.
    #[must_use]
    pub fn restart_seconds(&self, configured: u64) -> Option<u64> {
        if configured == 0 {
            return None;
        }
        let counts = self.is_at_least([2, 0, 9, 4]);
        Some(if counts { configured } else { configured.saturating_sub(100) })
    }

    /// From 3.00 on `version()` names the platform too.
    #[must_use]
    pub fn names_platform(&self) -> bool {
        self.is_at_least([3, 0, 0, 0])
    }

    /// The first three numbers, which plugins share with their server.
    #[must_use]
    pub fn series(&self) -> [u32; 3] {
        let [a, b, c, _] = self.parts;
        [a, b, c]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    #[test]
    fn numbers_are_compared_not_texts() {
        assert!(version("2.00.10") > version("2.00.9.4"));
        assert!(version("2.00.8.12") > version("2.00.8.9"));
        assert!(version("3.00.0") > version("2.00.99.1"));
        assert!("2.00.x".parse::<Version>().is_err());
        assert!("".parse::<Version>().is_err());
    }

    #[test]
    fn the_restart_interval_had_a_bug() {
        assert_eq!(version("2.00.8.12").restart_seconds(110), Some(10));
        assert_eq!(version("2.00.8.12").restart_seconds(30), Some(0));
        assert_eq!(version("2.00.9.4").restart_seconds(30), Some(30));
        assert_eq!(version("2.00.9.4").restart_seconds(0), None);
    }
}
