//! Whole texts as people see them.

use grayfin_types::{
    Code, RolloutId, Seq, Token,
    event::{Body, Event},
    facts::{BackupClass, BackupPart, MemoryObject, NodeRole, NodeSpec, Probe},
    gate::Reason,
    plan::{
        CanarySpec, Compatibility, HostPlan, Override, Package, PauseAfter, Plan, Policy,
        StaysAlive, UpgradeMode,
    },
    status::{
        CanaryStatus, Explanation, HoldStatus, HostPhase, HostStatus, RolloutState, RolloutStatus,
    },
    step::{Happened, Report, SequenceState, Step},
};
use jiff::tz::TimeZone;

use super::{board::Board, bytes, clock, count, duration, events, plan, status};

const START_MS: u64 = 1_700_000_000_000;

fn host_plan(host: &str, number: u8, leads: bool) -> HostPlan {
    let node = |name: &str, role| NodeSpec {
        alias: format!("{name}{number}").parse().unwrap(),
        role,
        address: "10.0.0.1".to_owned(),
        port: 8920,
        compute_group: String::new(),
    };
    let part = |node: &str, class, what: &str, path: &str, size| BackupPart {
        node: node.to_owned(),
        class,
        what: what.to_owned(),
        path: path.to_owned(),
        bytes: size,
    };
    let reason = if leads {
        "last: it keeps the leading DolphinDB controller `ctl1`, so leadership changes once at most"
    } else {
        "it does not keep the leading DolphinDB controller, which is `ctl1` now"
    };
    HostPlan {
        host: host.parse().unwrap(),
        reason: reason.to_owned(),
        from: Some("2.00.8.10".parse().unwrap()),
        already_done: false,
        nodes: vec![node("ctl", NodeRole::Controller), node("node", NodeRole::DataNode)],
        has_leader: leads,
        stays: StaysAlive {
            controllers: 2,
            controllers_of: 3,
            data_nodes: 2,
            data_nodes_of: 3,
            replicas_min: Some(1),
            groups: vec![("streaming 2".to_owned(), 2, 3)],
        },
        backup: vec![
            part("ctl1", BackupClass::Must, "Raft log", "/d/raft", Probe::Known(Some(3 << 20))),
            part("", BackupClass::Should, "web folder", "/d/web", Probe::Known(Some(512))),
            part("node1", BackupClass::Must, "PKEY metadata", "/d/pkey", Probe::Known(None)),
        ],
        backup_dir: "/backup".to_owned(),
        memory: if leads {
            vec![MemoryObject {
                node: "node1".parse().unwrap(),
                kind: "stream_table".to_owned(),
                name: "ticks".to_owned(),
                provided_for: false,
            }]
        } else {
            Vec::new()
        },
    }
}

pub(super) fn sample_plan() -> Plan {
    Plan {
        hash: "0123456789abcdef".repeat(4),
        cluster: "trade".parse().unwrap(),
        target: "2.00.8.12".parse().unwrap(),
        mode: UpgradeMode::Native,
        package: Package {
            file: "DolphinDB_V2.00.8.12.zip".to_owned(),
            sha256: "ab".repeat(32),
            bytes: 12 << 20,
        },
        compatibility: Compatibility {
            level: None,
            patch: true,
            why: "2.00.8.10 to 2.00.8.12 changes the fourth number alone".to_owned(),
        },
        hosts: vec![host_plan("db2", 2, false), host_plan("db1", 1, true)],
        overrides: vec![Override {
            gate: "partition-capacity".to_owned(),
            reason: "no new partitions".to_owned(),
            by: "ann".to_owned(),
        }],
        accepted_losses: vec!["node1/stream_table/ticks".to_owned()],
        policy: Policy::default(),
        canary: CanarySpec::New { rows_per_second: 100 },
        windows: Vec::new(),
        pause_after: PauseAfter::Never,
        point_of_no_return: "start: the new version rewrites the metadata".to_owned(),
    }
}

