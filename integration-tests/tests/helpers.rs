//! Helpers of a host agent that was killed: what the site's upgrade script left behind goes on by
//! itself, hears no signal that can be heard, and writes. The next life of the host agent ends it
//! before it looks at anything.
//!
//! The site's script is changed for the time of the test. Copies for the backup have no helper: the
//! host agent makes them itself, and they end with it. Could run on a real cluster.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use integration_tests::processes::{self, ProcessId};
use integration_tests::suite::{self, CANARY, Changed, FROM, NOTICE_LIMIT, TO};
use integration_tests::{Lab, Options, Target, wait};
use rustix::process::Signal;

/// Before and after the host agent ends what earlier helpers of the step have left.
const SETTLING: [&str; 2] = ["act.settle.upgrade.before", "act.settle.upgrade.after"];

/// A helper that somebody has to end.
struct Stray {
    /// It writes the time here, again and again.
    beats: PathBuf,
    _script: Changed,
}

impl Stray {
    /// Has the script, the first time it runs on a host, start the helper and wait for ever.
    fn plant(lab: &Lab, host: u8) -> anyhow::Result<Self> {
        let machine = lab.paths().machine(&lab.host(host)?.name);
        let (beats, planted) = (machine.join("beats"), machine.join("planted"));
        let script = lab.paths().work(&lab.host(host)?.name, lab.cluster()).join("upgrade.sh");
        let stray = format!(
            "if [ ! -e {planted} ]; then touch {planted}\n\
             setsid bash -c 'trap \"\" HUP TERM INT; while :; do date +%s%N > {beats}; sleep 0.02; done' &\n\
             while :; do sleep 1; done\nfi\n",
            planted = planted.display(),
            beats = beats.display(),
        );
        let script = Changed::text(&script, |text| {
            text.replace("unzip $name", &format!("{stray}unzip $name"))
        })?;
        Ok(Self { beats, _script: script })
    }

    /// Its process, while it is alive.
    fn process(&self) -> Option<ProcessId> {
        let beats = self.beats.display().to_string();
        let ours = |pid: &i32| {
            let words = processes::arguments(*pid);
            words.iter().any(|word| word.contains("trap") && word.contains(&beats))
        };
        processes::all().into_iter().find(ours).and_then(ProcessId::of).filter(|it| it.is_alive())
    }

    /// Waits until it has written.
    async fn writes(&self) -> anyhow::Result<ProcessId> {
        let before = read(&self.beats);
        wait::until("the helper to write", suite::ROLLOUT_LIMIT, || async {
            let now = read(&self.beats);
            match self.process() {
                Some(process) if !now.is_empty() && now != before => Ok(process),
                found => Err(format!("{found:?} wrote `{now}`")),
            }
        })
        .await
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Kills the host agent and, with it, everything that it started but the helper: its supervisor, too.
async fn kill_all_but(lab: &Lab, host: u8, stray: ProcessId) -> anyhow::Result<()> {
    let agent = lab.processes_of(&Target::Agent(host)).await?;
    let agent = *agent.first().context("the host agent runs")?;
    let mut family = vec![agent];
    // The helper's own children are no concern of ours.
    let below = processes::descendants(stray.pid);
    let others = processes::descendants(agent.pid);
    family.extend(others.into_iter().filter(|it| *it != stray && !below.contains(it)));
    ensure!(family.len() > 2, "the host agent has no supervisor and no script: {family:?}");
    // None may notice that another one goes.
    for process in &family {
        process.signal(Signal::STOP);
    }
    for process in &family {
        process.signal(Signal::KILL);
    }
    wait::until_true("the host agent and its family to be gone", NOTICE_LIMIT, || async {
        family.iter().all(|process| !process.is_alive())
    })
    .await
}

/// The host agent and the helper's supervisor are killed: nobody is left who could end the helper. The
/// next life ends it before it judges how far the upgrade came.
async fn outlives_everybody(lab: &Lab, host: u8) -> anyhow::Result<()> {
    let stray = Stray::plant(lab, host)?;
    lab.agent_goes_on(host).await?;
    let process = stray.writes().await?;
    kill_all_but(lab, host, process).await?;
    ensure!(stray.writes().await? == process, "it is another one");
    lab.restart_agent_with_stops(host, &SETTLING.map(str::to_owned)).await?;
    ensure!(lab.wait_agent_stands(host).await? == SETTLING[0]);
    ensure!(stray.writes().await? == process, "somebody else ended it");
    lab.agent_goes_on(host).await?;
    wait::until("the host agent to have settled", NOTICE_LIMIT, || async {
        match lab.last_stop(host) {
            Ok(place) if place == SETTLING[1] => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await?;
    ensure!(!process.is_alive(), "the host agent looked at the step beside a helper that lives");
    let last = read(&stray.beats);
    lab.wait_agent_stands(host).await?;
    ensure!(read(&stray.beats) == last, "somebody still writes");
    lab.restart_agent(host).await
}

/// Only the host agent is killed: the supervisor notices, and ends what it has started at once.
async fn supervisor_ends_it(lab: &Lab, host: u8) -> anyhow::Result<()> {
    let stray = Stray::plant(lab, host)?;
    lab.agent_goes_on(host).await?;
    let process = stray.writes().await?;
    lab.kill(&Target::Agent(host)).await?;
    wait::until_true("the helper to be gone", Duration::from_secs(20), || async {
        !process.is_alive()
    })
    .await?;
    lab.restart_agent(host).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_host_agents_helpers_left_is_ended_before_anything_is_judged() {
    let options = Options { version: FROM.to_owned(), ..Options::default() };
    suite::in_lab(&options, async |lab| {
        let more = [&CANARY[..], &["--mode", "script"]].concat();
        let hosts = lab.order_to(TO, &more).await?;
        let observer = lab.observer()?;
        let places = ["act.execute.guard.before".to_owned()];
        for host in &hosts[..2] {
            lab.restart_agent_with_stops(*host, &places).await?;
        }
        lab.wait_hosts_connected().await?;
        lab.wait_ready(TO, &more).await?;
        let id = lab.start_rollout(TO, &more).await?;
        lab.wait_agent_stands(hosts[0]).await?;
        outlives_everybody(lab, hosts[0]).await?;
        lab.wait_agent_stands(hosts[1]).await?;
        supervisor_ends_it(lab, hosts[1]).await?;
        lab.ensure_good_end(&id, TO, &observer.stop()).await
    })
    .await;
}
