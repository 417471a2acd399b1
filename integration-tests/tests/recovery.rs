//! A recovery that oscillates after a host: it ends, everything is well for a moment, and it begins
//! again, several times. The rollout stands, says each time for what, and goes on when it is quiet.
//!
//! Needs the stand-in for its fault (a recovery that does not end); the data node that dies again and
//! again could be a real one.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};
use grayfin_types::Code;
use grayfin_types::event::{Body, Event};
use grayfin_types::status::{HostPhase, RolloutState, RolloutStatus};
use integration_tests::suite::{self, CANARY, FROM, NOTICE_LIMIT, ROLLOUT_LIMIT, TO};
use integration_tests::{Lab, Options, Target, wait};
use standin::config::Role;
use standin::faults::Kind;

/// How often it begins again.
const ROUNDS: usize = 3;
/// Time enough to see that all is well and to end that.
const SOAK: &str = "soak_ms=6000";

fn waits_for(status: &RolloutStatus, code: Code) -> bool {
    status.waiting.iter().any(|reason| reason.code == code)
}

/// Waits for the recovery of a chunk that is named; meanwhile no other host is begun with.
async fn recovers(lab: &Lab, id: &str, host: &str) -> anyhow::Result<()> {
    let what = "to wait for recovering chunks";
    let status = lab.wait_status(id, what, |it| waits_for(it, Code::ChunksRecovering)).await?;
    let reason = status.waiting.iter().find(|it| it.code == Code::ChunksRecovering);
    let reason = reason.context("just seen")?;
    ensure!(reason.subject.starts_with('/'), "no chunk's path: {reason:?}");
    ensure!(status.state == RolloutState::Running, "{}", suite::summary(&status));
    let begun = status.hosts.iter().filter(|it| it.started_ms.is_some());
    let begun: Vec<&str> = begun.map(|it| it.host.as_str()).collect();
    ensure!(begun == [host], "{}", suite::summary(&status));
    // Which chunks recover changes from look to look: both must come to name the same one.
    wait::until("`explain` to name the chunk", NOTICE_LIMIT, || async {
        let status = lab.rollout(id).await.map_err(|error| format!("{error:#}"))?;
        let explained = lab.cli(&["explain", id]).await.map_err(|error| format!("{error:#}"))?;
        let explained = suite::words(&explained);
        let named = status
            .waiting
            .iter()
            .any(|it| it.code == Code::ChunksRecovering && explained.contains(&it.subject));
        if named && explained.contains("GF0405") { Ok(()) } else { Err(explained) }
    })
    .await
}

/// The recovery ends, all is well and has been for a moment, and then the data node dies and misses
/// rows: it begins again.
async fn ends_and_begins_again(lab: &Lab, id: &str, data: &str) -> anyhow::Result<()> {
    lab.clear_fault(data, Kind::NeverFinishRecovery)?;
    let soaks = |status: &RolloutStatus| {
        let well = |it: &grayfin_types::gate::Reason| it.evidence.contains("has been well for");
        waits_for(status, Code::Soaking) && status.waiting.iter().any(well)
    };
    lab.wait_status(id, "to soak", soaks).await?;
    lab.kill(&Target::Node(data.to_owned())).await?;
    lab.wait_status(id, "to miss the data node", |it| waits_for(it, Code::NodeDown)).await?;
    lab.fault(data, Kind::NeverFinishRecovery, "")?;
    lab.restart(&Target::Node(data.to_owned())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_that_begins_again_and_again_is_waited_for_until_it_is_quiet() {
    let policy_cfg = vec![SOAK.to_owned()];
    let options = Options { version: FROM.to_owned(), policy_cfg, ..Options::default() };
    suite::in_lab(&options, async |lab| {
        let first = lab.order().await?[0];
        let name = lab.host(first)?.name.clone();
        let data = lab.cluster().on_host(first, Role::DataNode).context("a data node")?;
        let data = data.alias().to_owned();
        lab.fault(&data, Kind::NeverFinishRecovery, "")?;
        let observer = lab.observer()?;
        let id = lab.start_rollout(TO, &CANARY).await?;
        recovers(lab, &id, &name).await?;
        for round in 1..=ROUNDS {
            ends_and_begins_again(lab, &id, &data).await?;
            recovers(lab, &id, &name).await?;
            suite::say(&format!("it began again, {round} of {ROUNDS}"));
        }
        let seen = observer.report();
        let disturbed: BTreeSet<&str> = seen
            .nodes_that_changed()
            .iter()
            .filter_map(|alias| seen.node(alias))
            .map(|node| node.host.as_str())
            .collect();
        ensure!(disturbed == BTreeSet::from([name.as_str()]), "{disturbed:?}");
        lab.clear_fault(&data, Kind::NeverFinishRecovery)?;
        let status = lab.wait_rollout(&id, ROLLOUT_LIMIT).await?;
        ensure!(status.hosts.iter().all(|it| it.phase == HostPhase::Done), "{status:?}");
        let seen = observer.stop();
        lab.ensure_succeeded(&id, TO, &seen).await?;
        let others = BTreeMap::from([(data.as_str(), 2 + ROUNDS)]);
        lab.ensure_restarts(&seen, 2, &others)?;
        told_each_time(lab, &id).await
    })
    .await;
}

/// Who reads the events later sees every turn.
async fn told_each_time(lab: &Lab, id: &str) -> anyhow::Result<()> {
    let watched = lab.cli(&["rollout", "watch", id, "--json"]).await?;
    let events: Result<Vec<Event>, _> = watched.out.lines().map(serde_json::from_str).collect();
    let recovering = |event: &&Event| {
        matches!(&event.body, Body::Waiting { reasons }
            if reasons.iter().any(|it| it.code == Code::ChunksRecovering))
    };
    let told = events?.iter().filter(recovering).count();
    ensure!(told > ROUNDS, "the recovery was told {told} times");
    Ok(())
}
