//! What `cluster.cfg` says for one node, for nodes that cannot be asked.
//!
//! A running node's own answers come first everywhere; in HA mode the file may be out of date. For a
//! node that is down (a repair) it is the best there is.

use std::collections::BTreeMap;

/// Reads `key=value` lines. Lines that are none are passed over: the node itself refuses them.
pub fn parse(text: &str) -> Vec<(String, String)> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
        .collect()
}

/// Works out what holds for a node: `alias.key` before a wildcard (`%`, `?`) before the plain key, a
/// later line before an earlier one, `<ALIAS>` replaced in values.
pub fn effective(lines: &[(String, String)], alias: &str) -> BTreeMap<String, String> {
    let mut best: BTreeMap<String, (u8, String)> = BTreeMap::new();
    for (left, value) in lines {
        let (rank, key) = match left.rsplit_once('.') {
            Some((whose, key)) if whose == alias => (2, key),
            Some((whose, key)) if whose.contains(['%', '?']) && matches(whose, alias) => (1, key),
            Some(_) => continue,
            None => (0, left.as_str()),
        };
        let entry = best.entry(key.to_owned()).or_default();
        if rank >= entry.0 {
            *entry = (rank, expand(value, alias));
        }
    }
    best.into_iter().map(|(key, (_, value))| (key, value)).collect()
}

/// Replaces the macro for the node's alias.
pub fn expand(value: &str, alias: &str) -> String {
    value.replace("<ALIAS>", alias)
}

/// `%` stands for any characters, `?` for one.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    // The classic two-finger walk: on a mismatch the last `%` takes one character more.
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('%') => {
                retry = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || text.get(t) == Some(c) => {
                p += 1;
                t += 1;
            }
            Some(_) | None => match retry {
                Some((star, from)) => {
                    retry = Some((star, from + 1));
                    p = star + 1;
                    t = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|c| *c == '%')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_as_documented() {
        for (pattern, text, fits) in [
            ("%", "node43", true),
            ("node%", "node43", true),
            ("%43", "node43", true),
            ("n%d%4?", "node43", true),
            ("node4?", "node43", true),
            ("node4?", "node4", false),
            ("node%5", "node43", false),
            ("Node%", "node43", false),
            ("%%", "", true),
            ("?", "", false),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn the_most_exact_line_wins_and_the_macro_is_replaced() {
        let lines = parse(
            "# c\n\nvolumes=/a/<ALIAS>,/b/<ALIAS>\nnode%.volumes=/w/<ALIAS>\nnode43.chunkMetaDir=/m\n\
             chunkMetaDir=/late\nother.redoLogDir=/x\n = \nno equals\nredoLogDir=/r1\nredoLogDir=/r2\n",
        );
        let of = |alias| effective(&lines, alias);
        assert_eq!(of("node43")["volumes"], "/w/node43");
        assert_eq!(of("data1")["volumes"], "/a/data1,/b/data1");
        assert_eq!(of("node43")["chunkMetaDir"], "/m");
        assert_eq!(of("node44")["chunkMetaDir"], "/late");
        assert_eq!(of("node43")["redoLogDir"], "/r2");
        assert_eq!(of("other")["redoLogDir"], "/x");
    }
}
