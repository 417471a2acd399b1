//! The two database accounts, and the rule that a refused login is not tried again.
//!
//! Five wrong passwords in a minute lock an account for ten minutes, for everybody who uses it. So
//! the first login of an account is made by one connection alone, a refused one is the last until
//! the file changes, and at most two are under way at any time.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use grayfin_types::{Code, facts::Problem};
use serde::Deserialize;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::ddb;

/// Permissions beyond the owner's.
const FOREIGN_BITS: u32 = 0o077;
/// Logins under way at once: well below the five that lock an account.
const LOGINS_AT_ONCE: u32 = 2;
/// Rejections in words that we do not know, before the account rests.
const STRANGE_MAX: u32 = 3;
/// How long it rests then: the server counts wrong passwords per minute.
const REST: Duration = Duration::from_secs(60);

/// Which account a connection is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Account {
    /// Without a login.
    Guest,
    /// Reads.
    Probe,
    /// Starts and stops data nodes, flushes caches, writes the canary's rows.
    Operate,
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Guest => "guest",
            Self::Probe => "probe",
            Self::Operate => "operate",
        })
    }
}

/// Why there is no login to use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The file cannot be used.
    #[error("{0}")]
    File(String),
    /// The server refused it; it is not tried again until the file changes.
    #[error("the login `{user}` was refused: {text}; correct `{file}`, it is tried again when the file changes", file = file.display())]
    Refused {
        /// The user name.
        user: String,
        /// The server's words.
        text: String,
        /// Where the password is.
        file: PathBuf,
    },
    /// Servers answered logins with words that we do not know; a pause keeps the account unlocked.
    #[error("logins of `{0}` were rejected three times in a row; they rest for a minute")]
    Resting(String),
}

/// The file's form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    probe: Entry,
    operate: Entry,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    user: String,
    password: String,
}

/// What tells two states of the file apart.
type Stamp = Option<(u64, u64, i64, i64)>;

struct State {
    /// None before the first read.
    stamp: Option<Stamp>,
    logins: Result<BTreeMap<Account, ddb::Login>, String>,
    accounts: BTreeMap<Account, Standing>,
    /// Functions that an account may not call, with the server's words.
    missing: BTreeMap<(String, Account), String>,
    /// Grows when the file changes: connections with an older login are not used again.
    generation: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            stamp: None,
            logins: Err("it has not been read yet".to_owned()),
            accounts: BTreeMap::new(),
            missing: BTreeMap::new(),
            generation: 0,
        }
    }
}

#[derive(Default, Clone)]
struct Standing {
    proven: bool,
    refused: Option<String>,
    strange: u32,
    rests_until: Option<Instant>,
}

/// The accounts of one installation.
pub struct Credentials {
    file: PathBuf,
    state: Mutex<State>,
    gate: Arc<Semaphore>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("file", &self.file).finish_non_exhaustive()
    }
}

/// The right to try one login. Its outcome must be noted before it is dropped.
#[derive(Debug)]
pub(super) struct Attempt<'a> {
    pub(super) login: ddb::Login,
    pub(super) generation: u64,
    _permit: SemaphorePermit<'a>,
}

impl Credentials {
    /// Remembers where the accounts are; reads nothing yet.
    pub fn new(file: PathBuf) -> Self {
        let gate = Arc::new(Semaphore::new(LOGINS_AT_ONCE as usize));
        Self { file, state: Mutex::default(), gate }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the file again if it has changed; forgets refusals then.
    pub fn refresh(&self) {
        let stamp = std::fs::metadata(&self.file)
            .ok()
            .map(|m| (m.dev(), m.ino(), m.mtime(), m.mtime_nsec() ^ i64::from(m.mode())));
        let mut state = self.state();
        if state.stamp == Some(stamp) {
            return;
        }
        let generation = state.generation + 1;
        *state =
            State { stamp: Some(stamp), logins: read(&self.file), generation, ..State::default() };
    }

    /// Returns the number of the file's state that is in use.
    pub(super) fn generation(&self) -> u64 {
        self.state().generation
    }

    /// Waits for the turn to log in.
    pub(super) async fn attempt(&self, account: Account) -> Result<Attempt<'_>, Unusable> {
        // Looked at before and after the wait: what another login has shown meanwhile counts.
        self.usable(account)?;
        let alone = !self.state().accounts.get(&account).is_some_and(|s| s.proven);
        let permits = if alone { LOGINS_AT_ONCE } else { 1 };
        let permit = self.gate.acquire_many(permits).await;
        let permit = permit.map_err(|_| Unusable::File("the host agent is ending".to_owned()))?;
        let login = self.usable(account)?;
        Ok(Attempt { login, generation: self.generation(), _permit: permit })
    }

