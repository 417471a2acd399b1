//! Running the site's scripts so that nothing of them outlives the answer.
//!
//! Each runs in a session of its own under a supervisor to which all orphans fall (S8). Everything it
//! starts carries a mark in its environment, and lives in a cgroup of its own where one can be made;
//! so a later life of the host agent finds and ends what an earlier one left, even if the supervisor
//! was killed too.

use std::{path::Path, time::Duration};

use sha2::{Digest as _, Sha256};
use tokio::{io::AsyncReadExt, time::Instant};

use super::{
    Error, cgroup, identify,
    launch::{Launcher, Manner, Order, Program},
    procfs, signal,
};

/// How much of what a program said before its limit is told.
const SAID_MAX: usize = 300;
/// The variable that marks everything a helper starts.
const MARK: &str = "GRAYFIN_HELPER";

/// What is kept of a script's words: its beginning and its end.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// The end is what says how it went.
const TAIL_BYTES_MAX: usize = 48 << 10;

/// How long killed processes may take to be gone: they only have to be scheduled once, unless the
/// kernel holds them in a disk's queue.
const EMPTY_LIMIT: Duration = Duration::from_secs(10);

/// Whose helpers they are: one host agent's for one installation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope(String);

impl Scope {
    /// Makes the scope of a state folder and a cluster.
    pub fn new(state_dir: &Path, cluster: &str) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(state_dir.as_os_str().as_encoded_bytes());
        hasher.update([0]);
        hasher.update(cluster);
        let digest = crate::files::hex(&hasher.finalize());
        Self(digest.chars().take(16).collect())
    }

    fn group(&self) -> String {
        format!("grayfin-helper-{}", self.0)
    }
}

/// How a script ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HelperOutcome {
    /// `exit 0`, `exit 1`, `signal 9`.
    pub status: String,
    /// What it said, without colours; the middle is left out if it said too much.
    pub output: String,
}

impl HelperOutcome {
    /// Tells whether it ended with exit code 0.
    pub fn succeeded(&self) -> bool {
        self.status == "exit 0"
    }
}

/// Runs helpers.
#[derive(Debug, Clone)]
pub struct Helper {
    launcher: Launcher,
    scope: Scope,
}

impl Helper {
    /// Makes one.
    pub fn new(launcher: Launcher, scope: Scope) -> Self {
        Self { launcher, scope }
    }

    /// Runs a script with `input` as what a person would type. Its input stays open behind that: a
    /// question that nobody expected waits until the limit and is not answered by chance.
    ///
    /// When this returns, in whatever way, nothing that the script started is left, or the error
    /// says what is. If the future is dropped the same happens a moment later; call
    /// [`Self::sweep`] to be sure.
    pub async fn run(
        &self,
        program: &Program,
        input: &str,
        limit: Duration,
    ) -> Result<HelperOutcome, Error> {
        self.sweep(&program.display()).await?;
        let group = cgroup::Group::make(&self.scope.group());
        let mut marked = program.clone().with(MARK, &self.scope.0);
        marked.joins.extend(group.as_ref().map(cgroup::Group::join_file));
        let order =
            Order { program: marked, manner: Manner::Supervised { input: input.to_owned() } };
        let outcome = self.supervise(&order, limit).await;
        self.sweep(&program.display()).await?;
        if let Some(group) = group {
            group.remove();
        }
        outcome
    }

    async fn supervise(&self, order: &Order, limit: Duration) -> Result<HelperOutcome, Error> {
        let name = order.program.display();
        let run = |source| Error::Run { program: name.clone(), source };
        let deadline = Instant::now() + limit;
        let mut child = self.launcher.spawn(order, &[(MARK, self.scope.0.as_str())]).await?;
        let alive = child.stdin.take();
        let (Some(mut out), Some(mut err)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(run(std::io::ErrorKind::BrokenPipe.into()));
        };
        let mut words = Words::default();
        let mut status = Vec::new();
        let reading = async {
            let (mut a, mut b) = (vec![0; 8192], vec![0; 1024]);
            let (mut out_open, mut err_open) = (true, true);
            while out_open || err_open {
                tokio::select! {
                    count = out.read(&mut a), if out_open => {
                        let count = count?;
                        out_open = count > 0;
                        words.push(a.get(..count).unwrap_or_default());
                    }
                    count = err.read(&mut b), if err_open => {
                        let count = count?;
                        err_open = count > 0;
                        status.extend_from_slice(b.get(..count).unwrap_or_default());
                        status.truncate(4096);
                    }
                }
            }
            child.wait().await
        };
        let ended = tokio::time::timeout_at(deadline, reading).await;
        // The supervisor ends everything when this pipe closes, if it has not done so already.
        drop(alive);
        match ended {
            Ok(ended) => {
                ended.map_err(run)?;
                let status = String::from_utf8_lossy(&status).trim().to_owned();
                let output = words.text();
                let known = status.starts_with("exit ") || status.starts_with("signal ");
                if known {
                    return Ok(HelperOutcome { status, output });
                }
                Err(Error::Failed { program: name.clone(), status, output })
            }
            Err(_) => {
                // The sweep of the caller ends the supervisor if it does not end by itself.
                drop(tokio::time::timeout(EMPTY_LIMIT, child.wait()).await);
                let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
                let output = last_words(&words.text());
                Err(Error::Timeout { program: name.clone(), limit_ms, output })
            }
        }
    }