#[test]
fn a_plan_in_full() {
    let expected = "\
plan 0123456789ab for trade: to 2.00.8.12, 2 host(s), one at a time
  compatibility    patch, allowed (2.00.8.10 to 2.00.8.12 changes the fourth number alone)
  package          DolphinDB_V2.00.8.12.zip, 12.0 MiB, SHA-256 abababababababab…
  replaced by      Grayfin, entry by entry
  canary           a database of its own, 100 rows a second
  after each host  all well for 1m 00s before the next
  recovery         re-replication while a host is down is allowed and waited for
  SIGKILL          never
  set aside        partition-capacity: no new partitions (`ann`)
  accepted loss    node1/stream_table/ticks

1. db2 (now 2.00.8.10): it does not keep the leading DolphinDB controller, which is `ctl1` now
    stopped      ctl2 (controller), node2 (data node)
    stays alive  2 of 3 controllers, 2 of 3 data nodes, 1 current replica(s) of every chunk at least, streaming 2: 2 of 3 members
    backed up    3.0 MiB to /backup
       must    3.0 MiB  ctl1          Raft log    /d/raft
       should  512 B    installation  web folder  /d/web

2. db1 (now 2.00.8.10): last: it keeps the leading DolphinDB controller `ctl1`, so leadership changes once at most
    stopped         ctl1 (controller), node1 (data node)
    stays alive     2 of 3 controllers, 2 of 3 data nodes, 1 current replica(s) of every chunk at least, streaming 2: 2 of 3 members
    backed up       3.0 MiB to /backup
    in memory only  node1/stream_table/ticks: vanishes
       must    3.0 MiB  ctl1          Raft log    /d/raft
       should  512 B    installation  web folder  /d/web

point of no return, on each host: start: the new version rewrites the metadata
";
    assert_eq!(plan::plan(&sample_plan()), expected);
}

#[test]
fn a_host_that_is_done_and_a_level_are_said_briefly() {
    let mut sample = sample_plan();
    sample.hosts[0].already_done = true;
    sample.hosts[0].reason = "it is on 2.00.8.12 already: verified and skipped".to_owned();
    sample.compatibility =
        Compatibility { level: Some(2), patch: false, why: "2.00.8: level 2".to_owned() };
    let text = plan::plan(&sample);
    assert!(text.contains("to 2.00.8.12, 1 host(s)"));
    assert!(text.contains("level 2 of 5 (2.00.8: level 2)"));
    assert!(text.contains(
        "1. db2 (now 2.00.8.10): it is on 2.00.8.12 already: verified and skipped\n\n2."
    ));
}

fn events() -> Vec<Event> {
    let report = |step, happened, seen: &str| Body::Reported {
        report: Report {
            host: "db2".parse().unwrap(),
            token: Token(7),
            step,
            undo: false,
            happened,
            seen: seen.to_owned(),
            position: 1,
            chain: String::new(),
            at_ms: 0,
        },
    };
    let db2 = || "db2".parse().unwrap();
    let reason = Reason {
        code: Code::ChunksRecovering,
        subject: "/db/1".to_owned(),
        evidence: "chunk c1 is RECOVERING at version 3".to_owned(),
        remedy: "it is waited for".to_owned(),
    };
    let bodies = vec![
        (0, Body::Started { plan: Box::new(sample_plan()) }),
        (100, Body::State { state: RolloutState::Running }),
        (1_000, Body::TokenAllotted { host: db2(), token: Token(7) }),
        (1_100, Body::Promised { host: "db1".parse().unwrap(), token: Token(7) }),
        (1_200, Body::Granted { host: db2(), token: Token(7), reason: "db2 is first".to_owned() }),
        (2_000, report(Step::Stop, Happened::Started, "")),
        (
            2_500,
            Body::Go {
                host: db2(),
                token: Token(7),
                action: "controller ctl2".to_owned(),
                allowed: true,
                reasons: Vec::new(),
            },
        ),
        (3_000, report(Step::Stop, Happened::Finished { took_ms: 1_000 }, "3 of 3 gone")),
        (
            4_000,
            report(
                Step::Backup,
                Happened::Progress { done: 1 << 20, total: 3 << 20, unit: "bytes".to_owned() },
                "",
            ),
        ),
        (9_000, report(Step::Join, Happened::State { state: SequenceState::Up }, "")),
        (9_500, Body::Waiting { reasons: vec![reason] }),
        (10_000, Body::LeaderChanged { from: Some("ctl1".to_owned()), to: "ctl3".to_owned() }),
        (
            10_500,
            Body::Canary {
                canary: CanaryStatus {
                    state: "writing".to_owned(),
                    host: Some("db1".parse().unwrap()),
                    acknowledged: 1_050,
                    verified: 1_000,
                    p99_ms: 12,
                    longest_gap_ms: 340,
                    ..CanaryStatus::default()
                },
            },
        ),
    ];
    bodies
        .into_iter()
        .zip(1..)
        .map(|((ms, body), seq)| Event {
            rollout: RolloutId::new("4f1c").unwrap(),
            seq: Seq(seq),
            at_ms: START_MS + ms,
            by: "ann".to_owned(),
            body,
            previous: String::new(),
            hash: String::new(),
        })
        .collect()
}

