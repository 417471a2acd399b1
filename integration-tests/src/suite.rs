//! What the suites of whole labs share: a lab that goes with the test, refusals, stop points.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use grayfin_types::Code;
use grayfin_types::plan::PlanAnswer;
use grayfin_types::status::{RolloutState, RolloutStatus};
use rustix::fs::FlockOperation;

use crate::hostns::Isolation;
use crate::observer::{Observer, Report};
use crate::rollout::Finished;
use crate::{Lab, Options, Target, processes, wait};

/// The versions between which most suites upgrade: only the fourth number differs.
pub const FROM: &str = "2.00.8.10";
/// The target.
pub const TO: &str = "2.00.8.12";
/// The canary writes all the time, a little: what is tested is that nothing is lost.
pub const CANARY: [&str; 4] = ["--canary", "new", "--rate", "60"];

/// Labs of suites that run at once on a machine. A lab has a dozen processes that wake up often; with
/// more than two on two cores it is the scheduler that is tested.
const LABS_AT_ONCE: usize = 2;
/// For one of the places to be free: the other suites are not endless.
const PLACE_LIMIT: Duration = Duration::from_secs(3_600);
/// For everything that a test does in its lab.
const TEST_LIMIT: Duration = Duration::from_secs(1_200);
/// A rollout over three hosts takes half a minute; this is for a machine that is very busy.
pub const ROLLOUT_LIMIT: Duration = Duration::from_secs(420);
/// For something that Grayfin notices by itself.
pub const NOTICE_LIMIT: Duration = Duration::from_secs(90);

/// Runs a test in a lab of its own. If the test fails, the lab's files are kept and their place is
/// said. Waits for its turn: only so many labs run at once, also across test programs.
///
/// # Panics
/// If the test fails or takes too long.
#[expect(clippy::panic, reason = "it fails the test")]
pub async fn in_lab(options: &Options, test: impl AsyncFnOnce(&Lab) -> anyhow::Result<()>) {
    if !may_isolate(options) {
        return;
    }
    let _place = Place::take().await.expect("a place for a lab becomes free");
    let folder = Folder::make();
    let began = Instant::now();
    let lab = match Lab::up(&folder.lab(), options).await {
        Ok(lab) => lab,
        Err(error) => panic!("the lab did not come up: {error:#}"),
    };
    say(&format!("the lab is up after {:.1} s", began.elapsed().as_secs_f64()));
    let outcome = match tokio::time::timeout(TEST_LIMIT, test(&lab)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(anyhow::anyhow!("the test took longer than {TEST_LIMIT:?}")),
    };
    say(&format!("the test took {:.1} s", began.elapsed().as_secs_f64()));
    if let Err(error) = outcome {
        let kept = lab.down_keeping_files();
        let kept = kept.map_or_else(|e| format!("{e:#}"), |path| path.display().to_string());
        panic!("{error:#}\nthe lab's files: {kept}");
    }
    lab.down().expect("the lab goes down");
}

/// Hosts should be namespaces; a test that cannot have them is skipped, loudly, and fails in CI.
fn may_isolate(options: &Options) -> bool {
    let why = if options.netns {
        crate::lab::net::obstacle()
    } else if options.no_namespaces || Isolation::detect() != Isolation::Signals {
        None
    } else {
        Some("this user may not make namespaces (`unshare --user --pid --mount`)".to_owned())
    };
    let Some(why) = why else { return true };
    let ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
    assert!(!ci, "CI=true, and {why}");
    say(&format!("!!! SKIPPED: {why}"));
    false
}

/// Says something to the person who runs the test.
pub fn say(text: &str) {
    // Nobody can be told that standard error is gone.
    writeln!(std::io::stderr(), "{text}").ok();
}

/// The right to run a lab, held by a lock on a file so that it ends with its holder.
#[derive(Debug)]
struct Place {
    _file: File,
}

