//! The program itself: its verbs, its exit codes, and that it ends when it is told to.
#![expect(clippy::unwrap_used, clippy::panic, clippy::wildcard_enum_match_arm, reason = "a test")]

mod double;

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use double::{HOST, Site, coordinator::Coordinator};
use grayfin_agent::failpoint;
use grayfin_proto::{identity::Identity, pki};

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_grayfin-agent"))
}

fn run(program: &mut Command, args: &[&str], config: &Path) -> Output {
    program.args(args).arg("--config").arg(config).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn site() -> (Site, std::path::PathBuf) {
    let site = Site::new();
    let config = site.configure(&["127.0.0.1:1".to_owned()]);
    (site, config)
}

#[test]
fn a_good_configuration_is_printed() {
    let (_site, config) = site();
    let output = run(&mut program(), &["check-config"], &config);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains(&format!("host {HOST} generation 1")), "{text}");
    assert!(text.contains("start_controller bash startController.sh"), "{text}");
}

#[test]
fn a_bad_line_a_strange_certificate_and_the_forbidden_word_are_refused_with_2() {
    let (site, config) = site();
    let good = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, good.replace("package_dir", "packages_dir")).unwrap();
    let output = run(&mut program(), &["check-config"], &config);
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("GF0101") && said(&output).contains("line 12"), "{output:?}");

    let ca = site.path().join("pki");
    pki::issue(&ca, &Identity::Operator("ann".to_owned()), &ca.join("ann")).unwrap();
    std::fs::write(&config, good.replace("/agent.pem", "/ann.pem")).unwrap();
    for verb in ["check-config", "run"] {
        let output = run(&mut program(), &[verb], &config);
        assert_eq!(output.status.code(), Some(2), "{verb}");
        assert!(said(&output).contains("GF0103"), "{output:?}");
    }

    std::fs::write(&config, &good).unwrap();
    let folder = site.path().join("dolphindb");
    std::fs::create_dir(&folder).unwrap();
    std::fs::copy(&config, folder.join("agent.toml")).unwrap();
    for verb in ["check-config", "run"] {
        let output = run(&mut program(), &[verb], &folder.join("agent.toml"));
        assert_eq!(output.status.code(), Some(2), "{verb}");
        assert!(said(&output).contains("GF0104"), "{output:?}");
    }
}

#[test]
fn usage_and_version_have_their_exit_codes() {
    for (args, code) in [(&["--help"][..], 0), (&["--version"], 0), (&[], 2), (&["fly"], 2)] {
        let output = program().args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}");
    }
    let help = program().arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("Exit codes") && !help.contains("fail-points"), "{help}");
}

#[test]
fn the_fail_points_are_the_codes_own_list() {
    let output = program().arg("fail-points").output().unwrap();
    let listed: Vec<String> =
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(listed, failpoint::all());
}

#[test]
fn a_host_without_backups_and_journals_says_so() {
    let (site, config) = site();
    let text = std::fs::read_to_string(&config).unwrap();
    let at = format!("backup_dir = \"{}\"", site.path().display());
    let empty = format!("backup_dir = \"{}/backups\"", site.path().display());
    std::fs::write(&config, text.replace(&at, &empty)).unwrap();
    let output = run(&mut program(), &["backup", "list", "--json"], &config);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"[]\n"[..]));
    let output = run(&mut program(), &["backup", "verify"], &config);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("GF0801"), "{output:?}");
    let output = run(&mut program(), &["backup", "restore", "b1", "--in-place"], &config);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("GF0803"), "no hold is open: {output:?}");
    let output = run(&mut program(), &["canary", "check"], &config);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("no journal"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_connects_locks_and_ends_when_it_is_told_to() {
    let site = Site::new();
    let coordinator = Coordinator::start(&site).await;
    let config = site.configure(&[coordinator.address()]);
    let mut process = tokio::process::Command::from({
        let mut program = program();
        program.args(["run", "--config"]).arg(&config).stderr(Stdio::null());
        program
    })
    .kill_on_drop(true)
    .spawn()
    .unwrap();
    coordinator.until("a look", |world| world.host_facts.pop()).await;

    let second = run(&mut program(), &["run"], &config);
    assert_eq!(second.status.code(), Some(1));
    assert!(said(&second).contains("GF0105"), "{second:?}");

    let pid = rustix::process::Pid::from_raw(process.id().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let ended = tokio::time::timeout(double::PATIENCE, process.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(0));
}
