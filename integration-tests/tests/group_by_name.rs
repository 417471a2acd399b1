//! Groups of coordinators in the situations that cost others their data: failover in the middle of
//! promises and of closes, a recovery by force while the old majority lives, a copy from before the
//! growth that comes back.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use grayfin_types::status::HostPhase;
use integration_tests::suite::{self, CANARY, Changed, FROM, NOTICE_LIMIT, ROLLOUT_LIMIT, TO};
use integration_tests::{Lab, Options, Target, processes, wait};

fn options(joined: Option<u8>) -> Options {
    Options {
        version: FROM.to_owned(),
        coordinators: 3,
        joined,
        time_scale: 0.05,
        ..Options::default()
    }
}

/// The coordinator that stands still, if one does.
async fn standing(lab: &Lab) -> anyhow::Result<Option<u8>> {
    for coordinator in &lab.topology().coordinators {
        let found = lab.processes_of(&Target::Coordinator(coordinator.number)).await?;
        let stopped = |pid| processes::stat(pid).is_some_and(|stat| stat.state == 'T');
        if found.iter().any(|process| stopped(process.pid)) {
            return Ok(Some(coordinator.number));
        }
    }
    Ok(None)
}

/// The place at which a coordinator stood last.
fn place(lab: &Lab, number: u8) -> anyhow::Result<&'static str> {
    let folder = lab.paths().machine(&lab.coordinator(number)?.name);
    let log = std::fs::read_to_string(folder.join("grayfin.log"))?;
    let line = log.lines().rev().find(|line| line.contains("stop point reached"));
    let line = line.context("no stop in its log")?;
    let found = PLACES.iter().find(|place| line.contains(**place));
    found.copied().with_context(|| format!("an unknown place: {line}"))
}

const PLACES: [&str; 2] = ["send.promise.before", "send.close.before"];