#[test]
fn events_as_plain_lines() {
    let lines: Vec<_> = events().iter().map(|e| events::line(e, &TimeZone::UTC)).collect();
    let expected = "\
22:13:20    1  started by ann: trade to 2.00.8.12, 2 hosts
22:13:20    2  state: running
22:13:21    3  db2: token 7, promises are asked for
22:13:21    4  db1 promised token 7
22:13:21    5  db2: held with token 7; db2 is first
22:13:22    6  db2: stop begins
22:13:22    7  db2: go for controller ctl2
22:13:23    8  db2: stop done in 1.0 s (3 of 3 gone)
22:13:24    9  db2: backup 1.0 MiB of 3.0 MiB
22:13:29   10  db2: up on the new version
22:13:29   11  waits: GF0405 /db/1: chunk c1 is RECOVERING at version 3
22:13:30   12  the leading DolphinDB controller changed from ctl1 to ctl3
22:13:30   13  canary: writing on db1, 1,050 rows acknowledged, 1,000 read back, 0 lost, 0 duplicates, longest gap 0.3 s, p99 12 ms";
    assert_eq!(lines.join("\n"), expected);
}

#[test]
fn the_live_view_is_folded_from_events() {
    let mut board = Board::default();
    for event in &events() {
        board.take(event);
    }
    let expected = "\
rollout 4f1c of trade to 2.00.8.12: running, 12 s
HOST  STEP                            TIME
db2   up, cluster recovers and soaks  10 s
db1   waiting
canary: writing on db1, 1,050 rows acknowledged, 1,000 read back, 0 lost, 0 duplicates, longest gap 0.3 s, p99 12 ms
changes of the leading DolphinDB controller: 1
waits: GF0405 /db/1: chunk c1 is RECOVERING at version 3
";
    assert_eq!(board.draw(START_MS + 12_000), expected);
    assert_eq!(board.ended(), None);
    let mut next = 14;
    let mut take = |ms: u64, body| {
        let mut event = events().remove(0);
        event.seq = Seq(next);
        event.at_ms = START_MS + ms;
        event.body = body;
        next += 1;
        board.take(&event);
        board.clone()
    };
    take(20_000, Body::HostVerified { host: "db2".parse().unwrap(), soaked_ms: 2_000 });
    let view = take(21_200, Body::Released { host: "db2".parse().unwrap(), token: Token(7) });
    let drawn = view.draw(START_MS + 22_000);
    assert!(
        drawn.starts_with("rollout 4f1c of trade to 2.00.8.12: running, 22 s, about 20 s left\n"),
        "{drawn}"
    );
    assert!(drawn.contains("db2   done     20 s\n"), "{drawn}");
    let view = take(30_000, Body::State { state: RolloutState::Succeeded });
    assert_eq!(view.ended(), Some(RolloutState::Succeeded));
    assert!(
        view.draw(START_MS + 99_000)
            .starts_with("rollout 4f1c of trade to 2.00.8.12: succeeded, 30 s\n")
    );
}

