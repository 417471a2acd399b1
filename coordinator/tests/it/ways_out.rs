//! The ways out of a state in which nothing goes on by itself, from the command line.

use grayfin_types::status::{HoldStatus, HostLine, RolloutState, RolloutStatus};
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    cli::grayfin,
    common::{self, DEADLINE},
    rollout::Lab,
    world::NEW,
};

/// Starts a rollout whose first host never gets on, and returns its id and the hold's token.
async fn stuck(lab: &Lab) -> (String, u64) {
    lab.fakes[0].stuck.send_replace(true);
    lab.fakes[1].stuck.send_replace(true);
    let start = ["rollout", "start", "trade", "--to", NEW, "--canary", "off", "--yes", "--json"];
    let started: Value = grayfin(lab, &start).await.expect(0).document();
    let id = started["id"].as_str().unwrap().to_owned();
    let end = Instant::now() + DEADLINE;
    loop {
        let holds = grayfin(lab, &["hold", "show", "trade", "--json"]).await.expect(0);
        let holds: Vec<HoldStatus> = holds.document();
        if holds[0].state == "held" {
            return (id, holds[0].token.0);
        }
        assert!(Instant::now() < end, "no hold: {holds:?}");
    }
}

#[test]
fn a_hold_is_broken_by_token_reason_and_name_and_its_host_attested_as_powered_off() {
    let lab = Lab::new();
    common::process(async {
        let (running, mut fakes) = lab.up().await;
        let (id, token) = stuck(&lab).await;
        let held = lab.fakes[0].host.to_string();
        let (right, wrong) = (token.to_string(), (token + 1).to_string());
        let shoot = ["hold", "break", "trade", "--reason", "its power supply burns"];
        // Nobody is there to be asked; an old token; the wrong host.
        let asked = grayfin(&lab, &[&shoot[..], &["--token", &right]].concat()).await.expect(2);
        assert!(asked.err.contains(&format!("`--confirm {held}`")), "{}", asked.err);
        assert!(asked.err.contains("gates: "), "the gates are shown: {}", asked.err);
        let sure = [&shoot[..], &["--confirm", &held]].concat();
        let old = grayfin(&lab, &[&sure[..], &["--token", &wrong]].concat()).await.expect(1);
        assert!(old.err.contains("error GF0602: "), "{}", old.err);
        let other = [&shoot[..], &["--confirm", "db3", "--token", &right]].concat();
        assert!(grayfin(&lab, &other).await.expect(1).err.contains("nothing was done"));
        let silent = ["hold", "break", "trade", "--token", &right, "--confirm", &held];
        grayfin(&lab, &silent).await.expect(2);
        let status = ["rollout", "status", &id, "--json"];
        let before: RolloutStatus = grayfin(&lab, &status).await.expect(0).document();
        assert_eq!(before.state, RolloutState::Running);

        let attest = ["hold", "attest", &held, "--reason", "the plug is out", "--confirm", &held];
        let attest = [&attest[..], &["--token", &right]].concat();
        let lives = grayfin(&lab, &attest).await.expect(1);
        assert!(lives.err.contains("is connected: it is not powered off"), "{}", lives.err);

        let broken = [&sure[..], &["--token", &right, "--json"]].concat();
        let broken: Value = grayfin(&lab, &broken).await.expect(0).document();
        assert_eq!(broken["accepted"], true);
        let after: RolloutStatus = grayfin(&lab, &status).await.expect(0).document();
        assert_eq!(after.state, RolloutState::Failed);
        let log = grayfin(&lab, &["rollout", "watch", &id]).await;
        assert!(log.out.contains("its power supply burns"), "{}", log.out);
        let holds: Vec<HoldStatus> =
            grayfin(&lab, &["hold", "show", "--json"]).await.expect(0).document();
        assert!(holds.iter().any(|h| h.state == "broken" && h.token.0 == token));

        // The machine is switched off.
        fakes.abort_all();
        while fakes.join_next().await.is_some() {}
        let end = Instant::now() + DEADLINE;
        while grayfin(&lab, &attest).await.code != 0 {
            assert!(Instant::now() < end, "it stays connected");
        }
        let hosts: Vec<HostLine> = grayfin(&lab, &["hosts", "--json"]).await.expect(0).document();
        let line = hosts.iter().find(|l| l.host.as_str() == held).unwrap();
        assert!(line.problems.iter().any(|p| p.detail.contains("the plug is out")), "{line:?}");
        running.stop().await.unwrap();
    });
}

#[test]
fn a_rollout_with_a_host_left_out_ends_as_incomplete() {
    let lab = Lab::new();
    common::process(async {
        let (running, _fakes) = lab.up().await;
        let (id, _) = stuck(&lab).await;
        for verb in ["resume", "retry", "rollback-host", "skip"] {
            let refused = grayfin(&lab, &["rollout", verb, &id]).await.expect(1);
            assert!(refused.err.starts_with("error GF0705: "), "{verb}: {}", refused.err);
        }
        let skip = ["rollout", "skip", &id, "--host", "db3", "--reason", "it is being repaired"];
        grayfin(&lab, &skip).await.expect(0);
        for fake in &lab.fakes {
            fake.stuck.send_replace(false);
        }
        let watched = grayfin(&lab, &["rollout", "watch", &id]).await.expect(1);
        assert!(watched.out.contains("it is being repaired"), "{}", watched.out);
        let status: RolloutStatus =
            grayfin(&lab, &["rollout", "status", &id, "--json"]).await.expect(0).document();
        assert_eq!(status.state, RolloutState::Incomplete);
        let explained = grayfin(&lab, &["explain", &id]).await.expect(0);
        assert!(explained.out.contains("left out `db3`"), "{}", explained.out);
        running.stop().await.unwrap();
    });
}

#[test]
fn recovery_is_suspended_for_each_host_and_runs_again_before_the_next() {
    let lab = Lab::new();
    common::process(async {
        let (running, _fakes) = lab.up().await;
        let start = ["rollout", "start", "trade", "--to", NEW, "--canary", "off", "--yes"];
        let start = [&start[..], &["--recovery", "suspend", "--watch", "--json"]].concat();
        let watched = grayfin(&lab, &start).await.expect(0);
        let of = |state: &str| watched.out.matches(&format!("\"state\":\"{state}\"")).count();
        assert_eq!((of("recorded"), of("in force"), of("paid")), (3, 3, 3), "{}", watched.out);
        lab.check_upgraded();
        running.stop().await.unwrap();
    });
}