    /// Returns the login if it may be tried.
    fn usable(&self, account: Account) -> Result<ddb::Login, Unusable> {
        let state = self.state();
        let logins = state.logins.as_ref().map_err(|why| Unusable::File(why.clone()))?;
        let login = logins.get(&account).cloned();
        let login = login.ok_or_else(|| Unusable::File(format!("no account `{account}`")))?;
        let standing = state.accounts.get(&account).cloned().unwrap_or_default();
        if let Some(text) = standing.refused {
            return Err(Unusable::Refused { user: login.user, text, file: self.file.clone() });
        }
        if standing.rests_until.is_some_and(|until| Instant::now() < until) {
            return Err(Unusable::Resting(login.user));
        }
        Ok(login)
    }

    /// Notes how a login went.
    pub(super) fn note(&self, account: Account, generation: u64, outcome: Result<(), &ddb::Error>) {
        let mut state = self.state();
        if state.generation != generation {
            return;
        }
        let standing = state.accounts.entry(account).or_default();
        match outcome {
            Ok(()) => *standing = Standing { proven: true, ..Standing::default() },
            Err(ddb::Error::Refused { text, .. }) => {
                *standing = Standing { refused: Some(text.clone()), ..Standing::default() };
            }
            Err(ddb::Error::Server { tag: None, text, .. }) if !is_passing(text) => {
                standing.strange += 1;
                if standing.strange >= STRANGE_MAX {
                    standing.strange = 0;
                    standing.rests_until = Some(Instant::now() + REST);
                }
            }
            // The server said nothing about the password.
            Err(
                ddb::Error::Server { .. }
                | ddb::Error::Io { .. }
                | ddb::Error::Timeout { .. }
                | ddb::Error::Protocol { .. }
                | ddb::Error::Closed { .. }
                | ddb::Error::Request { .. },
            ) => {}
        }
    }

    /// Notes whether an account may call a function.
    pub(super) fn note_right(&self, function: &str, account: Account, error: Option<&ddb::Error>) {
        let mut state = self.state();
        let key = (function.to_owned(), account);
        match error {
            Some(error) if error.is_missing_right() => {
                state.missing.insert(key, error.server_text().unwrap_or_default().to_owned());
            }
            None => {
                state.missing.remove(&key);
            }
            Some(_) => {}
        }
    }

    /// Returns what a person has to mend.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let state = self.state();
        let mut problems = Vec::new();
        let subject = self.file.display().to_string();
        if let Err(why) = &state.logins {
            let detail = why.clone();
            problems.push(Problem {
                code: Code::ConfigUnreadable,
                subject: subject.clone(),
                detail,
            });
        }
        for (account, standing) in &state.accounts {
            let logins = state.logins.as_ref().ok();
            let user = logins.and_then(|l| l.get(account)).map_or("", |login| login.user.as_str());
            if let Some(text) = &standing.refused {
                let text = text.trim_end_matches('.');
                let detail = format!(
                    "DolphinDB refused the account `{account}` (user `{user}`): {text}. It was tried once and is not tried again before the file changes"
                );
                let code = Code::CredentialsRefused;
                problems.push(Problem { code, subject: subject.clone(), detail });
            }
        }
        for ((function, account), text) in &state.missing {
            let user = match (&state.logins, account) {
                (Ok(logins), Account::Probe | Account::Operate) => {
                    logins.get(account).map_or("", |login| login.user.as_str())
                }
                (Ok(_), Account::Guest) | (Err(_), _) => "",
            };
            problems.push(Problem {
                code: Code::RightMissing,
                subject: function.clone(),
                detail: format!(
                    "the account `{account}` (user `{user}`) may not call `{function}`: {text}. Grant it, or use another account in `{subject}`"
                ),
            });
        }
        problems
    }
}

/// Words with which a node turns away everybody for a while, whatever the password.
fn is_passing(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["connection", "initializ", "not ready", "not available", "leader", "s00006"]
        .iter()
        .any(|part| text.contains(part))
}

