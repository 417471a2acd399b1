//! What a package shows about its version.

use std::{collections::BTreeSet, io::BufRead as _};

use grayfin_types::DdbVersion;

/// More version-like texts than this in one binary say nothing.
const TEXTS_MAX: usize = 1000;

/// The longest text that can be a version: four numbers of four digits.
const TEXT_BYTES_MAX: usize = 19;

/// What was found in a package.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hints {
    /// Plugins as `name version`.
    pub plugins: Vec<(String, String)>,
    /// Texts in the binary that look like a version.
    pub texts: BTreeSet<String>,
}

/// What the hints say about the claimed version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// They fit; still no proof.
    Supported(String),
    /// They say nothing: the file name is all there is.
    Claimed,
    /// They cannot be true together with the claim.
    Refuted(String),
}

impl Hints {
    /// Judges a claimed version.
    pub fn judge(&self, claimed: &DdbVersion) -> Verdict {
        let versions: Vec<(&str, DdbVersion)> = self
            .plugins
            .iter()
            .filter_map(|(name, version)| Some((name.as_str(), version.parse().ok()?)))
            .collect();
        for (name, version) in &versions {
            if version.release() != claimed.release() {
                return Verdict::Refuted(format!("its plugin `{name}` is for {version}"));
            }
        }
        // The variant stands behind the date in what a server says of itself, not in the number.
        let number = number(claimed);
        if self.texts.contains(&number) {
            return Verdict::Supported(format!("its binary holds the text `{number}`"));
        }
        let distinct: BTreeSet<String> = versions.iter().map(|(_, v)| self::number(v)).collect();
        if let Some(other) = distinct.first().filter(|_| distinct.len() == 1)
            && *other != number
            && other.split('.').count() == 4
            && self.texts.contains(other)
        {
            let count = versions.len();
            return Verdict::Refuted(format!(
                "its binary holds `{other}` and not `{number}`, and its {count} plugins are for {other}"
            ));
        }
        if versions.is_empty() {
            return Verdict::Claimed;
        }
        Verdict::Supported(format!("its {} plugins are for its release", versions.len()))
    }
}

/// A version without its variant.
fn number(version: &DdbVersion) -> String {
    let text = version.to_string();
    text.split('_').next().unwrap_or_default().to_owned()
}

/// Reads name and version from the first line of a `Plugin*.txt`: `name,library,version`.
pub(super) fn plugin_line(text: &str) -> Option<(String, String)> {
    let mut fields = text.lines().next()?.split(',').map(str::trim);
    let name = fields.next().filter(|n| !n.is_empty() && n.len() <= 64)?;
    let version = fields.nth(1).filter(|v| v.len() <= TEXT_BYTES_MAX)?;
    Some((name.to_owned(), version.to_owned()))
}

/// Looks for version-like texts in bytes that come in pieces.
///
/// It jumps from point to point: binaries have hundreds of megabytes, and few of their bytes are
/// points between digits.
#[derive(Debug, Default)]
pub(super) struct Search {
    found: BTreeSet<String>,
    /// The end of what came before, long enough for any text that is cut there.
    window: Vec<u8>,
    /// Something came before the window.
    cut_left: bool,
}

/// More than the longest text with a byte on either side.
const CARRY: usize = 2 * TEXT_BYTES_MAX + 2;

