//! `kill -9` of the host agent and of the coordinator, once during each step of the host sequence,
//! then started again: the rollout ends by itself, no host is down beside another, every node was
//! restarted exactly once, and no acknowledged row of the canary is missing.
//!
//! The agents stand still at named places (SIGSTOP, by `GRAYFIN_STOPPOINTS`, debug builds only), so
//! that each kill hits its step. Could run on a real cluster.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::ensure;
use grayfin_types::status::{HostPhase, RolloutStatus};
use grayfin_types::step::Step;
use integration_tests::suite::{self, CANARY, FROM, ROLLOUT_LIMIT, TO};
use integration_tests::{Lab, Options, Target, wait};

/// One place in each step.
fn places(before: bool) -> Vec<String> {
    let side = if before { "before" } else { "after" };
    Step::ALL.iter().map(|step| format!("act.execute.{step}.{side}")).collect()
}

/// Places in the middle: each right after something was written that says what is about to be done,
/// and one between two renames of the upgrade.
fn places_between() -> Vec<String> {
    let mut places: Vec<String> =
        Step::ALL.iter().map(|step| format!("ledger.started.{step}.after")).collect();
    places.extend(
        ["ledger.captured.after", "ledger.going_down.after", "ledger.first_start.after"]
            .map(str::to_owned),
    );
    places.push("step.upgrade.operation".to_owned());
    places.extend(["ledger.ended.up.after", "ledger.ordered.close.before"].map(str::to_owned));
    places
}

/// Kills by host: the places that are left for its agent to stand at.
type Left = BTreeMap<u8, Vec<String>>;

/// Lets the rollout run to its end; `at` is called for each agent that stands still, with the place.
async fn drive(
    lab: &Lab,
    id: &str,
    left: &mut Left,
    mut at: impl AsyncFnMut(&Lab, u8, &[String]) -> anyhow::Result<()>,
) -> anyhow::Result<RolloutStatus> {
    loop {
        // Either somebody stands, or it is over.
        let hosts: Vec<u8> = left.keys().copied().collect();
        let what = format!("a host agent to stand still, or rollout {id} to end");
        let standing = wait::until(&what, ROLLOUT_LIMIT, || async {
            for host in &hosts {
                if lab.agent_stands(*host).await.map_err(|error| format!("{error:#}"))? {
                    return Ok(Some(*host));
                }
            }
            let status = lab.rollout(id).await.map_err(|error| format!("{error:#}"))?;
            if status.state.is_final() { Ok(None) } else { Err(suite::summary(&status)) }
        })
        .await?;
        let Some(host) = standing else { return lab.rollout(id).await };
        let place = lab.last_stop(host)?;
        suite::say(&format!("host {host} stands at {place}"));
        let places = left.entry(host).or_default();
        let known = places.iter().position(|it| *it == place);
        let Some(known) = known else { anyhow::bail!("nobody asked for a stop at {place}") };
        places.remove(known);
        let places = places.clone();
        at(lab, host, &places).await?;
    }
}

fn ensure_all_reached(left: &Left) -> anyhow::Result<()> {
    let missed: Vec<&String> = left.values().flatten().collect();
    ensure!(missed.is_empty(), "these places were never reached: {missed:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_killed_in_every_step_are_started_again_and_the_rollout_ends() {
    let options = Options { version: FROM.to_owned(), ..Options::default() };
    suite::in_lab(&options, async |lab| {
        let mut left = Left::from([(1, places(true)), (2, places(false)), (3, places_between())]);
        for (host, places) in &left {
            lab.restart_agent_with_stops(*host, places).await?;
        }
        lab.wait_hosts_connected().await?;
        lab.wait_ready(TO, &[]).await?;
        let observer = lab.observer()?;
        let id = lab.start_rollout(TO, &CANARY).await?;
        drive(lab, &id, &mut left, async |lab, host, places| {
            // Dead, and alive again with the places that are left.
            lab.kill(&Target::Agent(host)).await?;
            lab.restart_agent_with_stops(host, places).await
        })
        .await?;
        let seen = observer.stop();
        lab.ensure_succeeded(&id, TO, &seen).await?;
        lab.ensure_restarts(&seen, 2, &BTreeMap::new())?;
        ensure_all_reached(&left)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_coordinator_killed_in_every_step_comes_back_and_the_rollout_ends() {
    let options = Options { version: FROM.to_owned(), ..Options::default() };
    suite::in_lab(&options, async |lab| {
        let mut left = Left::from([(1, places(true)), (2, places(false))]);
        for (host, places) in &left {
            lab.restart_agent_with_stops(*host, places).await?;
        }
        lab.wait_hosts_connected().await?;
        lab.wait_ready(TO, &[]).await?;
        let observer = lab.observer()?;
        let id = lab.start_rollout(TO, &CANARY).await?;
        drive(lab, &id, &mut left, async |lab, host, _| {
            // The agent works on without a coordinator for a while: it takes a second to come back.
            lab.kill(&Target::Coordinator(1)).await?;
            lab.agent_goes_on(host).await?;
            lab.restart(&Target::Coordinator(1)).await
        })
        .await?;
        let seen = observer.stop();
        lab.ensure_succeeded(&id, TO, &seen).await?;
        lab.ensure_restarts(&seen, 2, &BTreeMap::new())?;
        ensure_all_reached(&left)
    })
    .await;
}

/// What the coordinator does itself between two hosts: granting, soaking, closing, verifying.
#[tokio::test(flavor = "multi_thread")]
async fn the_coordinator_killed_between_hosts_goes_on_where_it_was() {
    let options = Options { version: FROM.to_owned(), time_scale: 0.05, ..Options::default() };
    suite::in_lab(&options, async |lab| {
        let observer = lab.observer()?;
        let id = lab.start_rollout(TO, &CANARY).await?;
        let mut killed = BTreeSet::new();
        let what = format!("rollout {id} to end");
        let killed_in = |status: &RolloutStatus| {
            let phase = |wanted: &HostPhase| status.hosts.iter().any(|it| it.phase == *wanted);
            [HostPhase::Granting, HostPhase::Recovering, HostPhase::Closing]
                .into_iter()
                .filter(phase)
                .map(|phase| format!("{phase:?}"))
                .chain([status.state.to_string()])
                .collect::<Vec<String>>()
        };
        loop {
            let status = wait::until(&what, ROLLOUT_LIMIT, || async {
                let status = lab.rollout(&id).await.map_err(|error| format!("{error:#}"))?;
                let new = killed_in(&status).iter().any(|phase| !killed.contains(phase));
                if status.state.is_final() || new {
                    Ok(status)
                } else {
                    Err(suite::summary(&status))
                }
            })
            .await?;
            if status.state.is_final() {
                break;
            }
            suite::say(&format!("killed while {:?}", killed_in(&status)));
            killed.extend(killed_in(&status));
            lab.restart(&Target::Coordinator(1)).await?;
        }
        let seen = observer.stop();
        lab.ensure_succeeded(&id, TO, &seen).await?;
        lab.ensure_restarts(&seen, 2, &BTreeMap::new())?;
        ensure!(killed.contains("Recovering"), "it was never killed while it soaked: {killed:?}");
        Ok(())
    })
    .await;
}
