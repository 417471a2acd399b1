//! How far a stop script reaches.
//!
//! The vendor's script ends every process whose line in `ps` contains some words, whatever it is: an
//! editor, another cluster, ourselves. Before a script is run we work out what it would match, from
//! the words that it looks for; a script that cannot be judged so is not used.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use grayfin_types::Code;

use super::StepError;

/// A script of more bytes than this is no stop script.
const SCRIPT_BYTES_MAX: u64 = 1 << 20;

/// A process that a script would end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Matched {
    pub(super) pid: u32,
    pub(super) line: String,
}

/// Lists the processes of this host that a script would match.
pub(super) fn matched_by_script(
    script: &[String],
    work_dir: &Path,
    user: &str,
) -> Result<Vec<Matched>, StepError> {
    let refused = |why: &str| {
        let text = format!(
            "it cannot be told which processes the stop script `{}` would end ({why}): use `stop = \"signal\"`",
            script.join(" ")
        );
        StepError::new(Code::StopScriptTooWide, text)
    };
    let file = script
        .iter()
        .map(|word| work_dir.join(word))
        .find(|path| path.is_file() && path.extension().is_some_and(|e| e == "sh"))
        .ok_or_else(|| refused("its file was not found"))?;
    if fs::metadata(&file).map_or(u64::MAX, |m| m.size()) > SCRIPT_BYTES_MAX {
        return Err(refused("its file is too large"));
    }
    let text = fs::read_to_string(&file).map_err(|e| refused(&e.to_string()))?;
    let pipelines = pipelines(&text, user)
        .ok_or_else(|| refused("it does not find its processes by `ps` and `grep` alone"))?;
    let mut matched = Vec::new();
    let entries = fs::read_dir("/proc").map_err(|e| refused(&e.to_string()))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let Some(line) = line_of(&entry.path(), user) else { continue };
        if pid != 1 && pipelines.iter().any(|words| words.iter().all(|w| line.contains(&**w))) {
            matched.push(Matched { pid, line });
        }
    }
    Ok(matched)
}

/// The first match that is not one of ours, for people: without its arguments, which may hold
/// passwords.
pub(super) fn outside(matched: &[Matched], ours: &[u32]) -> Option<String> {
    matched.iter().find(|one| !ours.contains(&one.pid)).map(|one| {
        let program = one.line.split_ascii_whitespace().nth(3).unwrap_or("?");
        format!("process {} (`{program}`)", one.pid)
    })
}

/// The words that each pipeline with `ps` looks for. None if there is no such pipeline, if one
/// looks for nothing, or if something else could choose processes (`pgrep`, `pkill`, `killall`,
/// `lsof`, `fuser`).
fn pipelines(text: &str, user: &str) -> Option<Vec<Vec<String>>> {
    let mut all = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
        if ["pkill", "killall", "pgrep", "lsof", "fuser"].iter().any(|word| line.contains(word)) {
            return None;
        }
        let Some(at) = line.find("ps ") else { continue };
        let mut words = Vec::new();
        for stage in line.get(at..)?.split('|').map(str::trim) {
            let Some(rest) = stage.strip_prefix("grep ") else { continue };
            if rest.split_ascii_whitespace().any(|word| word.starts_with('-') && word.contains('v'))
            {
                continue;
            }
            let pattern: Vec<&str> =
                rest.split_ascii_whitespace().filter(|word| !word.starts_with('-')).collect();
            let pattern = pattern.join(" ");
            let word = pattern.trim_matches(['"', '\'']).replace("$USER", user);
            // A regular expression may match more than its text: not judged.
            if word.contains(['*', '[', '\\', '$', '^', '`']) {
                return None;
            }
            words.push(word);
        }
        if words.is_empty() {
            return None;
        }
        all.push(words);
    }
    (!all.is_empty()).then_some(all)
}

/// What `ps -ef` would show of a process, roughly: user, pid, parent, arguments.
fn line_of(folder: &PathBuf, user: &str) -> Option<String> {
    let arguments = fs::read(folder.join("cmdline")).ok()?;
    if arguments.is_empty() {
        return None;
    }
    let shown: Vec<String> = arguments
        .split(|b| *b == 0)
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    let uid = fs::metadata(folder).ok()?.uid();
    let own = crate::process::how::user_name(uid).unwrap_or_else(|| uid.to_string());
    // `ps` cuts long names off in its first column; the script's own user is what matters.
    let own = if own == user { user.to_owned() } else { own };
    let pid = folder.file_name()?.to_str()?;
    Some(format!("{own} {pid} 0 {}", shown.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vendors_scripts_are_understood() {
        let text = "#!/bin/sh\n# ps -ef | grep nothing\nps -ef | grep dolphindb | grep -v grep | grep $USER | awk '{print $2}' | xargs kill -TERM\n";
        let words = pipelines(text, "ddb").unwrap();
        assert_eq!(words, [["dolphindb", "ddb"]]);
        let text = "ps -e -o pid= | grep \"mode controller\" | xargs kill\n";
        assert_eq!(pipelines(text, "u").unwrap(), [["mode controller"]]);
        for unclear in [
            "",
            "kill $(cat pid)",
            "pkill -f dolphindb",
            "ps -ef | awk '{print $2}' | xargs kill",
            "ps -ef | grep 'd.*b' | xargs kill",
        ] {
            assert_eq!(pipelines(unclear, "u"), None, "{unclear}");
        }
    }

    #[test]
    fn a_process_beyond_the_installation_is_named() {
        let dir = tempfile::tempdir().unwrap();
        // A word that only this child has in its arguments.
        let word = format!("grayfintest{}", std::process::id());
        fs::write(dir.path().join("stop.sh"), format!("ps -ef | grep {word} | xargs kill\n"))
            .unwrap();
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read x", &word])
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // The kernel lets its maker go on a moment before the arguments can be seen.
        let seen = format!("/proc/{}/cmdline", child.id());
        while fs::read(&seen).unwrap().is_empty() {
            std::thread::yield_now();
        }
        let script = ["sh".to_owned(), "stop.sh".to_owned()];
        let matched = matched_by_script(&script, dir.path(), "root").unwrap();
        let told = outside(&matched, &[]);
        let spared = outside(&matched, &[child.id()]);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(told.unwrap().contains(&child.id().to_string()), "{matched:?}");
        assert_eq!(spared, None);
        assert!(matched_by_script(&["sh".into(), "no.sh".into()], dir.path(), "root").is_err());
    }
}
