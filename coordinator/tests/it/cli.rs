//! The command line as a process: what goes to stdout, what to stderr, and the exit codes.

use std::process::{Command, Stdio};

use grayfin_proto::identity::Identity;
use grayfin_types::{
    event::{Body, Event},
    gate::Decision,
    plan::PlanAnswer,
    status::{Explanation, HoldStatus, HostLine, RolloutState, RolloutStatus},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    common::{self, Pki},
    coordinator::free_port,
    rollout::Lab,
    world::NEW,
};

/// What a run left behind.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Reads the one document on stdout.
    pub fn document<T: DeserializeOwned>(&self) -> T {
        assert_eq!(self.out.lines().count(), 1, "{}\n{}", self.out, self.err);
        serde_json::from_str(&self.out).unwrap()
    }

    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }
}

fn command(pki: &Pki, addresses: &str, args: &[&str]) -> Command {
    let files = pki.files(&Identity::Operator("ann".to_owned()));
    let mut command = Command::new(env!("CARGO_BIN_EXE_grayfin"));
    command
        .args(args)
        .env("GRAYFIN_COORDINATORS", addresses)
        .env("GRAYFIN_CA", &files.ca)
        .env("GRAYFIN_CERT", &files.cert)
        .env("GRAYFIN_KEY", &files.key)
        .env("NO_COLOR", "1")
        .env_remove("GRAYFIN_CLUSTER")
        .stdin(Stdio::null());
    command
}