impl Place {
    async fn take() -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join("grayfin-lab-places");
        fs::create_dir_all(&folder)?;
        wait::until("a place for a lab", PLACE_LIMIT, || async {
            for number in 0..LABS_AT_ONCE {
                let path = folder.join(format!("{number}.lock"));
                let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
                let file = file.map_err(|error| format!("open `{}`: {error}", path.display()))?;
                if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                    return Ok(Self { _file: file });
                }
            }
            Err("all are taken".to_owned())
        })
        .await
    }
}

/// A temporary folder that is kept if the test fails.
#[derive(Debug)]
struct Folder {
    place: Option<tempfile::TempDir>,
}

impl Folder {
    fn make() -> Self {
        let place = tempfile::Builder::new().prefix("suite-").tempdir();
        Self { place: Some(place.expect("a temporary folder can be made")) }
    }

    fn lab(&self) -> PathBuf {
        let place = self.place.as_ref().expect("it is there until it is dropped");
        place.path().canonicalize().expect("it was just made").join("lab")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(place) = self.place.take()
        {
            drop(place.keep());
        }
    }
}

/// A file of a lab that is changed for a while: dropped, it is as it was.
#[derive(Debug)]
pub struct Changed {
    path: PathBuf,
    before: Option<(Vec<u8>, fs::Permissions)>,
}

impl Changed {
    /// Puts other bytes into a file; none removes it. The new file takes the old one's place by a
    /// rename: packages are hard links to a cache that all labs share, which must stay as it is.
    pub fn to(path: &Path, bytes: Option<&[u8]>) -> anyhow::Result<Self> {
        let before = match fs::read(path) {
            Ok(bytes) => Some((bytes, fs::metadata(path)?.permissions())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("read `{}`", path.display())),
        };
        let changed = Self { path: path.to_owned(), before };
        match (bytes, &changed.before) {
            (Some(bytes), before) => {
                put(path, bytes, before.as_ref().map(|(_, permissions)| permissions.clone()))?;
            }
            (None, Some(_)) => fs::remove_file(path)?,
            (None, None) => bail!("`{}` is not there", path.display()),
        }
        Ok(changed)
    }

    /// Changes a text.
    pub fn text(path: &Path, change: impl FnOnce(&str) -> String) -> anyhow::Result<Self> {
        let before =
            fs::read_to_string(path).with_context(|| format!("read `{}`", path.display()))?;
        let after = change(&before);
        ensure!(before != after, "`{}` would not change", path.display());
        Self::to(path, Some(after.as_bytes()))
    }
}

impl Drop for Changed {
    fn drop(&mut self) {
        let restored = match &self.before {
            Some((bytes, permissions)) => put(&self.path, bytes, Some(permissions.clone())),
            None => fs::remove_file(&self.path).map_err(Into::into),
        };
        if let Err(error) = restored {
            say(&format!("`{}` could not be restored: {error:#}", self.path.display()));
        }
    }
}

fn put(path: &Path, bytes: &[u8], permissions: Option<fs::Permissions>) -> anyhow::Result<()> {
    let folder = path.parent().context("a file has a folder")?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    if let Some(permissions) = permissions {
        fs::set_permissions(file.path(), permissions)?;
    }
    file.persist(path)?;
    Ok(())
}

/// Everything that a command said.
pub fn words(done: &Finished) -> String {
    format!("exit code {:?}\n{}{}", done.code, done.out, done.err)
}

/// The page of a code is there and is about it.
pub fn ensure_page(code: Code) -> anyhow::Result<()> {
    let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors");
    let page = fs::read_to_string(pages.join(format!("{code}.md")))
        .with_context(|| format!("the page of {code}"))?;
    ensure!(page.contains(code.title()), "the page of {code} is about something else");
    Ok(())
}

