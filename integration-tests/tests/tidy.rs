//! What lints cannot say about the source: sizes, purity of the cores, words, error pages.

use std::{
    fs,
    path::{Path, PathBuf},
};

use grayfin_types::Code;

/// House rule: split a file by responsibility before it grows beyond this.
const FILE_LINES_MAX: usize = 500;

/// The rule says "about 500": a file may pass it a little to keep a thing whole.
const FILE_LINES_SLACK: usize = 50;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is above").to_owned()
}

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("the folder is readable") {
        let path = entry.expect("the entry is readable").path();
        let name = path.file_name().and_then(|n| n.to_str()).expect("names are UTF-8").to_owned();
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" {
                sources(&path, found);
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn every_source() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    sources(&root(), &mut found);
    assert!(found.len() > 50, "only {} sources found", found.len());
    found
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).expect("a source is readable");
            (path, text)
        })
        .collect()
}

/// The part of a source before its unit tests.
fn product_part(text: &str) -> &str {
    text.split("#[cfg(test)]").next().unwrap_or(text)
}

#[test]
fn files_are_small_enough_to_read() {
    let long: Vec<String> = every_source()
        .iter()
        .filter(|(path, _)| !path.components().any(|c| c.as_os_str() == "tests"))
        .map(|(path, text)| (path, product_part(text).lines().count()))
        .filter(|(_, lines)| *lines > FILE_LINES_MAX + FILE_LINES_SLACK)
        .map(|(path, lines)| format!("{}: {lines} lines", path.display()))
        .collect();
    assert!(long.is_empty(), "split these by responsibility:\n{}", long.join("\n"));
}

#[test]
fn the_cores_stay_pure() {
    let banned = [
        "tokio",
        "tonic",
        "tracing",
        "SystemTime",
        "Instant::now",
        "std::fs",
        "std::net",
        "std::process",
        "std::thread",
        "rand::",
        "async fn",
        "println!",
    ];
    let mut seen = 0;
    for (path, text) in every_source() {
        let text_of_path = path.to_string_lossy().into_owned();
        let core =
            ["coordinator/core/src", "agent/core/src", "standin-model/src", "proto/types/src"];
        if !core.iter().any(|c| text_of_path.contains(c)) {
            continue;
        }
        seen += 1;
        for line in product_part(&text).lines().filter(|l| !l.trim_start().starts_with("//")) {
            for word in banned {
                assert!(!line.contains(word), "{}: `{word}` in: {line}", path.display());
            }
        }
    }
    assert!(seen > 10, "only {seen} core sources found");
}

#[test]
fn every_error_code_has_its_page_and_no_page_is_left_over() {
    let dir = root().join("docs/errors");
    let mut pages: Vec<String> = fs::read_dir(&dir)
        .expect("the folder of error pages is there")
        .map(|e| e.expect("readable").file_name().to_string_lossy().into_owned())
        .collect();
    pages.sort();
    let codes: Vec<String> = Code::ALL.iter().map(|c| format!("{c}.md")).collect();
    assert_eq!(pages, codes);
    for code in Code::ALL {
        let text =
            fs::read_to_string(dir.join(format!("{code}.md"))).expect("the page is readable");
        let title = format!("# {code}: {}\n", code.title());
        assert!(text.starts_with(&title), "{code}.md must begin with: {title}");
        for part in ["**What happened.**", "**What Grayfin did.**", "**What to do.**"] {
            assert!(text.contains(part), "{code}.md lacks {part}");
        }
    }
}

#[test]
fn our_types_never_take_the_words_that_dolphindb_has_taken() {
    // The stand-in may: there they mean what they mean in DolphinDB.
    let stand_in = root().join("integration-tests");
    for (path, text) in every_source().into_iter().filter(|(path, _)| !path.starts_with(&stand_in))
    {
        for line in text.lines() {
            for word in [
                "struct Agent",
                "enum Agent",
                "trait Agent",
                "struct Controller",
                "enum Controller",
                "trait Controller",
            ] {
                if let Some(rest) = line.split(word).nth(1) {
                    let next = rest.chars().next().unwrap_or(' ');
                    assert!(next.is_alphanumeric(), "{}: {line}", path.display());
                }
            }
        }
    }
}

#[test]
fn nothing_is_left_for_later_in_the_source() {
    // The words are put together here so that this file does not find itself.
    let marks = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["XX", "X"].concat()];
    for (path, text) in every_source() {
        for (at, line) in text.lines().enumerate() {
            for mark in &marks {
                assert!(!line.contains(mark.as_str()), "{}:{}: {line}", path.display(), at + 1);
            }
        }
    }
}