fn ran(mut command: Command) -> Ran {
    let output = command.output().unwrap();
    Ran {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs the program against the lab, while its coordinator goes on in other threads.
pub async fn grayfin(lab: &Lab, args: &[&str]) -> Ran {
    let command = command(&lab.pki, &format!("127.0.0.1:{}", lab.port), args);
    tokio::task::spawn_blocking(move || ran(command)).await.unwrap()
}

fn events(out: &str) -> Vec<Event> {
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn check_gapless(events: &[Event]) {
    for (event, seq) in events.iter().zip(1..) {
        assert_eq!(event.seq.0, seq);
    }
}

#[test]
fn a_whole_rollout_from_the_command_line() {
    let lab = Lab::new();
    common::process(async {
        let (running, _fakes) = lab.up().await;
        let plan = ["plan", "trade", "--to", NEW, "--canary", "off"];
        let shown = grayfin(&lab, &plan).await.expect(0);
        assert!(shown.out.starts_with("plan ") && shown.out.contains("\ngates: "), "{}", shown.out);
        let answer: PlanAnswer =
            grayfin(&lab, &[&plan[..], &["--json"]].concat()).await.expect(0).document();
        assert!(answer.ready);
        let preflight = ["preflight", "trade", "--to", NEW, "--canary", "off"];
        let ready = grayfin(&lab, &preflight).await.expect(0);
        assert!(ready.out.ends_with("ready: a rollout could start now\n"), "{}", ready.out);

        let start = ["rollout", "start", "trade", "--to", NEW, "--canary", "off"];
        // Nobody is there to say yes.
        let asked = grayfin(&lab, &start).await.expect(2);
        assert!(asked.out.is_empty() && asked.err.contains("hint: `--yes`"), "{}", asked.err);
        let started: Value =
            grayfin(&lab, &[&start[..], &["--yes", "--json"]].concat()).await.expect(0).document();
        let id = started["id"].as_str().unwrap().to_owned();

        let again = grayfin(&lab, &[&start[..], &["--yes"]].concat()).await.expect(1);
        assert!(again.err.starts_with("error GF0415: "), "{}", again.err);

        let watched = grayfin(&lab, &["rollout", "watch", &id, "--json"]).await.expect(0);
        let all = events(&watched.out);
        check_gapless(&all);
        assert!(matches!(all.last().unwrap().body, Body::State { state: RolloutState::Succeeded }));
        let later = grayfin(&lab, &["rollout", "watch", &id, "--json", "--from", "5"]).await;
        assert_eq!(events(&later.expect(0).out), all[4..]);
        let beyond = grayfin(&lab, &["rollout", "watch", &id, "--json", "--from", "99999"]).await;
        assert!(beyond.expect(0).out.is_empty());
        let plain = grayfin(&lab, &["rollout", "watch", &id]).await.expect(0);
        assert_eq!(plain.out.lines().filter(|l| l.contains(": held with token")).count(), 3);
        assert!(plain.out.contains(": succeeded, "), "{}", plain.out);
        lab.check_upgraded();

        let status: RolloutStatus =
            grayfin(&lab, &["rollout", "status", &id, "--json"]).await.expect(0).document();
        assert_eq!((status.state, status.by.as_str()), (RolloutState::Succeeded, "ann"));
        let newest: RolloutStatus =
            grayfin(&lab, &["rollout", "status", "--json"]).await.expect(0).document();
        assert_eq!(newest.id, status.id);
        let list: Vec<RolloutStatus> =
            grayfin(&lab, &["rollout", "list", "--json"]).await.expect(0).document();
        assert_eq!(list.len(), 1);
        let hosts: Vec<HostLine> = grayfin(&lab, &["hosts", "--json"]).await.expect(0).document();
        assert_eq!(hosts.len(), 3);
        let holds: Vec<HoldStatus> =
            grayfin(&lab, &["hold", "show", "--json"]).await.expect(0).document();
        assert_eq!(holds[0].state, "none");
        let explained: Explanation =
            grayfin(&lab, &["explain", &id, "--json"]).await.expect(0).document();
        assert_eq!(explained.state, RolloutState::Succeeded);
        let coordinators: Value =
            grayfin(&lab, &["coordinators", "--json"]).await.expect(0).document();
        assert_eq!(coordinators["leader"], 1);
        let paused = grayfin(&lab, &["rollout", "pause", &id]).await.expect(1);
        assert!(paused.err.starts_with("error GF0705: "), "{}", paused.err);
        running.stop().await.unwrap();
    });
}

#[test]
fn a_refused_start_says_why_and_touches_nothing() {
    let lab = Lab::new();
    common::process(async {
        let (running, _fakes) = lab.up().await;
        for (args, code) in [
            (&["--to", "latest"][..], "GF0301"),
            (&["--to", "2.00.8.4"], "GF0312"),
            (&["--to", NEW, "--override", "controller-quorum=please"], "GF0703"),
        ] {
            let start = ["rollout", "start", "trade", "--canary", "off", "--yes"];
            let refused = grayfin(&lab, &[&start[..], args].concat()).await.expect(1);
            assert!(refused.err.starts_with(&format!("error {code}: ")), "{}", refused.err);
            assert!(refused.err.contains("\n  cause: ") && refused.err.contains("\nhint: "));
            assert!(refused.out.is_empty());
        }
        let preflight = ["preflight", "trade", "--to", "2.00.8.4", "--json"];
        let answer: PlanAnswer = grayfin(&lab, &preflight).await.expect(1).document();
        assert!(!answer.ready);
        let stop = |f: &grayfin_types::gate::Finding| matches!(f.decision, Decision::Stop { .. });
        assert!(answer.findings.iter().any(stop));
        for id in ["nosuch", "r1"] {
            let missing = grayfin(&lab, &["rollout", "status", id]).await.expect(1);
            assert!(missing.err.starts_with("error GF0704: "), "{}", missing.err);
        }
        let unheld = grayfin(&lab, &["hold", "break", "trade", "--token", "1", "--reason", "x"]);
        assert!(unheld.await.expect(1).err.starts_with("error GF0704: "));
        running.stop().await.unwrap();
    });
}

#[test]
fn a_watch_outlives_the_coordinator_that_it_watches_on() {
    let lab = Lab::new();
    let (address, nobody) = (format!("127.0.0.1:{}", lab.port), free_port());
    let id = common::process(async {
        let (_running, _fakes) = lab.up().await;
        // It pauses by itself, so that it is not over before its coordinator is.
        let start = ["rollout", "start", "trade", "--to", NEW, "--canary", "off", "--yes"];
        let start = [&start[..], &["--json", "--pause-after", "first"]].concat();
        let started: Value = grayfin(&lab, &start).await.expect(0).document();
        started["id"].as_str().unwrap().to_owned()
    });
    // The first coordinator is dead; somebody watches already, with a dead address in the list.
    let addresses = format!("127.0.0.1:{nobody},{address}");
    let watcher = command(&lab.pki, &addresses, &["rollout", "watch", &id, "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let watched = std::thread::spawn(move || watcher.wait_with_output().unwrap());
    common::process(async {
        let (running, _fakes) = lab.up().await;
        let end = tokio::time::Instant::now() + common::DEADLINE;
        while grayfin(&lab, &["rollout", "resume", &id]).await.code != 0 {
            if tokio::time::Instant::now() > end {
                let explained = grayfin(&lab, &["explain", &id]).await;
                panic!("it never paused: {}", explained.out);
            }
        }
        let output = tokio::task::spawn_blocking(|| watched.join().unwrap()).await.unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{err}");
        let all = events(&String::from_utf8(output.stdout).unwrap());
        check_gapless(&all);
        running.stop().await.unwrap();
    });
    lab.check_upgraded();
}

#[test]
fn bad_command_lines_and_missing_settings_end_with_2() {
    let pki = Pki::new();
    for args in [
        &["rollout", "start", "trade"][..],
        &["rollout", "watch", "a/b"],
        &["plan", "trade", "--to", "2.00.8.12", "--soak", "soon"],
        &["nonsense"],
    ] {
        let refused = ran(command(&pki, "127.0.0.1:1", args)).expect(2);
        assert!(refused.out.is_empty() && !refused.err.is_empty());
    }
    let mut bare = command(&pki, "", &["hosts"]);
    bare.env_remove("GRAYFIN_COORDINATORS");
    let refused = ran(bare).expect(2);
    assert!(refused.err.contains("GRAYFIN_COORDINATORS"), "{}", refused.err);
    let mut blind = command(&pki, "127.0.0.1:1", &["hosts"]);
    blind.env("GRAYFIN_CERT", "/nonexistent/cert.pem");
    let refused = ran(blind).expect(2);
    assert!(refused.err.contains("/nonexistent/cert.pem"), "{}", refused.err);
    for args in [&["--help"][..], &["--version"], &["rollout", "start", "--help"]] {
        let helped = ran(command(&pki, "127.0.0.1:1", args)).expect(0);
        assert!(helped.err.is_empty() && !helped.out.is_empty());
    }
    let help = ran(command(&pki, "127.0.0.1:1", &["--help"]));
    assert!(help.out.contains("Exit codes: 0 done;"), "{}", help.out);
}

#[test]
fn when_nobody_answers_every_address_is_named_with_its_reason() {
    let pki = Pki::new();
    let (a, b) = (free_port(), free_port());
    let coordinators =
        ran(command(&pki, &format!("127.0.0.1:{a},127.0.0.1:{b}"), &["coordinators"])).expect(1);
    assert!(coordinators.err.starts_with("error GF0706: "), "{}", coordinators.err);
    for port in [a, b] {
        assert!(coordinators.err.contains(&format!("`127.0.0.1:{port}`")), "{}", coordinators.err);
    }
    assert!(coordinators.err.contains("refused"), "{}", coordinators.err);
}