/// An observer's report in which nothing was stopped, after at least one more look.
pub async fn ensure_untouched(observer: &Observer) -> anyhow::Result<()> {
    let before = observer.report().samples;
    wait::until("the observer to look once more", NOTICE_LIMIT, || async {
        let seen = observer.report().samples;
        if seen > before + 1 { Ok(()) } else { Err(format!("{seen} looks")) }
    })
    .await?;
    let report = observer.report();
    let changed = report.nodes_that_changed();
    ensure!(changed.is_empty(), "these nodes were stopped or restarted: {changed:?}");
    ensure!(
        report.nodes.iter().all(|node| node.processes.len() == 1),
        "the observer did not see one process of each node"
    );
    Ok(())
}

/// What a refusal must look like.
#[derive(Debug, Clone, Copy)]
pub struct Refusal<'a> {
    /// The target.
    pub to: &'a str,
    /// More arguments.
    pub more: &'a [&'a str],
    /// The code that it must name.
    pub code: Code,
    /// Codes that may be named beside it; any other one would mislead.
    pub also: &'a [Code],
    /// Words that must be there: the file, the host, the line.
    pub names: &'a [&'a str],
}

impl Lab {
    /// Asks what stands against a rollout of the first cluster.
    pub async fn preflight(&self, to: &str, more: &[&str]) -> anyhow::Result<PlanAnswer> {
        let name = self.cluster().name.clone();
        let mut arguments = vec!["preflight", &name, "--to", to, "--json"];
        arguments.extend_from_slice(more);
        let done = self.cli(&arguments).await?;
        serde_json::from_str(&done.out)
            .with_context(|| format!("`preflight` printed no document: {}", words(&done)))
    }

    /// Waits until a rollout could start.
    pub async fn wait_ready(&self, to: &str, more: &[&str]) -> anyhow::Result<()> {
        wait::until(&format!("a rollout to {to} to be possible"), NOTICE_LIMIT, || async {
            let answer = self.preflight(to, more).await.map_err(|error| format!("{error:#}"))?;
            if answer.ready { Ok(()) } else { Err(format!("{:?}", against(&answer))) }
        })
        .await
    }

    /// The hosts in the order of the plan, by number.
    pub async fn order(&self) -> anyhow::Result<Vec<u8>> {
        self.order_to(TO, &CANARY).await
    }

    /// The same of a plan to another version.
    pub async fn order_to(&self, to: &str, more: &[&str]) -> anyhow::Result<Vec<u8>> {
        self.wait_ready(to, more).await?;
        let plan = self.preflight(to, more).await?.plan.context("a plan")?;
        plan.hosts.iter().map(|host| self.number_of(&host.host)).collect()
    }

    /// `rollout start` is refused as it should be, and nothing was stopped or begun.
    pub async fn ensure_refused(&self, expected: &Refusal<'_>) -> anyhow::Result<()> {
        let observer = self.observer()?;
        let before = self.rollout_ids().await?;
        let name = self.cluster().name.clone();
        let mut arguments = vec!["rollout", "start", &name, "--to", expected.to, "--yes"];
        arguments.extend_from_slice(expected.more);
        let done = self.cli(&arguments).await?;
        let said = words(&done);
        ensure!(done.code == Some(1), "it must be refused with exit code 1: {said}");
        ensure!(
            said.contains(expected.code.as_str()),
            "it does not name {}: {said}",
            expected.code
        );
        for name in expected.names {
            ensure!(said.contains(name), "it does not name `{name}`: {said}");
        }
        ensure!(self.rollout_ids().await? == before, "a rollout was begun: {said}");
        let answer = self.preflight(expected.to, expected.more).await?;
        ensure!(!answer.ready, "`preflight` sees nothing against it");
        for reason in answer.findings.iter().flat_map(|finding| finding.decision.reasons()) {
            let known = reason.code == expected.code || expected.also.contains(&reason.code);
            ensure!(known, "it is misleading: {:?}", against(&answer));
        }
        ensure_page(expected.code)?;
        ensure_untouched(&observer).await
    }

