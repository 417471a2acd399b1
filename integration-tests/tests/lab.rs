//! The lab itself: it comes up healthy, its observer sees what happens,
//! and nothing of it is left afterwards, however it ends.
//!
//! Needs the stand-in; could run on a real package.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use integration_tests::processes::{self, ProcessId};
use integration_tests::{Lab, Options, Target, range, wait};
use rustix::process::Signal;

const LIMIT: Duration = Duration::from_secs(120);

/// A folder for a lab, in a folder that goes with the test.
fn folder() -> (tempfile::TempDir, PathBuf) {
    let outer = tempfile::Builder::new().prefix("lab").tempdir().unwrap();
    let inner = outer.path().canonicalize().unwrap().join("lab");
    (outer, inner)
}

fn database_only() -> Options {
    Options { no_grayfin: true, ..Options::default() }
}

/// Live processes of a lab's machines.
fn processes_under(folder: &Path) -> Vec<ProcessId> {
    processes::belonging_to(folder, &folder.join("bin"))
}

/// True when no mount lies under the folder.
fn no_mounts_under(folder: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    !mounts.contains(folder.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_healthy_is_observed_and_leaves_nothing() {
    let (_outer, folder) = folder();
    let lab = Lab::up(&folder, &database_only()).await.unwrap();
    let status = lab.status().await.unwrap();
    assert_eq!(status.nodes.len(), 9);
    for node in &status.nodes {
        assert!(node.pid.is_some() && node.listening, "{node:?}");
        let version = node.version.as_deref().unwrap();
        assert!(version.starts_with("2.00.8.10 2022.12.28"), "{node:?}");
    }
    assert_eq!(status.nodes.iter().filter(|node| node.leads).count(), 1);

    let observer = lab.observer().unwrap();
    let before = lab.node("node44").unwrap().pid().unwrap();
    lab.kill(&Target::Host(2)).await.unwrap();
    assert_eq!(lab.node("node44").unwrap().pid(), None);
    lab.restart(&Target::Host(2)).await.unwrap();
    lab.wait_healthy().await.unwrap();
    assert_ne!(lab.node("node44").unwrap().pid().unwrap(), before);
    lab.restart(&Target::Node("node45".to_owned())).await.unwrap();
    lab.wait_healthy().await.unwrap();
    let report = observer.stop();
    let cluster = lab.cluster().name.clone();
    let disturbed = report.disturbed(&cluster);
    assert!(disturbed["host43"].is_empty(), "{disturbed:?}");
    assert_eq!((disturbed["host44"].len(), disturbed["host45"].len()), (1, 1), "{disturbed:?}");
    assert_eq!(report.overlaps(), [], "one host after the other");
    assert_eq!(report.node("node44").unwrap().processes.len(), 2);

    let observer = lab.observer().unwrap();
    lab.kill(&Target::Node("node43".to_owned())).await.unwrap();
    lab.kill(&Target::Node("node44".to_owned())).await.unwrap();
    wait::until_true("the observer to see two hosts down at once", LIMIT, || async {
        !observer.report().overlaps().is_empty()
    })
    .await
    .unwrap();
    drop(observer);

    let claimed = lab.topology().range;
    assert!(range::is_claimed(claimed));
    assert_eq!(Lab::open(&folder).unwrap().topology(), lab.topology());
    lab.down().unwrap();
    assert_eq!(processes_under(&folder), []);
    assert!(!folder.exists() && no_mounts_under(&folder) && !range::is_claimed(claimed));
}

#[tokio::test(flavor = "multi_thread")]
async fn host_agents_and_the_coordinator_can_be_killed_and_started_again() {
    let (_outer, folder) = folder();
    let options = Options { clusters: 2, dedicated_controllers: true, ..Options::default() };
    let lab = Lab::up(&folder, &options).await.unwrap();
    for target in ["agent:1", "coordinator:1", "agent:6", "node:c2HActl48", "host:5"] {
        let target: Target = target.parse().unwrap();
        let before = lab.processes_of(&target).await.unwrap();
        assert!(!before.is_empty(), "{target}");
        lab.kill(&target).await.unwrap();
        assert_eq!(lab.processes_of(&target).await.unwrap(), [], "{target}");
        lab.restart(&target).await.unwrap();
        let after = lab.processes_of(&target).await.unwrap();
        assert!(after.iter().all(|process| !before.contains(process)), "{target}");
    }
    lab.wait_healthy().await.unwrap();
    lab.wait_hosts_connected().await.unwrap();
    let mut words = Vec::new();
    for machine in lab.topology().machines() {
        for process in
            processes::belonging_to(&lab.paths().machine(machine), &lab.paths().programs())
        {
            let arguments = processes::arguments(process.pid).join(" ");
            if processes::executable(process.pid).unwrap().starts_with(lab.paths().programs()) {
                words.push(arguments);
            }
        }
    }
    assert!(words.len() >= 7 && words.iter().all(|it| !it.contains("dolphindb")), "{words:?}");
    lab.down().unwrap();
}

/// Starts `lab up` and returns when its machines are on.
async fn half_way_up(folder: &Path, more: &[&str]) -> Child {
    let child = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["up", "--no-grayfin", "--dir"])
        .arg(folder)
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait::until_true("three machines", LIMIT, || async {
        ["host43", "host44", "host45"]
            .iter()
            .all(|it| folder.join(it).join("machine.json").exists())
    })
    .await
    .unwrap();
    child
}

#[tokio::test]
async fn interrupted_on_the_way_up_it_leaves_nothing() {
    for more in [&[][..], &["--no-namespaces"]] {
        let (_outer, folder) = folder();
        let mut child = half_way_up(&folder, more).await;
        ProcessId::of(child.id().try_into().unwrap()).unwrap().signal(Signal::INT);
        let code = child.wait().unwrap().code();
        assert_eq!(code, Some(1));
        assert_eq!(processes_under(&folder), []);
        assert!(!folder.exists() && no_mounts_under(&folder));
    }
}

#[tokio::test]
async fn killed_on_the_way_up_its_machines_go_by_themselves_and_down_tidies_up() {
    let (_outer, folder) = folder();
    let mut child = half_way_up(&folder, &[]).await;
    let claimed = Lab::open(&folder).unwrap().topology().range;
    child.kill().unwrap();
    child.wait().unwrap();
    wait::until_true("the machines to be off", LIMIT, || async {
        processes_under(&folder).is_empty() && !range::is_claimed(claimed)
    })
    .await
    .unwrap();
    let mut down = Command::new(env!("CARGO_BIN_EXE_lab"));
    assert!(down.args(["down", "--dir"]).arg(&folder).status().unwrap().success());
    assert!(!folder.exists());
}

#[tokio::test]
async fn folders_that_would_do_harm_are_refused() {
    let (outer, _) = folder();
    let inner = outer.path().join("dolphindb-lab");
    let error = Lab::up(&inner, &database_only()).await.unwrap_err();
    assert!(error.to_string().contains("stop script"), "{error}");
    let inner = outer.path().join("used");
    std::fs::create_dir(&inner).unwrap();
    std::fs::write(inner.join("mine"), "precious").unwrap();
    let error = Lab::up(&inner, &database_only()).await.unwrap_err();
    assert!(error.to_string().contains("is not empty"), "{error}");
    assert_eq!(std::fs::read(inner.join("mine")).unwrap(), b"precious");
}
