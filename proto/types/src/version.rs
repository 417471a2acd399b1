//! DolphinDB versions.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A DolphinDB version: three or four numbers and perhaps a variant (`JIT`, `ABI`, …).
///
/// `version()` answers `2.00.8.12 2023.01.10` or `3.00.0 2024.03.31 LINUX x86_64 JIT`; the first
/// word is the version. The middle number is written with two digits. Ordering compares the
/// numbers (a missing fourth one is 0) and then the variant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DdbVersion {
    numbers: [u16; 4],
    has_fourth: bool,
    variant: String,
}

/// Why a text is no DolphinDB version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a DolphinDB version: expected three or four numbers such as `2.00.8.12`, perhaps with `_JIT` or `_ABI`"
)]
pub struct BadVersion(pub String);

impl DdbVersion {
    /// Parses the answer of `version()`: the version, then a date, then perhaps platform and
    /// variant words.
    pub fn from_answer(answer: &str) -> Result<Self, BadVersion> {
        let mut words = answer.split_ascii_whitespace();
        let mut version: Self =
            words.next().ok_or_else(|| BadVersion(answer.to_owned()))?.parse()?;
        for word in words {
            if version.variant.is_empty() && matches!(word, "JIT" | "ABI") {
                word.clone_into(&mut version.variant);
            }
        }
        Ok(version)
    }

    /// Returns the first three numbers: what DolphinDB calls a release, and what plugins must
    /// match.
    pub const fn release(&self) -> [u16; 3] {
        [self.numbers[0], self.numbers[1], self.numbers[2]]
    }

    /// Returns the fourth number, 0 where there is none.
    pub const fn patch(&self) -> u16 {
        self.numbers[3]
    }

    /// Returns the variant, empty for the plain build.
    pub fn variant(&self) -> &str {
        &self.variant
    }

    /// Tells whether both are the same build line: variants never mix in one installation.
    pub fn same_variant(&self, other: &Self) -> bool {
        self.variant == other.variant
    }

    /// Tells whether both name the same numbers, whatever the variant.
    pub fn same_numbers(&self, other: &Self) -> bool {
        self.numbers == other.numbers
    }
}

impl FromStr for DdbVersion {
    type Err = BadVersion;

    fn from_str(text: &str) -> Result<Self, BadVersion> {
        let bad = || BadVersion(text.chars().take(64).collect());
        let (numbers, variant) = text.split_once('_').unwrap_or((text, ""));
        let variant_ok = variant.len() <= 16
            && variant.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
            && (variant.is_empty() != text.contains('_'));
        if !variant_ok {
            return Err(bad());
        }
        let mut out = [0u16; 4];
        let mut count = 0;
        for (at, part) in numbers.split('.').enumerate() {
            let digits =
                !part.is_empty() && part.len() <= 4 && part.bytes().all(|b| b.is_ascii_digit());
            // The second number has two digits; no other has a leading zero.
            let shape =
                if at == 1 { part.len() == 2 } else { part == "0" || !part.starts_with('0') };
            match out.get_mut(at) {
                Some(slot) if digits && shape => *slot = part.parse().map_err(|_| bad())?,
                _ => return Err(bad()),
            }
            count = at + 1;
        }
        if count < 3 {
            return Err(bad());
        }
        Ok(Self { numbers: out, has_fourth: count == 4, variant: variant.to_owned() })
    }
}

impl fmt::Display for DdbVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d] = self.numbers;
        write!(f, "{a}.{b:02}.{c}")?;
        if self.has_fourth {
            write!(f, ".{d}")?;
        }
        if !self.variant.is_empty() {
            write!(f, "_{}", self.variant)?;
        }
        Ok(())
    }
}

impl TryFrom<String> for DdbVersion {
    type Error = BadVersion;
    fn try_from(text: String) -> Result<Self, BadVersion> {
        text.parse()
    }
}

impl From<DdbVersion> for String {
    fn from(version: DdbVersion) -> Self {
        version.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_parsed_strictly_and_printed_as_they_came() {
        for good in ["2.00.7.4", "2.00.12", "3.00.0.1_JIT", "1.30.23.1", "2.00.9.1_ABI"] {
            assert_eq!(good.parse::<DdbVersion>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "2",
            "2.00",
            "2.0.7",
            "2.00.07",
            "2.00.7.4.1",
            "2.00.x",
            "2.00.7_",
            "v2.00.7",
            "2.00.7 ",
        ] {
            assert!(bad.parse::<DdbVersion>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn numbers_are_compared_as_numbers() {
        let v = |t: &str| t.parse::<DdbVersion>().unwrap();
        assert!(v("2.00.8.12") > v("2.00.8.4"));
        assert!(v("2.00.10") > v("2.00.9.9"));
        assert!(v("2.00.8.12").same_numbers(&v("2.00.8.12_JIT")));
        assert!(!v("2.00.8.12").same_variant(&v("2.00.8.12_JIT")));
    }

    #[test]
    fn an_answer_of_version_is_read() {
        let v = DdbVersion::from_answer("3.00.0 2024.03.31 LINUX x86_64 JIT").unwrap();
        assert_eq!(v.to_string(), "3.00.0_JIT");
        assert_eq!(DdbVersion::from_answer("2.00.8.12 2023.01.10").unwrap().patch(), 12);
        assert!(DdbVersion::from_answer("").is_err());
    }
}
