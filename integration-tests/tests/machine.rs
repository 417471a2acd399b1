//! Machines: what runs on one is found from outside, and a power loss takes everything at once.
//!
//! Needs neither the stand-in nor a real server.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use integration_tests::hostns::{Command, Isolation, Machine};
use integration_tests::processes::{self, ProcessId};
use integration_tests::wait;

const LIMIT: Duration = Duration::from_secs(30);

struct Place {
    _folder: tempfile::TempDir,
    machine: Machine,
}

fn place(isolation: Isolation) -> Place {
    let folder = tempfile::Builder::new().prefix("machine").tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    let programs = root.join("bin");
    fs::create_dir(&programs).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_lab"), programs.join("lab")).unwrap();
    // A long name: the socket's path would not fit into an address.
    let machine = Machine::new(root.join(format!("host{}", "x".repeat(120))), programs, isolation);
    Place { _folder: folder, machine }
}

/// With namespaces where they can be had, and without.
fn kinds() -> Vec<Isolation> {
    let best = Isolation::detect();
    if best == Isolation::Signals { vec![best] } else { vec![best, Isolation::Signals] }
}

fn command(machine: &Machine, script: &str) -> Command {
    Command {
        argv: vec!["bash".to_owned(), "-c".to_owned(), script.to_owned()],
        cwd: machine.folder().to_path_buf(),
        env: BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]),
    }
}

fn log(machine: &Machine) -> PathBuf {
    machine.folder().join("out.log")
}

#[tokio::test]
async fn a_power_loss_takes_everything_orphans_included() {
    for isolation in kinds() {
        let Place { machine, _folder } = place(isolation);
        let _owner = machine.switch_on(None).await.unwrap();
        let started = machine.start("one", command(&machine, "sleep 600; true"), log(&machine));
        let started = started.await.unwrap();
        assert!(started.is_some());
        assert_eq!(machine.find("one").await.unwrap(), started);
        let done =
            machine.run(command(&machine, "nohup sleep 601 >/dev/null 2>&1 & echo hi"), LIMIT);
        let done = done.await.unwrap();
        assert!(done.is_success(), "{done:?}");
        assert_eq!(done.output, "hi\n");
        let init = machine.init().unwrap();
        // The shell, its sleep, and the orphan: a busy machine takes its time to begin them.
        let before: Vec<ProcessId> = wait::until("three processes", LIMIT, || async {
            let found = processes::descendants(init.pid);
            if found.len() >= 3 { Ok(found) } else { Err(format!("{isolation:?}: {found:?}")) }
        })
        .await
        .unwrap();
        machine.cut_power().unwrap();
        assert!(!machine.is_on() && !init.is_alive());
        assert!(before.iter().all(|process| !process.is_alive()), "{isolation:?}");
        let _owner = machine.switch_on(None).await.unwrap();
        assert_eq!(machine.find("one").await.unwrap(), None);
        machine.cut_power().unwrap();
    }
}

#[tokio::test]
async fn what_ends_is_reaped_and_what_takes_too_long_is_killed() {
    for isolation in kinds() {
        let Place { machine, _folder } = place(isolation);
        let _owner = machine.switch_on(None).await.unwrap();
        let done = machine.run(command(&machine, "exit 7"), LIMIT).await.unwrap();
        assert_eq!((done.code, done.timed_out), (Some(7), false));
        let done = machine.run(command(&machine, "kill -9 $$"), LIMIT).await.unwrap();
        assert_eq!((done.code, done.signal), (None, Some(9)));
        let slow = command(&machine, "exec sleep 600");
        let done = machine.run(slow, Duration::from_millis(50)).await.unwrap();
        assert!(done.timed_out && done.signal == Some(9), "{done:?}");
        // It lives until it is told to end.
        let short = command(&machine, "mkfifo go; read -r word < go");
        let short = machine.start("short", short, log(&machine)).await.unwrap().unwrap();
        let told = command(&machine, "until [ -p go ]; do :; done; echo end > go; rm go");
        assert!(machine.run(told, LIMIT).await.unwrap().is_success());
        wait::until_true("the exit to be noticed, and no zombie to be left", LIMIT, || async {
            let ended = machine.find("short").await.unwrap().is_none();
            ended && ProcessId::of(short.pid).is_none_or(|it| it != short)
        })
        .await
        .unwrap();
        machine.cut_power().unwrap();
    }
}

#[tokio::test]
async fn inside_a_namespace_only_the_machine_is_seen() {
    let isolation = Isolation::detect();
    if isolation == Isolation::Signals {
        let in_ci = std::env::var_os("CI").is_some();
        assert!(!in_ci, "no namespaces, and in CI a skipped test is a failure");
        return;
    }
    let Place { machine, _folder } = place(isolation);
    let _owner = machine.switch_on(None).await.unwrap();
    let done = machine.run(command(&machine, "ls /proc | grep -c '^[0-9]'"), LIMIT).await.unwrap();
    let seen: usize = done.output.trim().parse().unwrap();
    // The first process, the shell, `ls` and `grep`.
    assert!((2..=4).contains(&seen), "{seen}");
    machine.cut_power().unwrap();
}

#[tokio::test]
async fn a_machine_goes_with_its_owner() {
    for isolation in kinds() {
        let Place { machine, _folder } = place(isolation);
        let owner = machine.switch_on(None).await.unwrap();
        machine.start("one", command(&machine, "exec sleep 600"), log(&machine)).await.unwrap();
        let init = machine.init().unwrap();
        let before = processes::descendants(init.pid);
        drop(owner);
        wait::until_true("everything to be gone", LIMIT, || async {
            !init.is_alive() && before.iter().all(|process| !process.is_alive())
        })
        .await
        .unwrap();
        let mut owner = machine.switch_on(None).await.unwrap();
        integration_tests::hostns::disown(&mut owner).await.unwrap();
        drop(owner);
        machine.run(command(&machine, "true"), LIMIT).await.unwrap();
        assert!(machine.is_on());
        machine.cut_power().unwrap();
    }
}