    /// Ids of all rollouts, newest first.
    pub async fn rollout_ids(&self) -> anyhow::Result<Vec<String>> {
        let all: Vec<RolloutStatus> = self.ask(&["rollout", "list", "--json"]).await?;
        Ok(all.into_iter().map(|rollout| rollout.id.to_string()).collect())
    }

    /// Waits until a rollout is in a state, and returns what `status` says then.
    pub async fn wait_state(&self, id: &str, state: RolloutState) -> anyhow::Result<RolloutStatus> {
        self.wait_status(id, &format!("to be {state}"), |status| status.state == state).await
    }

    /// Waits until a rollout is halted, and returns what it says: it must name all of these, and
    /// `explain` a way out.
    pub async fn wait_halted(&self, id: &str, names: &[&str]) -> anyhow::Result<RolloutStatus> {
        let status = self.wait_state(id, RolloutState::Halted).await?;
        let said = summary(&status);
        say(&said);
        for name in names {
            ensure!(said.contains(name), "it does not name `{name}`: {said}");
        }
        let explained = words(&self.cli(&["explain", id]).await?);
        ensure!(explained.contains("retry"), "`explain` names no way out: {explained}");
        Ok(status)
    }

    /// Waits until `status` is as wanted; fails at once if the rollout ends in another way.
    pub async fn wait_status(
        &self,
        id: &str,
        what: &str,
        wanted: impl Fn(&RolloutStatus) -> bool,
    ) -> anyhow::Result<RolloutStatus> {
        let waited = format!("rollout {id} {what}");
        let found = wait::until(&waited, ROLLOUT_LIMIT, || async {
            let status = self.rollout(id).await.map_err(|error| format!("{error:#}"))?;
            if wanted(&status) {
                Ok(Ok(status))
            } else if status.state.is_final() {
                Ok(Err(status))
            } else {
                Err(summary(&status))
            }
        });
        match found.await? {
            Ok(status) => Ok(status),
            Err(ended) => {
                bail!("waited for rollout {id} {what}, but it ended: {}", summary(&ended))
            }
        }
    }

    /// The rollout ended with everything proven: state, versions asked of each node directly, and
    /// nobody seen down together.
    pub async fn ensure_succeeded(
        &self,
        id: &str,
        to: &str,
        seen: &Report,
    ) -> anyhow::Result<RolloutStatus> {
        let status = self.wait_rollout(id, ROLLOUT_LIMIT).await?;
        ensure!(status.state == RolloutState::Succeeded, "{}", summary(&status));
        for (alias, version) in self.versions().await? {
            ensure!(version == to, "`{alias}` answers {version}, not {to}");
        }
        let down: Vec<String> =
            seen.nodes.iter().map(|node| format!("{} {:?}", node.alias, node.down)).collect();
        let overlaps = seen.overlaps();
        ensure!(overlaps.is_empty(), "two hosts at once: {overlaps:?}; down: {}", down.join(", "));
        ensure!(status.canary.lost == 0, "{:?}", status.canary);
        Ok(status)
    }

    /// Every node had exactly so many processes, the first included.
    pub fn ensure_restarts(
        &self,
        seen: &Report,
        processes: usize,
        others: &BTreeMap<&str, usize>,
    ) -> anyhow::Result<()> {
        let mut wrong = Vec::new();
        for node in &self.cluster().nodes {
            let expected = others.get(node.alias()).copied().unwrap_or(processes);
            let found = seen.node(node.alias()).map_or(0, |record| record.processes.len());
            if found != expected {
                wrong.push(format!("`{}` had {found} processes, not {expected}", node.alias()));
            }
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("; "));
        Ok(())
    }

    /// Starts a host's agent again so that it stands still (SIGSTOP) at each of these places.
    pub async fn restart_agent_with_stops(
        &self,
        host: u8,
        places: &[String],
    ) -> anyhow::Result<()> {
        let variables = [("GRAYFIN_STOPPOINTS".to_owned(), places.join(","))];
        let variables: BTreeMap<String, String> =
            variables.into_iter().filter(|_| !places.is_empty()).collect();
        self.restart_with(&Target::Agent(host), &variables).await
    }