impl Search {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.window.extend_from_slice(bytes);
        self.scan(false);
        let surplus = self.window.len().saturating_sub(CARRY);
        self.cut_left |= surplus > 0;
        self.window.drain(..surplus);
    }

    pub(super) fn finish(mut self) -> BTreeSet<String> {
        self.scan(true);
        self.found
    }

    fn scan(&mut self, at_end: bool) {
        let mut at = 0;
        loop {
            let mut rest = self.window.get(at..).unwrap_or_default();
            // Reading up to a byte is the quickest search that the standard library has.
            let Ok(count) = rest.skip_until(b'.') else { return };
            at += count;
            if count == 0 || self.window.get(at.saturating_sub(1)) != Some(&b'.') {
                return;
            }
            at = self.around(at - 1, at_end).max(at);
        }
    }

    /// Looks at the text around a point; returns where it ends.
    fn around(&mut self, point: usize, at_end: bool) -> usize {
        let part = |b: &u8| b.is_ascii_digit() || *b == b'.';
        let (left, right) = self.window.split_at(point);
        let before = left.iter().rev().take(TEXT_BYTES_MAX + 1).take_while(|b| part(b)).count();
        let after = right.iter().take(TEXT_BYTES_MAX + 1).take_while(|b| part(b)).count();
        let (begin, end) = (point - before, point + after);
        let cut = (begin == 0 && self.cut_left) || (end == self.window.len() && !at_end);
        // Dates look like versions, but for their year.
        let text = self.window.get(begin..end).filter(|_| !cut && before + after <= TEXT_BYTES_MAX);
        if let Some(text) = text.and_then(|bytes| std::str::from_utf8(bytes).ok())
            && self.found.len() < TEXTS_MAX
            && text.parse::<DdbVersion>().is_ok_and(|version| version.release()[0] < 100)
        {
            self.found.insert(text.to_owned());
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hints(plugins: &[&str], texts: &[&str]) -> Hints {
        Hints {
            plugins: plugins.iter().map(|v| ("zip".to_owned(), (*v).to_owned())).collect(),
            texts: texts.iter().map(|t| (*t).to_owned()).collect(),
        }
    }

    #[test]
    fn only_contradictions_refute() {
        let claimed = "2.00.8.12".parse().unwrap();
        let judge = |plugins: &[&str], texts: &[&str]| hints(plugins, texts).judge(&claimed);
        assert_eq!(judge(&[], &[]), Verdict::Claimed);
        assert_eq!(judge(&[], &["2.00.8.10"]), Verdict::Claimed);
        assert!(matches!(judge(&["2.00.9.4"], &["2.00.8.12"]), Verdict::Refuted(_)));
        assert!(matches!(judge(&["2.00.8"], &[]), Verdict::Supported(_)));
        assert!(matches!(judge(&["2.00.8.10"], &[]), Verdict::Supported(_)));
        assert!(matches!(judge(&["2.00.8.10"], &["2.00.8.10"]), Verdict::Refuted(_)));
        assert!(matches!(
            judge(&["2.00.8.10"], &["2.00.8.10", "2.00.8.12"]),
            Verdict::Supported(_)
        ));
        assert!(matches!(
            judge(&["2.00.8.10", "2.00.8.11"], &["2.00.8.10"]),
            Verdict::Supported(_)
        ));
        let jit = hints(&[], &["2.00.8.12"]).judge(&"2.00.8.12_JIT".parse().unwrap());
        assert!(matches!(jit, Verdict::Supported(_)));
    }

    #[test]
    fn texts_are_found_across_pieces_and_only_whole() {
        let bytes = b"\x00 2.00.8.12 2023.01.10 1.2.3 12.00.8.4.5.6.7 \"3.00.0\" 1.30.23.1";
        for size in 1..bytes.len() {
            let mut search = Search::default();
            bytes.chunks(size).for_each(|piece| search.push(piece));
            let found: Vec<String> = search.finish().into_iter().collect();
            assert_eq!(found, ["1.30.23.1", "2.00.8.12", "3.00.0"], "pieces of {size}");
        }
    }

    #[test]
    fn a_plugins_first_line_is_read() {
        let line = "zip,libPluginZip.so,2.00.9.4\nversion,version,system,0,0,0\n";
        assert_eq!(plugin_line(line), Some(("zip".into(), "2.00.9.4".into())));
        for bad in ["", "zip", "zip,lib", ",lib,1"] {
            assert_eq!(plugin_line(bad), None, "{bad}");
        }
    }
}
