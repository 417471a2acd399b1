//! Three coordinators: a rollout survives the loss of the leader, grows and shrinks its group while
//! it runs, and an old leader that stood still at a bad moment does no harm when it goes on.

use std::collections::BTreeMap;

use anyhow::ensure;
use grayfin_types::event::{Body, Event};
use grayfin_types::status::HostPhase;
use integration_tests::hostns::Command;
use integration_tests::suite::{self, FROM, NOTICE_LIMIT, ROLLOUT_LIMIT, TO};
use integration_tests::{Lab, Options, Target, processes, wait};
use rustix::process::Signal;

/// The canary writes all the time, a little: what is tested is that nothing is lost.
const CANARY: [&str; 4] = ["--canary", "new", "--rate", "60"];

/// Of two others one is elected by chance; so many times in a row the wrong one is one in a thousand.
const TRANSFERS_MAX: u32 = 10;

fn options(coordinators: u8, joined: Option<u8>) -> Options {
    Options {
        version: FROM.to_owned(),
        coordinators,
        joined,
        time_scale: 0.05,
        ..Options::default()
    }
}

/// Watches a rollout from its first event to its end through the command line. Each line is one
/// event: they must come without a gap and without a duplicate, whoever leads.
async fn watch(lab: &Lab, id: &str) -> anyhow::Result<Vec<Event>> {
    let mut events: Vec<Event> = Vec::new();
    let mut odd = Vec::new();
    let code = lab
        .stream(&["rollout", "watch", id, "--json"], ROLLOUT_LIMIT, |line| {
            match serde_json::from_str::<Event>(line) {
                Ok(event) => events.push(event),
                Err(_) => odd.push(line.to_owned()),
            }
        })
        .await?;
    ensure!(code == Some(0), "`rollout watch` ended with {code:?}: {odd:?}");
    for (place, event) in events.iter().enumerate() {
        let wanted = u64::try_from(place)? + 1;
        ensure!(event.seq.0 == wanted, "event {} came where {wanted} was due", event.seq);
    }
    Ok(events)
}

/// Waits until a host works under its hold.
async fn wait_in_a_host(lab: &Lab, id: &str) -> anyhow::Result<()> {
    lab.wait_status(id, "to work on a host", |status| {
        status.hosts.iter().any(|host| matches!(host.phase, HostPhase::Working { .. }))
    })
    .await
    .map(drop)
}