/// Starts a coordinator so that it stands still at these places, the first time it comes there.
async fn with_stops(lab: &Lab, number: u8, places: &[&str]) -> anyhow::Result<()> {
    let variables = [("GRAYFIN_STOPPOINTS".to_owned(), places.join(","))];
    lab.restart_with(&Target::Coordinator(number), &BTreeMap::from(variables)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn leaders_that_die_in_the_middle_of_promises_and_of_closes_are_replaced_each_time() {
    suite::in_lab(&options(None), async |lab| {
        let mut left: BTreeMap<u8, Vec<&str>> = (1..=3).map(|n| (n, PLACES.to_vec())).collect();
        for (number, places) in &left {
            with_stops(lab, *number, places).await?;
        }
        lab.group_is_whole().await?;
        lab.wait_hosts_connected().await?;
        lab.wait_ready(TO, &CANARY).await?;
        let observer = lab.observer()?;
        let id = lab.start_rollout(TO, &CANARY).await?;
        let mut died: Vec<&str> = Vec::new();
        loop {
            // Whoever stands still answers nobody: it is looked for first.
            if let Some(number) = standing(lab).await? {
                let at = place(lab, number)?;
                suite::say(&format!("coordinator {number} dies at {at}"));
                died.push(at);
                let places = left.entry(number).or_default();
                places.retain(|place| *place != at);
                with_stops(lab, number, places).await?;
            }
            let asked = tokio::time::timeout(NOTICE_LIMIT / 30, lab.rollout(&id)).await;
            if asked.is_ok_and(|status| status.is_ok_and(|status| status.state.is_final())) {
                break;
            }
        }
        let seen = observer.stop();
        lab.ensure_succeeded(&id, TO, &seen).await?;
        lab.ensure_restarts(&seen, 2, &BTreeMap::new())?;
        for place in PLACES {
            ensure!(died.contains(&place), "nobody died at {place}: {died:?}");
        }
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_by_force_is_obeyed_while_the_old_majority_lives() {
    suite::in_lab(&options(None), async |lab| {
        let leader = lab.leading_coordinator().await?;
        let others = lab.coordinators_but(leader);
        let chosen = *others.first().context("a follower")?;
        lab.kill(&Target::Coordinator(chosen)).await?;
        let folder = lab.paths().machine(&lab.coordinator(chosen)?.name);
        let file = folder.join("coordinator.toml");
        let config = file.display().to_string();
        let words = ["coordinator", "force-recover", "--config", &config, "--reason", "a test"];
        let done = lab.cli(&[&words[..], &["--yes"]].concat()).await?;
        ensure!(done.code == Some(0), "{}", suite::words(&done));
        // The first one of a lab was never told to join.
        let alone = |text: &str| format!("{}\n", text.replace("join = true", "join = false"));
        let _alone = Changed::text(&file, alone)?;
        lab.restart(&Target::Coordinator(chosen)).await?;
        // As long as they are with the old majority, host agents know nothing of it: it can do nothing.
        let early = lab.cli_at(chosen, &start_words(lab)).await?;
        ensure!(early.code != Some(0), "without host agents: {}", suite::words(&early));
        // The old leader is gone for a moment: they verify the operator's act, and go over for good.
        lab.kill(&Target::Coordinator(leader)).await?;
        wait::until("every host agent to obey the new incarnation", NOTICE_LIMIT, || async {
            let done = lab.cli_at(chosen, &["hosts", "--json"]).await;
            let out = done.map_err(|error| format!("{error:#}"))?.out;
            let text = out.replace(char::is_whitespace, "");
            let connected = text.matches(r#""connected":true"#).count();
            if connected == lab.topology().hosts.len() { Ok(()) } else { Err(out) }
        })
        .await?;
        lab.restart(&Target::Coordinator(leader)).await?;
        let observer = lab.observer()?;
        wait::until("a rollout in the new group", ROLLOUT_LIMIT, || async {
            let done = lab.cli_at(chosen, &start_words(lab)).await;
            let done = done.map_err(|error| format!("{error:#}"))?;
            if done.code == Some(0) { Ok(()) } else { Err(suite::words(&done)) }
        })
        .await?;
        let seen = observer.stop();
        ensure!(seen.overlaps().is_empty(), "two hosts at once: {:?}", seen.overlaps());
        for (alias, version) in lab.versions().await? {
            ensure!(version == TO, "`{alias}` answers {version}");
        }
        // The old majority lives, leads no host agent and starts nothing.
        let old = lab.cli_at(leader, &start_words(lab)).await?;
        ensure!(old.code != Some(0), "the old majority: {}", suite::words(&old));
        // Without its majority whoever is left asks around, is told, and ends.
        let last = Target::Coordinator(*others.last().context("another follower")?);
        if !lab.processes_of(&Target::Coordinator(leader)).await?.is_empty() {
            lab.kill(&Target::Coordinator(leader)).await?;
        }
        wait::until("the last one of the old group to end", NOTICE_LIMIT, || async {
            let found = lab.processes_of(&last).await.map_err(|error| format!("{error:#}"))?;
            if found.is_empty() { Ok(()) } else { Err("it runs".to_owned()) }
        })
        .await?;
        Ok(())
    })
    .await;
}

/// A rollout that is watched to its end.
fn start_words(lab: &Lab) -> Vec<&str> {
    let words = ["rollout", "start", &lab.cluster().name, "--to", TO, "--yes", "--watch"];
    [&words[..], &CANARY[..]].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_from_before_the_growth_that_comes_back_leads_nobody() {
    suite::in_lab(&options(Some(1)), async |lab| {
        let folder = lab.paths().machine(&lab.coordinator(1)?.name);
        let (state, before) = (folder.join("state"), folder.join("state-before"));
        lab.kill(&Target::Coordinator(1)).await?;
        suite::copy_folder(&state, &before)?;
        lab.restart(&Target::Coordinator(1)).await?;
        for number in [2, 3] {
            lab.add_coordinator(number).await?;
        }
        lab.wait_hosts_connected().await?;
        lab.wait_ready(TO, &CANARY).await?;
        let observer = lab.observer()?;
        let id = lab.start_rollout(TO, &CANARY).await?;
        lab.wait_status(&id, "to work on a host", |status| {
            status.hosts.iter().any(|host| matches!(host.phase, HostPhase::Working { .. }))
        })
        .await?;
        lab.kill(&Target::Coordinator(1)).await?;
        let next = lab.leads_other_than(1).await?;
        // The copy believes that it is a group of one, and leads it; every list still names it.
        std::fs::rename(&state, folder.join("state-after"))?;
        std::fs::rename(&before, &state)?;
        lab.restart(&Target::Coordinator(1)).await?;
        suite::say(&format!("the copy runs; coordinator {next} leads"));
        let status = lab.wait_rollout(&id, ROLLOUT_LIMIT).await?;
        suite::say(&suite::summary(&status));
        lab.ensure_succeeded(&id, TO, &observer.stop()).await.map(drop)
    })
    .await;
}