    /// Ends everything that helpers of this scope, of this or an earlier life of the host agent,
    /// have left. `what` names it in the error. Returns how many were ended.
    pub async fn sweep(&self, what: &str) -> Result<usize, Error> {
        let deadline = Instant::now() + EMPTY_LIMIT;
        let mut ended = 0;
        loop {
            let left = self.left();
            if left.is_empty() {
                return Ok(ended);
            }
            if Instant::now() >= deadline {
                let pids = left.iter().map(|identity| identity.pid).collect();
                return Err(Error::NotEmptied { program: what.to_owned(), pids });
            }
            if let Some(group) = cgroup::Group::left_over(&self.scope.group()) {
                group.kill();
            }
            for identity in &left {
                if matches!(signal::send(identity, signal::Ending::Kill), Ok(true)) {
                    ended += 1;
                }
            }
            let all = async {
                for identity in &left {
                    signal::gone(identity).await?;
                }
                Ok::<(), Error>(())
            };
            if let Ok(gone) = tokio::time::timeout_at(deadline, all).await {
                gone?;
            }
        }
    }

    fn left(&self) -> Vec<grayfin_types::facts::ProcessIdentity> {
        let mut pids = cgroup::Group::left_over(&self.scope.group())
            .map(|group| group.pids())
            .unwrap_or_default();
        for pid in procfs::pids().unwrap_or_default() {
            let marked = procfs::environment(pid).is_ok_and(|all| {
                all.iter().any(|(name, value)| name == MARK && *value == self.scope.0)
            });
            if marked && !pids.contains(&pid) {
                pids.push(pid);
            }
        }
        pids.retain(|pid| *pid != std::process::id());
        pids.into_iter().filter_map(|pid| identify(pid).ok().flatten()).collect()
    }
}

/// Beginning and end of what was said.
#[derive(Debug, Default)]
pub struct Words {
    head: Vec<u8>,
    tail: Vec<u8>,
    left_out: u64,
}

impl Words {
    /// Takes in what was said next.
    pub fn push(&mut self, bytes: &[u8]) {
        let room = HEAD_BYTES_MAX.saturating_sub(self.head.len()).min(bytes.len());
        let (first, rest) = bytes.split_at(room);
        self.head.extend_from_slice(first);
        self.tail.extend_from_slice(rest);
        let surplus = self.tail.len().saturating_sub(TAIL_BYTES_MAX);
        self.left_out += surplus as u64;
        self.tail.drain(..surplus);
    }

    /// Returns what was said as plain text, the middle of too much left out.
    pub fn text(&self) -> String {
        let mut text = plain(&String::from_utf8_lossy(&self.head));
        if self.left_out > 0 {
            text.push_str(&format!("\n… {} bytes left out …\n", self.left_out));
        }
        text.push_str(&plain(&String::from_utf8_lossy(&self.tail)));
        text.trim().to_owned()
    }
}

/// Removes colours, cursor movements and other control characters.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut all = text.chars().peekable();
    while let Some(c) = all.next() {
        if c == '\u{1b}' {
            if all.next_if_eq(&'[').is_some() {
                while all.next_if(|c| !c.is_ascii_alphabetic()).is_some() {}
                all.next();
            }
        } else if c == '\n' || c == '\t' || !c.is_control() {
            out.push(c);
        }
    }
    out
}

/// The end of what a program said, on one line.
fn last_words(text: &str) -> String {
    let count = text.chars().count();
    let end: String = text.chars().skip(count.saturating_sub(SAID_MAX)).collect();
    if end.trim().is_empty() { "nothing".to_owned() } else { end.trim().replace('\n', " | ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_go_and_words_stay() {
        let said = "\u{1b}[H\u{1b}[2Jdone  \u{1b}[32m UpgradeSuccess\u{1b}[0m\r\n";
        assert_eq!(plain(said), "done   UpgradeSuccess\n");
    }

    #[test]
    fn a_flood_keeps_its_beginning_and_its_end() {
        let mut words = Words::default();
        words.push(b"begin ");
        for _ in 0..1000 {
            words.push(&[b'x'; 1000]);
        }
        words.push(b" end");
        let text = words.text();
        assert!(text.starts_with("begin ") && text.ends_with(" end"));
        assert!(text.len() < HEAD_BYTES_MAX + TAIL_BYTES_MAX + 100);
    }

    #[test]
    fn scopes_differ_by_folder_and_cluster() {
        let scope = |dir: &str, cluster| Scope::new(Path::new(dir), cluster);
        assert_eq!(scope("/a", "x"), scope("/a", "x"));
        assert_ne!(scope("/a", "x"), scope("/b", "x"));
        assert_ne!(scope("/a", "x"), scope("/a", "y"));
    }
}