/// Reads the file. The error text never holds a line of it.
fn read(file: &Path) -> Result<BTreeMap<Account, ddb::Login>, String> {
    let shown = file.display();
    let metadata =
        std::fs::metadata(file).map_err(|error| format!("`{shown}` cannot be read: {error}"))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & FOREIGN_BITS != 0 {
        return Err(format!(
            "`{shown}` has mode {mode:04o}: others could read the passwords; use `chmod 600 {shown}`"
        ));
    }
    let text = std::fs::read_to_string(file)
        .map_err(|error| format!("`{shown}` cannot be read: {error}"))?;
    let parsed: File = toml::from_str(&text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or("");
        let line = before.matches('\n').count() + 1;
        // The message of a TOML error quotes keys at most, never values; but be sure.
        format!(
            "`{shown}` line {line}: expected `[probe]` and `[operate]` with `user` and `password`"
        )
    })?;
    Ok(BTreeMap::from([
        (Account::Probe, ddb::Login::new(parsed.probe.user, parsed.probe.password)),
        (Account::Operate, ddb::Login::new(parsed.operate.user, parsed.operate.password)),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str, mode: u32) -> (tempfile::TempDir, Credentials) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("credentials.toml");
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let credentials = Credentials::new(file);
        credentials.refresh();
        (dir, credentials)
    }

    const GOOD: &str =
        "[probe]\nuser = \"p\"\npassword = \"one\"\n[operate]\nuser = \"o\"\npassword = \"two\"\n";

    fn refusal(text: &str) -> ddb::Error {
        let endpoint = ddb::Endpoint::new("h", 1);
        ddb::Error::Refused { endpoint, user: "p".into(), text: text.into() }
    }

    #[tokio::test]
    async fn a_refused_login_is_not_tried_again_until_the_file_changes() {
        let (_dir, credentials) = written(GOOD, 0o600);
        let attempt = credentials.attempt(Account::Probe).await.unwrap();
        credentials.note(Account::Probe, attempt.generation, Err(&refusal("wrong password")));
        drop(attempt);
        credentials.refresh();
        let error = credentials.attempt(Account::Probe).await.unwrap_err();
        assert!(matches!(error, Unusable::Refused { .. }), "{error}");
        assert!(credentials.attempt(Account::Operate).await.is_ok(), "the other one is untouched");
        let problems = credentials.problems();
        assert_eq!(problems[0].code, Code::CredentialsRefused);
        assert!(!problems[0].detail.contains("one"), "{problems:?}");

        // The same length and maybe the same second: another time stamp is what counts.
        let later = std::time::SystemTime::now() + Duration::from_secs(5);
        std::fs::File::options()
            .write(true)
            .open(&credentials.file)
            .unwrap()
            .set_modified(later)
            .unwrap();
        credentials.refresh();
        assert!(credentials.attempt(Account::Probe).await.is_ok());
        assert!(credentials.problems().is_empty());
    }

    #[tokio::test]
    async fn the_first_login_of_an_account_is_made_alone() {
        let (_dir, credentials) = written(GOOD, 0o600);
        let first = credentials.attempt(Account::Probe).await.unwrap();
        let second = credentials.attempt(Account::Probe);
        tokio::pin!(second);
        assert!(futures_are_pending(&mut second).await);
        credentials.note(Account::Probe, first.generation, Err(&refusal("wrong password")));
        drop(first);
        assert!(matches!(second.await, Err(Unusable::Refused { .. })));
    }

    async fn futures_are_pending<F: Future>(future: &mut std::pin::Pin<&mut F>) -> bool {
        tokio::time::timeout(Duration::from_millis(20), future.as_mut()).await.is_err()
    }

    #[tokio::test]
    async fn unknown_rejections_make_the_account_rest() {
        let (_dir, credentials) = written(GOOD, 0o600);
        let endpoint = ddb::Endpoint::new("h", 1);
        let strange = |text: &str| ddb::Error::Server {
            endpoint: endpoint.clone(),
            text: text.to_owned(),
            tag: None,
        };
        for _ in 0..5 {
            let generation = credentials.generation();
            let passing = strange("The data node isn't initialized yet. Please try again later");
            credentials.note(Account::Probe, generation, Err(&passing));
        }
        assert!(credentials.attempt(Account::Probe).await.is_ok());
        for _ in 0..3 {
            let generation = credentials.generation();
            credentials.note(Account::Probe, generation, Err(&strange("no way")));
        }
        let error = credentials.attempt(Account::Probe).await.unwrap_err();
        assert!(matches!(error, Unusable::Resting(_)), "{error}");
    }

    #[test]
    fn a_bad_file_is_a_problem_that_names_the_line_and_no_secret() {
        for (text, mode, words) in [
            (GOOD, 0o644, "mode 0644"),
            ("[probe]\nuser = \"p\"\npassword = s3cret\n", 0o600, "line 3"),
            ("[probe]\nuser = \"p\"\npasswort = \"s3cret\"\n", 0o600, "expected"),
        ] {
            let (_dir, credentials) = written(text, mode);
            let problems = credentials.problems();
            assert_eq!(problems.len(), 1);
            assert_eq!(problems[0].code, Code::ConfigUnreadable);
            assert!(problems[0].detail.contains(words), "{problems:?}");
            assert!(!problems[0].detail.contains("s3cret"), "{problems:?}");
        }
    }

    #[test]
    fn missing_rights_name_function_and_account_and_go_away() {
        let (_dir, credentials) = written(GOOD, 0o600);
        let endpoint = ddb::Endpoint::new("h", 1);
        let text = "Login is required for script execution".to_owned();
        let error = ddb::Error::Server { endpoint, text, tag: None };
        credentials.note_right("getClusterPerf", Account::Probe, Some(&error));
        let problems = credentials.problems();
        assert_eq!(problems[0].code, Code::RightMissing);
        assert_eq!(problems[0].subject, "getClusterPerf");
        assert!(problems[0].detail.contains("`probe` (user `p`)"), "{problems:?}");
        credentials.note_right("getClusterPerf", Account::Probe, None);
        assert!(credentials.problems().is_empty());
    }
}