#[test]
fn a_halted_rollout_shows_what_clears_it() {
    let status = RolloutStatus {
        id: RolloutId::new("4f1c").unwrap(),
        cluster: "trade".parse().unwrap(),
        target: "2.00.8.12".parse().unwrap(),
        plan_hash: "0".repeat(64),
        state: RolloutState::Halted,
        hosts: vec![
            HostStatus {
                host: "db2".parse().unwrap(),
                phase: HostPhase::Failed,
                sequence: Some(SequenceState::Failed {
                    step: Step::Start,
                    code: Code::StartFailed,
                    message: "node2 exited".to_owned(),
                    first_start: true,
                }),
                started_ms: Some(START_MS),
                ended_ms: None,
                backup: Some(("b-1".to_owned(), 3 << 20)),
            },
            HostStatus {
                host: "db1".parse().unwrap(),
                phase: HostPhase::Staged,
                sequence: None,
                started_ms: None,
                ended_ms: None,
                backup: None,
            },
        ],
        waiting: vec![Reason {
            code: Code::StartFailed,
            subject: "db2".to_owned(),
            evidence: "node2 exited".to_owned(),
            remedy: "`grayfin rollout retry 4f1c`".to_owned(),
        }],
        waiting_since_ms: Some(START_MS + 60_000),
        canary: CanaryStatus { state: "off".to_owned(), ..CanaryStatus::default() },
        leader_changes: 0,
        last_seq: Seq(42),
        by: "ann".to_owned(),
        started_ms: START_MS,
        ended_ms: None,
        stale: false,
    };
    let expected = "\
rollout 4f1c of trade to 2.00.8.12: halted, started 22:13:20 by ann, 1m 20s
HOST  STATE                    TIME    BACKUP
db2   failed at start, GF0505  1m 20s  b-1 3.0 MiB
db1   staged
waits since 22:14:20 (20 s):
  GF0505 db2: node2 exited
    what clears it: `grayfin rollout retry 4f1c`
canary: off
changes of the leading DolphinDB controller: 0; events: 42
";
    assert_eq!(status::rollout(&status, START_MS + 80_000, &TimeZone::UTC), expected);
    let list = status::list(&[status], START_MS + 80_000, &TimeZone::UTC);
    let expected = "\
ID    CLUSTER  TARGET     STATE   HOSTS   STARTED   TIME    BY
4f1c  trade    2.00.8.12  halted  0 of 2  22:13:20  1m 20s  ann
";
    assert_eq!(list, expected);
}

#[test]
fn holds_and_explanations() {
    let holds = [HoldStatus {
        cluster: "trade".parse().unwrap(),
        token: Token(7),
        host: Some("db2".parse().unwrap()),
        rollout: Some(RolloutId::new("4f1c").unwrap()),
        state: "asking".to_owned(),
        promised: vec!["db1".parse().unwrap()],
        awaited: vec!["db3".parse().unwrap()],
        debts: vec!["debt 1: recovery is suspended".to_owned()],
    }];
    let expected = "\
CLUSTER  TOKEN  STATE   HOST  ROLLOUT  PROMISED  AWAITED
trade    7      asking  db2   4f1c     db1       db3
trade: to be undone: debt 1: recovery is suspended
";
    assert_eq!(status::holds(&holds), expected);
    let explained = Explanation {
        rollout: RolloutId::new("4f1c").unwrap(),
        state: RolloutState::Paused,
        waiting: Vec::new(),
        next: Some(("db3".parse().unwrap(), "it is in turn".to_owned())),
        way_back: "not needed".to_owned(),
        way_forward: vec!["controller `ctl3`: retry".to_owned()],
        commands: vec!["grayfin rollout resume 4f1c".to_owned()],
        gates: Vec::new(),
    };
    let expected = "\
rollout 4f1c is paused
it waits for nothing
next: db3, it is in turn
way back: not needed
what remains: controller `ctl3`: retry
makes sense now: `grayfin rollout resume 4f1c`
";
    assert_eq!(status::explanation(&explained), expected);
}

#[test]
fn quantities_are_short() {
    for (value, text) in
        [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1_610_612_736, "1.5 GiB")]
    {
        assert_eq!(bytes(value), text);
    }
    assert!(bytes(u64::MAX).ends_with(" TiB"));
    for (value, text) in [
        (40, "0.0 s"),
        (9_950, "9.9 s"),
        (59_999, "59 s"),
        (61_000, "1m 01s"),
        (3_660_000, "1h 01m"),
    ] {
        assert_eq!(duration(value), text);
    }
    for (value, text) in [(999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
        assert_eq!(count(value), text);
    }
    assert_eq!(clock(START_MS, &TimeZone::UTC), "22:13:20");
    assert_eq!(clock(u64::MAX, &TimeZone::UTC), "--:--:--");
}
