//! The host sequence on real processes and files.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

mod common;

use std::{fs, io, os::unix::fs::PermissionsExt, sync::Arc, time::Duration};

use common::{Host, NEW, OLD, launcher, wait_for};
use grayfin_agent::{
    backup::Store,
    files::{
        Control, RealDisk,
        fault::{Fault, FaultyDisk},
    },
    process::{Presence, launch::Program, presence, signal},
    steps::{Denied, Executor, Precheck, StepError, Stop, Why},
};
use grayfin_types::{
    Code,
    facts::MemoryObject,
    step::{Happened, Step},
};

fn version(host: &Host, alias: &str) -> String {
    let pid = host.process(alias).unwrap().pid;
    let bytes = fs::read(format!("/proc/{pid}/exe")).unwrap();
    String::from_utf8_lossy(&bytes[bytes.len() - 16..]).trim().to_owned()
}

#[tokio::test]
async fn a_host_goes_through_the_whole_sequence() {
    let host = Host::new("node");
    host.start_all().await;
    host.fake.set(|inner| inner.stops_through_controller = true);
    let before = [host.process("ctl43"), host.process("agent43"), host.process("node43")];
    host.run_to(Step::Join).await;
    for (alias, old) in ["ctl43", "agent43", "node43"].into_iter().zip(before) {
        assert_eq!(version(&host, alias), NEW, "{alias}");
        assert_eq!(presence(&old.unwrap()).unwrap(), Presence::Gone);
    }
    let pid = host.process("ctl43").unwrap().pid;
    let environment = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
    assert!(environment.contains("SITE=kept"), "the environment it had: {environment:?}");
    assert!(!environment.contains("GRAYFIN"), "and nothing of ours: {environment:?}");

    let server = &host.installation.server_dir;
    assert!(!server.join(".grayfin-held").exists());
    assert_eq!(
        fs::read_to_string(server.join("libDolphinDB.so")).unwrap(),
        format!("library of {NEW}")
    );
    assert!(!server.join("lib200810.so").exists() && server.join("lib200812.so").exists());
    assert_eq!(fs::read_to_string(server.join("dolphindb.cfg")).unwrap(), "sample");
    let old = host.path("srv/.grayfin-old-server-7");
    assert!(old.join("node").exists() && old.join("lib200810.so").exists());
    let backups = host.installation.backup_dir.clone();
    let store = Store { disk: &RealDisk, folder: &backups };
    let listed = store.list().unwrap();
    assert_eq!(listed.len(), 1);
    store.verify(&listed[0].name, &Control::default()).unwrap();

    // Down actions: the data node, then agent and controller together, and the guard's own look.
    let asked: Vec<usize> = host.double.asked().iter().map(Vec::len).collect();
    assert_eq!(asked, [3, 1, 2]);
    assert_eq!(host.fake.get(|inner| inner.guards), 3);
    assert_eq!(host.fake.get(|inner| inner.stop_orders), 1);
    host.steps.tidy(&host.context(Step::Join)).await.unwrap();
    let left: Vec<String> = fs::read_dir(host.path("srv"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(!left.iter().any(|name| name.contains("stage")), "{left:?}");
    host.end_all().await;
}

#[tokio::test]
async fn every_step_can_be_repeated_and_knows_when_it_is_done() {
    let host = Host::new("node");
    host.start_all().await;
    for step in Step::ALL {
        if step == Step::Start {
            host.double.set_first_start(true);
        }
        host.run(step).await.unwrap();
        let ctx = host.context(step);
        let again = host.steps.precheck(step, &ctx).await;
        let repeats = matches!(step, Step::Guard | Step::Join);
        assert_eq!(matches!(again, Precheck::AlreadyDone(_)), !repeats, "{step}: {again:?}");
        if !matches!(step, Step::Backup) {
            host.steps.execute(step, &ctx).await.unwrap_or_else(|e| panic!("{step} again: {e}"));
        }
        host.steps.verify(step, &ctx).await.unwrap();
    }
    assert_eq!(version(&host, "node43"), NEW);
    host.end_all().await;
}

#[tokio::test]
async fn undoing_after_each_step_brings_the_old_version_back() {
    for last in [Step::Quiesce, Step::Stop, Step::Backup, Step::Upgrade] {
        let host = Host::new("node");
        let software = host.software();
        host.start_all().await;
        host.run_to(last).await;
        host.undo_from(last).await;
        assert_eq!(host.software(), software, "{last}");
        for alias in ["ctl43", "agent43", "node43"] {
            assert_eq!(version(&host, alias), OLD, "{last}: {alias}");
        }
        // And it can be tried again, to the end.
        host.run_to(Step::Join).await;
        assert_eq!(version(&host, "ctl43"), NEW, "{last}");
        host.end_all().await;
    }
}

#[tokio::test]
async fn without_a_go_nothing_is_stopped() {
    let host = Host::new("node");
    host.start_all().await;
    host.run_to(Step::Guard).await;
    host.double.deny(Denied { reasons: vec![], why: "the link is cut".into() });
    let error = host.run(Step::Quiesce).await.unwrap_err();
    assert_eq!(error.code, Code::NoGo);
    assert_eq!(host.count(), 3);
    host.undo_from(Step::Quiesce).await;
    assert_eq!(host.count(), 3);
    host.end_all().await;
}

#[tokio::test]
async fn what_fails_before_anything_was_captured_is_undone_at_once() {
    let host = Host::new("node");
    host.start_all().await;
    host.run_to(Step::Guard).await;
    host.double.break_ledger(Some(StepError::new(Code::DiskTooSmall, "the ledger is full")));
    let error = host.run(Step::Quiesce).await.unwrap_err();
    assert_eq!(error.code, Code::DiskTooSmall);
    host.double.break_ledger(None);
    let seen = host.undo(Step::Quiesce).await.unwrap();
    assert_eq!(seen.0, "nothing was stopped");
    assert_eq!(host.count(), 3);
    host.end_all().await;
}

#[tokio::test]
async fn a_reboot_in_the_middle_leaves_nothing_down() {
    let host = Host::new("node");
    host.start_all().await;
    host.fake.set(|inner| inner.guard_refuses_from = Some(1));
    host.run_to(Step::Guard).await;
    assert!(host.run(Step::Quiesce).await.is_err());
    // Everything is gone, and what would have started it was kept from that.
    host.end_all().await;
    host.undo_from(Step::Quiesce).await;
    assert_eq!(host.count(), 3, "though `stop` never began");
    host.end_all().await;
}

#[tokio::test]
async fn a_guard_that_refuses_half_way_spares_the_controller() {
    let host = Host::new("node");
    host.start_all().await;
    host.run_to(Step::Quiesce).await;
    assert_eq!(host.count(), 2);
    host.fake.set(|inner| inner.guard_refuses_from = Some(inner.guards));
    let error = host.run(Step::Stop).await.unwrap_err();
    assert_eq!(error.code, Code::QuorumAtRisk);
    assert!(host.process("ctl43").is_some() && host.process("agent43").is_some());
    host.undo_from(Step::Stop).await;
    assert_eq!(host.count(), 3);
    host.end_all().await;
}

#[tokio::test]
async fn a_node_that_ignores_sigterm_is_killed_only_if_that_is_allowed() {
    let mut host = Host::new("node");
    fs::write(host.work_file("stubborn-node43"), "").unwrap();
    host.start_all().await;
    host.policy.stop_timeout_ms = 700;
    host.run_to(Step::Guard).await;
    let stubborn = host.running("node43").await;
    wait_for("the node's trap", || host.work_file("pid-node43").exists().then_some(())).await;
    let error = host.run(Step::Quiesce).await.unwrap_err();
    assert_eq!(error.code, Code::StopFailed, "{error}");
    assert!(error.message.contains("allow-kill"), "{error}");
    assert_eq!(presence(&stubborn).unwrap(), Presence::Same);
    host.policy.allow_kill = true;
    let seen = host.run(Step::Quiesce).await.unwrap();
    assert_eq!(presence(&stubborn).unwrap(), Presence::Gone, "{seen:?}");
    host.end_all().await;
}

#[tokio::test]
async fn a_process_that_appears_blocks_backup_and_upgrade() {
    let host = Host::new("node");
    host.start_all().await;
    host.run_to(Step::Stop).await;
    let stray = async || {
        let words = ["./../node", "run-node.sh", "stray", "stray"].map(str::to_owned);
        let program = Program::new(&words, &host.installation.work_dir);
        launcher().start(&program, &host.path("stray-said")).await.unwrap();
        let server = host.installation.server_dir.clone();
        wait_for("the stray", || {
            let all = grayfin_agent::process::installation::members(&server, "node").unwrap();
            (!all.is_empty()).then_some(())
        })
        .await;
    };
    stray().await;
    let error = host.run(Step::Backup).await.unwrap_err();
    assert_eq!(error.code, Code::ProcessAppeared);
    host.end_all().await;
    host.run(Step::Backup).await.unwrap();
    // Now nobody can start one: the executable is not where it was.
    assert!(!host.installation.executable_path().exists());
    host.run(Step::Upgrade).await.unwrap();
    host.undo_from(Step::Upgrade).await;
    host.end_all().await;
}

#[tokio::test]
async fn a_full_disk_fails_the_backup_and_everything_is_as_before() {
    let mut host = Host::new("node");
    let software = host.software();
    host.start_all().await;
    host.run_to(Step::Stop).await;
    fs::create_dir(host.path("trash")).unwrap();
    let disk = FaultyDisk::new(&host.path("trash"), Fault::Full(4096));
    let steps = host.steps.clone();
    host.steps = steps.clone().with_disk(Arc::new(disk));
    let error = host.run(Step::Backup).await.unwrap_err();
    assert_eq!(error.code, Code::DiskTooSmall, "{error}");
    host.steps = steps;
    let left = fs::read_dir(&host.installation.backup_dir).unwrap().count();
    assert_eq!(left, 0);
    host.undo_from(Step::Backup).await;
    assert_eq!(host.software(), software);
    assert_eq!(host.count(), 3);
    host.end_all().await;
}

#[tokio::test]
async fn an_upgrade_that_breaks_at_any_operation_is_undone() {
    let mut host = Host::new("node");
    let software = host.software();
    host.start_all().await;
    host.run_to(Step::Backup).await;
    fs::create_dir(host.path("trash")).unwrap();
    let steps = host.steps.clone();
    for at in (0..60).step_by(7) {
        let disk = Arc::new(FaultyDisk::new(
            &host.path("trash"),
            Fault::At(at, io::ErrorKind::StorageFull),
        ));
        host.steps = steps.clone().with_disk(disk.clone());
        let result = host.run(Step::Upgrade).await;
        host.steps = steps.clone();
        if disk.operations() > at {
            assert_eq!(result.unwrap_err().code, Code::DiskTooSmall, "operation {at}");
        }
        host.undo(Step::Upgrade).await.unwrap_or_else(|e| panic!("operation {at}: {e}"));
        host.double.undone(Step::Upgrade);
    }
    host.undo_from(Step::Backup).await;
    assert_eq!(host.software(), software);
    host.end_all().await;
}

/// The host agent may die when all is taken back and that is not yet in its ledger.
#[tokio::test]
async fn an_upgrade_that_is_taken_back_already_is_taken_back_again() {
    let host = Host::new("dolphindb");
    host.run_to(Step::Backup).await;
    let before = host.software();
    host.run(Step::Upgrade).await.unwrap();
    host.undo(Step::Upgrade).await.unwrap();
    host.undo(Step::Upgrade).await.unwrap();
    // Or in the middle of removing the old tree, with its list gone.
    let ctx = host.context(Step::Upgrade);
    let name = format!(".grayfin-old-server-{}", ctx.token());
    fs::create_dir(host.installation.server_dir.with_file_name(name)).unwrap();
    host.undo(Step::Upgrade).await.unwrap();
    assert_eq!(host.software(), before);
}

#[tokio::test]
async fn an_upgrade_that_was_interrupted_at_any_operation_is_completed() {
    let mut host = Host::new("node");
    host.start_all().await;
    host.run_to(Step::Backup).await;
    fs::create_dir(host.path("trash")).unwrap();
    let steps = host.steps.clone();
    let (mut at, mut without_executable) = (0, 0);
    loop {
        let disk = Arc::new(FaultyDisk::new(
            &host.path("trash"),
            Fault::At(at, io::ErrorKind::StorageFull),
        ));
        host.steps = steps.clone().with_disk(disk.clone());
        let result = host.run(Step::Upgrade).await;
        host.steps = steps.clone();
        if disk.operations() <= at {
            result.unwrap();
            break;
        }
        result.unwrap_err();
        let held = host.installation.server_dir.join(".grayfin-held/node");
        without_executable += usize::from(!held.exists());
        host.run(Step::Upgrade).await.unwrap_or_else(|e| panic!("operation {at}: {e}"));
        host.undo(Step::Upgrade).await.unwrap();
        host.double.undone(Step::Upgrade);
        at += 1;
    }
    assert!(without_executable > 0, "the moment between the two executables was never met");
    host.double.set_first_start(true);
    for step in [Step::Start, Step::Join] {
        host.run(step).await.unwrap();
    }
    host.end_all().await;
}

#[tokio::test]
async fn changed_metadata_stops_the_way_back() {
    let host = Host::new("node");
    host.start_all().await;
    host.run_to(Step::Upgrade).await;
    let wal = host.work_file("data/ctl43/raft/raftWAL");
    fs::write(&wal, "somebody wrote").unwrap();
    let error = host.undo(Step::Upgrade).await.unwrap_err();
    assert_eq!(error.code, Code::UndoImpossible, "{error}");
    assert!(error.message.contains("raftWAL"), "{error}");
    host.double.set_first_start(true);
    let error = host.undo(Step::Upgrade).await.unwrap_err();
    assert_eq!(error.code, Code::UndoImpossible);
}

#[tokio::test]
async fn an_executable_that_cannot_be_executed_is_named_at_once() {
    let host = Host::new("node");
    host.start_all().await;
    host.run_to(Step::Upgrade).await;
    let held = host.installation.server_dir.join(".grayfin-held/node");
    let mode = fs::metadata(&held).unwrap().permissions().mode();
    fs::set_permissions(&held, fs::Permissions::from_mode(mode & !0o111)).unwrap();
    host.double.set_first_start(true);
    let error = host.run(Step::Start).await.unwrap_err();
    assert_eq!(error.code, Code::StartFailed);
    assert!(error.message.contains("chmod"), "{error}");
    let open = host.installation.server_dir.join("node");
    fs::set_permissions(&open, fs::Permissions::from_mode(mode)).unwrap();
    host.run(Step::Start).await.unwrap();
    host.end_all().await;
}

#[tokio::test]
async fn a_lie_about_the_version_and_a_lost_table_are_noticed_at_join() {
    let host = Host::new("node");
    let object = |name: &str| MemoryObject {
        node: "node43".parse().unwrap(),
        kind: "stream_table".into(),
        name: name.into(),
        provided_for: false,
    };
    host.fake.set(|inner| inner.memory = vec![object("accepted"), object("dear")]);
    host.start_all().await;
    host.run_to(Step::Start).await;
    host.fake.set(|inner| inner.lie = Some(OLD.into()));
    let error = host.run(Step::Join).await.unwrap_err();
    assert_eq!(error.code, Code::VersionNotReached, "{error}");
    host.fake.set(|inner| {
        inner.lie = None;
        inner.memory = vec![object("dear")];
    });
    host.run(Step::Join).await.unwrap();
    host.fake.set(|inner| inner.memory.clear());
    // The rest of a short limit is all that is waited for a startup script.
    let ctx = host.context(Step::Join);
    let ctx = ctx.for_step(Step::Join, false, Duration::from_secs(2), Stop::default());
    let error = host.steps.execute(Step::Join, &ctx).await.unwrap_err();
    assert_eq!(error.code, Code::MemoryLoss, "{error}");
    assert!(error.message.contains("dear") && !error.message.contains("accepted/"), "{error}");
    host.end_all().await;
}

#[tokio::test]
async fn an_abort_ends_a_wait_at_once() {
    let mut host = Host::new("node");
    fs::write(host.work_file("stubborn-node43"), "").unwrap();
    host.start_all().await;
    host.policy.stop_timeout_ms = 600_000;
    host.run_to(Step::Guard).await;
    wait_for("the node's trap", || host.work_file("pid-node43").exists().then_some(())).await;
    let stop = Stop::default();
    let ctx = host.context(Step::Quiesce);
    let ctx = ctx.for_step(Step::Quiesce, false, Duration::from_secs(600), stop.clone());
    let steps = host.steps.clone();
    let running = tokio::spawn(async move { steps.execute(Step::Quiesce, &ctx).await });
    wait_for("the stop", || (!host.double.asked().is_empty()).then_some(())).await;
    stop.ask(Why::Aborted);
    let error: StepError = running.await.unwrap().unwrap_err();
    assert_eq!(error.code, Code::Aborted);
    host.end_all().await;
}

#[tokio::test]
async fn a_leader_that_does_not_take_the_order_to_start_is_soon_asked_again() {
    let host = Host::new("node");
    host.start_all().await;
    host.run_to(Step::Upgrade).await;
    host.fake.set(|inner| inner.starts_refused = 3);
    let begun = std::time::Instant::now();
    host.run(Step::Start).await.unwrap();
    assert_eq!(host.fake.get(|inner| inner.start_orders), 4);
    // Three pauses of 3 s, as after an order that may have been taken, would be 9 s.
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    host.end_all().await;
}

/// A host after `step`, of whose stop through the controller nobody knows the outcome.
async fn stop_unknown(late_stop_ms: u64, step: Step) -> Host {
    let mut host = Host::new("node");
    host.start_all().await;
    host.policy.late_stop_ms = late_stop_ms;
    host.fake.set(|inner| inner.stop_unknown = true);
    host.run_to(step).await;
    host
}

#[tokio::test]
async fn a_stop_of_which_nobody_knows_keeps_the_host_until_it_cannot_come_any_more() {
    let mut host = stop_unknown(1_500, Step::Start).await;
    let begun = std::time::Instant::now();
    host.run(Step::Join).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(1_500), "{:?}", begun.elapsed());
    // Once is enough.
    host.policy.late_stop_ms = u64::MAX / 4;
    host.run(Step::Join).await.unwrap();
    host.end_all().await;
}

#[tokio::test]
async fn a_stop_that_takes_effect_late_fails_the_join_and_not_the_next_host() {
    let host = stop_unknown(600_000, Step::Start).await;
    let node = host.running("node43").await;
    let late = async {
        let watched = |(_, _, said): &(Step, bool, Happened)| {
            let Happened::Node { state, .. } = said else { return false };
            state.starts_with("watched")
        };
        wait_for("a watch", || host.double.passing().iter().any(watched).then_some(())).await;
        signal::send(&node, signal::Ending::Terminate).unwrap();
    };
    let (joined, ()) = tokio::join!(host.run(Step::Join), late);
    let error = joined.unwrap_err();
    assert_eq!(error.code, Code::JoinFailed, "{error}");
    assert!(error.message.contains("node43") && error.message.contains("controller"), "{error}");
    host.end_all().await;
}

#[tokio::test]
async fn undoing_waits_for_a_stop_of_which_nobody_knows_too() {
    let host = stop_unknown(1_500, Step::Quiesce).await;
    let begun = std::time::Instant::now();
    host.undo(Step::Quiesce).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(1_500), "{:?}", begun.elapsed());
    host.end_all().await;
}