fn leads_seen(events: &[Event]) -> Vec<u64> {
    let lease = |event: &Event| {
        if let Body::Lease { coordinator, .. } = event.body { Some(coordinator) } else { None }
    };
    events.iter().filter_map(lease).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_killed_in_the_middle_of_a_host_is_replaced_and_the_rollout_ends() {
    suite::in_lab(&options(3, None), async |lab| {
        let observer = lab.observer()?;
        let id = lab.start_rollout(TO, &CANARY).await?;
        let kill = async {
            wait_in_a_host(lab, &id).await?;
            let first = lab.leading_coordinator().await?;
            lab.kill(&Target::Coordinator(first)).await?;
            let next = lab.leading_coordinator().await?;
            ensure!(next != first, "coordinator {first} is dead and leads");
            suite::say(&format!("coordinator {first} was killed, {next} leads"));
            anyhow::Ok((first, next))
        };
        let (killed, events) = tokio::join!(kill, watch(lab, &id));
        let ((first, next), events) = (killed?, events?);
        ensure!(leads_seen(&events).contains(&u64::from(next)), "{:?}", leads_seen(&events));
        let seen = observer.stop();
        lab.ensure_succeeded(&id, TO, &seen).await?;
        lab.ensure_restarts(&seen, 2, &BTreeMap::new())?;
        // It comes back as a follower that has everything.
        lab.restart(&Target::Coordinator(first)).await?;
        wait::until("the one that was killed to catch up", NOTICE_LIMIT, || async {
            let done = lab.cli(&["coordinator", "status", "--json"]).await;
            let out = done.map_err(|error| format!("{error:#}"))?.out;
            let answer: serde_json::Value =
                serde_json::from_str(&out).map_err(|error| error.to_string())?;
            let lines = answer["coordinators"].as_array().cloned().unwrap_or_default();
            let whole = lines.iter().all(|one| one["reached"] == true && one["behind"] == 0);
            if whole && lines.len() == 3 { Ok(()) } else { Err(answer.to_string()) }
        })
        .await
    })
    .await;
}

/// A removed coordinator ends, and does so again when somebody starts it again, while host agents and
/// the command line still have it in their lists.
async fn ended_by_itself(lab: &Lab, number: u8) -> anyhow::Result<()> {
    let target = Target::Coordinator(number);
    wait::until("the removed coordinator to end", NOTICE_LIMIT, || async {
        let found = lab.processes_of(&target).await.map_err(|error| format!("{error:#}"))?;
        if found.is_empty() { Ok(()) } else { Err("it runs".to_owned()) }
    })
    .await?;
    let name = &lab.coordinator(number)?.name;
    let folder = lab.paths().machine(name);
    let program = lab.paths().programs().join("grayfin").display().to_string();
    let config = folder.join("coordinator.toml").display().to_string();
    let argv = [&program, "serve", "--config", &config].map(str::to_owned).to_vec();
    let again = Command { argv, cwd: folder, env: BTreeMap::new() };
    let done = lab.machine(name).run(again, NOTICE_LIMIT).await?;
    ensure!(done.code == Some(4) && done.output.contains("GF0710"), "{done:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_group_grows_to_five_and_shrinks_to_three_while_a_rollout_runs() {
    suite::in_lab(&options(5, Some(1)), async |lab| {
        let observer = lab.observer()?;
        let id = lab.start_rollout(TO, &CANARY).await?;
        let change = async {
            wait_in_a_host(lab, &id).await?;
            for number in 2..=5 {
                lab.add_coordinator(number).await?;
            }
            suite::say("the group has five");
            // The first one hands the lead over and is taken out, and one more.
            for _ in 0..5 {
                if lab.leading_coordinator().await? != 1 {
                    break;
                }
                lab.cli(&["coordinator", "transfer-lead", "--reason", "a test"]).await?;
            }
            let next = lab.leading_coordinator().await?;
            ensure!(next != 1, "the lead stays with coordinator 1");
            let other = if next == 2 { "3" } else { "2" };
            for gone in ["1", other] {
                let done = lab.cli(&["coordinator", "remove", gone, "--reason", "a test"]).await?;
                ensure!(done.code == Some(0), "{}", suite::words(&done));
            }
            suite::say("the group has three again");
            // Removed, but still running and still in every list: it can do nothing.
            let refused = lab.cli(&["coordinator", "remove", "1"]).await?;
            ensure!(refused.code == Some(0), "a repeat: {}", suite::words(&refused));
            ended_by_itself(lab, 1).await?;
            anyhow::Ok(())
        };
        let (changed, events) = tokio::join!(change, watch(lab, &id));
        changed?;
        let acts = events?
            .iter()
            .filter(|e| matches!(&e.body, Body::Operator { action, .. } if action.starts_with("coordinator ")))
            .count();
        ensure!(acts > 0, "the event log does not tell of the changes");
        let seen = observer.stop();
        lab.ensure_succeeded(&id, TO, &seen).await?;
        lab.ensure_restarts(&seen, 2, &BTreeMap::new())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stood_still_before_sending_an_order_does_no_harm_when_it_goes_on() {
    suite::in_lab(&options(3, None), async |lab| {
        let old = lab.leading_coordinator().await?;
        let stop = ("GRAYFIN_STOPPOINTS".to_owned(), "send.run.before".to_owned());
        lab.restart_with(&Target::Coordinator(old), &BTreeMap::from([stop])).await?;
        // The others elected one of them meanwhile; it is handed back.
        for _ in 0..TRANSFERS_MAX {
            if lab.leading_coordinator().await? == old {
                break;
            }
            lab.cli(&["coordinator", "transfer-lead"]).await?;
        }
        ensure!(
            lab.leading_coordinator().await? == old,
            "the lead does not come back to coordinator {old}"
        );
        lab.wait_hosts_connected().await?;
        lab.wait_ready(TO, &[]).await?;
        let observer = lab.observer()?;
        let id = lab.start_rollout(TO, &CANARY).await?;
        wait::until("the leader to stand still", ROLLOUT_LIMIT, || async {
            let found = lab.processes_of(&Target::Coordinator(old)).await;
            let found = found.map_err(|error| format!("{error:#}"))?;
            let stopped = |pid| processes::stat(pid).is_some_and(|stat| stat.state == 'T');
            if found.iter().any(|process| stopped(process.pid)) {
                Ok(())
            } else {
                Err("it goes on".to_owned())
            }
        })
        .await?;
        suite::say(&format!("coordinator {old} stands still with an order in its hand"));
        // Another one leads, the order was sent by it, the hold was released and the next granted.
        lab.wait_status(&id, "to be done with a host", |status| {
            status.hosts.iter().any(|host| host.phase == HostPhase::Done)
        })
        .await?;
        lab.signal(&Target::Coordinator(old), Signal::CONT).await?;
        let seen = {
            lab.wait_rollout(&id, ROLLOUT_LIMIT).await?;
            observer.stop()
        };
        lab.ensure_succeeded(&id, TO, &seen).await?;
        lab.ensure_restarts(&seen, 2, &BTreeMap::new())
    })
    .await;
}