    /// Tells whether a host's agent stands still at a place.
    pub async fn agent_stands(&self, host: u8) -> anyhow::Result<bool> {
        let found = self.processes_of(&Target::Agent(host)).await?;
        Ok(found.iter().any(|it| processes::stat(it.pid).is_some_and(|stat| stat.state == 'T')))
    }

    /// Waits until a host's agent stands still, and returns the place that it wrote into its log.
    pub async fn wait_agent_stands(&self, host: u8) -> anyhow::Result<String> {
        wait::until(&format!("the agent of host {host} to stand still"), ROLLOUT_LIMIT, || async {
            match self.agent_stands(host).await {
                Ok(true) => Ok(()),
                Ok(false) => Err("it goes on".to_owned()),
                Err(error) => Err(format!("{error:#}")),
            }
        })
        .await?;
        self.last_stop(host)
    }

    /// The place at which a host's agent stood last.
    pub fn last_stop(&self, host: u8) -> anyhow::Result<String> {
        self.last_place(host, "stop point reached")
    }

    /// The place that a host's agent wrote into its log last, behind these words.
    pub fn last_place(&self, host: u8, words: &str) -> anyhow::Result<String> {
        let folder = self.paths().agent(&self.host(host)?.name);
        let log = fs::read_to_string(folder.join("grayfin-agent.log"))?;
        let line = log.lines().rev().find(|line| line.contains(words));
        let line = line.with_context(|| format!("no `{words}` in the log of host {host}"))?;
        let place = line.split("place=").nth(1).context("a stop has a place")?;
        let place = place.trim_start_matches('"');
        let end = |letter: char| !(letter.is_ascii_alphanumeric() || "._".contains(letter));
        Ok(place.split(end).next().unwrap_or_default().to_owned())
    }

    /// Lets a host's agent go on.
    pub async fn agent_goes_on(&self, host: u8) -> anyhow::Result<()> {
        self.signal(&Target::Agent(host), rustix::process::Signal::CONT).await
    }

    /// The number of the host with a name.
    pub fn number_of(&self, name: impl fmt::Display) -> anyhow::Result<u8> {
        let name = name.to_string();
        let host = self.topology().hosts.iter().find(|host| host.name == name);
        Ok(host.with_context(|| format!("there is no host `{name}`"))?.number)
    }
}

/// The reasons of the gates that do not let a rollout start.
pub fn against(answer: &PlanAnswer) -> Vec<String> {
    let findings = answer.findings.iter().filter(|finding| finding.overridden.is_none());
    let reasons = findings.flat_map(|finding| {
        let reasons = finding.decision.reasons().iter();
        reasons.map(|r| format!("{}: {} {}: {}", finding.gate, r.code, r.subject, r.evidence))
    });
    reasons.collect()
}

/// Where a rollout stands, in a line.
pub fn summary(status: &RolloutStatus) -> String {
    let hosts: Vec<String> = status
        .hosts
        .iter()
        .map(|host| format!("{} {:?} {:?}", host.host, host.phase, host.sequence))
        .collect();
    let waiting: Vec<String> = status
        .waiting
        .iter()
        .map(|r| format!("{} {}: {}", r.code, r.subject, r.evidence))
        .collect();
    format!("{}; hosts: {}; waits for: {}", status.state, hosts.join(", "), waiting.join("; "))
}

/// Copies a folder with all that is in it, as an administrator would.
pub fn copy_folder(from: &Path, to: &Path) -> anyhow::Result<()> {
    let done = std::process::Command::new("cp").arg("-aT").arg(from).arg(to).status()?;
    anyhow::ensure!(done.success(), "copy `{}`", from.display());
    Ok(())
}