#[tokio::test]
async fn nodes_under_units_are_stopped_and_started_through_them() {
    let mut host = Host::new("node");
    let units = host.path("units-home");
    fs::create_dir_all(units.join("units")).unwrap();
    let systemctl = units.join("systemctl");
    fs::write(&systemctl, include_str!("stand_in_systemctl.sh")).unwrap();
    fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).unwrap();
    let work = host.installation.work_dir.display().to_string();
    for (unit, script) in
        [("ddbcontroller.service", "startController.sh"), ("ddbagent.service", "startAgent.sh")]
    {
        let text = format!(
            "LoadState=loaded\nActiveState=active\nUnitFileState=enabled\nMainPID=0\n\
             ExecStart=cd {work} && setsid sh {script}\n"
        );
        fs::write(units.join("units").join(unit), text).unwrap();
    }
    host.installation.units.systemctl = systemctl.display().to_string();
    let names = &mut host.installation.units.names;
    names.insert("controller".into(), "ddbcontroller.service".into());
    names.insert("ddb_agent".into(), "ddbagent.service".into());
    host.start_all().await;
    host.run_to(Step::Join).await;
    assert_eq!(version(&host, "ctl43"), NEW);
    let calls = fs::read_to_string(units.join("calls")).unwrap();
    let calls: Vec<&str> = calls.lines().filter(|line| !line.starts_with("show")).collect();
    let of = |unit: &str| -> Vec<String> {
        calls.iter().filter_map(|c| c.strip_suffix(unit)).map(|c| c.trim().to_owned()).collect()
    };
    for unit in ["ddbcontroller.service", "ddbagent.service"] {
        assert_eq!(of(unit), ["mask", "stop", "unmask", "reset-failed", "start"], "{calls:?}");
    }
    host.end_all().await;
}
