//! Script mode: the site's upgrade script through all its traps.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail as tests do")]

#[expect(dead_code, reason = "these tests start no nodes")]
mod common;

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use common::{Host, NEW};
use grayfin_agent::steps::{Executor, Stop};
use grayfin_types::{Code, plan::UpgradeMode, step::Step};

/// Reads the three answers as the vendor's script does and checks them.
const ANSWERS: &str = r#"#!/bin/bash
set -e
clear
read -p "sure? " sure; [ "$sure" = y ] || exit 0
read -p "mode? " mode; [ "$mode" = 2 ] || exit 0
read -p "version? " ver
name=DolphinDB_Linux64_V$ver.zip
"#;

/// Unpacks and copies as the vendor's script does.
const COPY: &str = r#"
[ -e $name ] || exit
unzip $name -d v$ver > /dev/null
cd v$ver/server
rm -rf clusterDemo dolphindb.cfg dolphindb.lic
cp -rf ./* ../../..
cd ../..
rm -rf v$ver $name
"#;

const SUCCESS: &str =
    "echo -e \"DolphinDB upgraded successfully!  \\033[32m UpgradeSuccess\\033[0m\"\n";

/// A host whose nodes are down already, up to the backup. No process of it ever runs.
async fn host(script: &str) -> Host {
    let mut host = Host::new("dolphindb");
    host.mode = UpgradeMode::Script;
    let bin = host.path("bin");
    fs::create_dir(&bin).unwrap();
    // The package's tree, for a stand-in of `unzip`, which a machine may lack.
    let tree = host.path("tree");
    let package = host.installation.package_dir.join(format!("DolphinDB_Linux64_V{NEW}.zip"));
    let mut zip = zip::ZipArchive::new(fs::File::open(package).unwrap()).unwrap();
    zip.extract(&tree).unwrap();
    let tree = tree.display();
    program(
        &bin.join("unzip"),
        &format!("#!/bin/sh\nmkdir \"$3\" && cp -r {tree}/server \"$3/\"\n"),
    );
    program(&bin.join("clear"), "#!/bin/sh\n[ -n \"$TERM\" ]\n");
    host.installation.path = format!("{}:/usr/bin:/bin", bin.display());
    program(&host.installation.upgrade_script.clone(), script);
    host.run_to(Step::Backup).await;
    host
}

fn program(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs the upgrade with a limit in which a hanging script is noticed soon.
async fn upgrade(host: &Host) -> Result<(), Code> {
    let ctx = host.context(Step::Upgrade);
    let ctx = ctx.for_step(Step::Upgrade, false, Duration::from_secs(22), Stop::default());
    host.steps.execute(Step::Upgrade, &ctx).await.map_err(|e| e.code)?;
    host.steps.verify(Step::Upgrade, &ctx).await.map(drop).map_err(|e| e.code)
}

#[tokio::test]
async fn a_script_that_does_what_it_says() {
    let script = format!("{ANSWERS}{COPY}{SUCCESS}");
    let host = host(&script).await;
    let before = host.software();
    // A leftover would make the real script's unzip ask a question that nobody sees.
    fs::create_dir_all(host.work_file(&format!("v{NEW}/server"))).unwrap();
    upgrade(&host).await.unwrap();
    let held = host.installation.server_dir.join(".grayfin-held/dolphindb");
    assert_eq!(fs::metadata(&held).unwrap().permissions().mode() & 0o111, 0o111, "+x repaired");
    assert!(!host.installation.executable_path().exists(), "the interlock is on again");
    let package = host.installation.package_dir.join(format!("DolphinDB_Linux64_V{NEW}.zip"));
    assert!(package.exists(), "the script deleted only its copy");
    host.undo(Step::Upgrade).await.unwrap();
    assert_eq!(host.software(), before);
    host.double.undone(Step::Upgrade);
    // Once more, and this time it stays.
    upgrade(&host).await.unwrap();
    let installed = host.installation.server_dir.join("lib200812.so");
    assert!(installed.exists());
}

#[tokio::test]
async fn no_trap_of_the_script_is_taken_for_success() {
    let cases: Vec<(&str, String, Code)> = vec![
        (
            "exit 0 without success",
            format!("{ANSWERS}echo input Error; exit\n"),
            Code::ScriptFailed,
        ),
        ("success without change", format!("{ANSWERS}{SUCCESS}"), Code::ScriptFailed),
        (
            "an unknown question",
            format!("{ANSWERS}read -p \"more? \" x\n{COPY}{SUCCESS}"),
            Code::StepTimeout,
        ),
        (
            "never ends",
            format!("{ANSWERS}{COPY}{SUCCESS}while :; do sleep 1; done\n"),
            Code::StepTimeout,
        ),
        ("fails after success", format!("{ANSWERS}{COPY}{SUCCESS}exit 7\n"), Code::ScriptFailed),
        (
            "half copied",
            format!(
                "{ANSWERS}{}{SUCCESS}",
                COPY.replace("cp -rf ./* ../../..", "cp -f dolphindb ../../..")
            ),
            Code::UpgradeFailed,
        ),
        (
            "dies in the middle",
            format!("{ANSWERS}{}", COPY.replace("cd ../..", "kill -9 $$")),
            Code::ScriptFailed,
        ),
        ("no bash in it", "#!/bin/bash\n(((\n".to_owned(), Code::ScriptFailed),
    ];
    // Side by side: two of them wait for their limit.
    let mut running = tokio::task::JoinSet::new();
    for (what, script, code) in cases {
        running.spawn(async move {
            let host = host(&script).await;
            let before = host.software();
            assert_eq!(upgrade(&host).await, Err(code), "{what}");
            let undone = host.undo(Step::Upgrade).await;
            undone.unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(host.software(), before, "{what}");
            host.double.undone(Step::Upgrade);
            host.undo(Step::Backup).await.unwrap();
            assert!(host.installation.executable_path().exists(), "{what}");
            let left: Vec<String> = fs::read_dir(&host.installation.work_dir)
                .unwrap()
                .map(|e| e.unwrap().file_name().into_string().unwrap())
                .filter(|name| name.starts_with("v2") || name.ends_with(".zip"))
                .collect();
            assert!(left.is_empty(), "{what}: {left:?}");
        });
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn the_stand_ins_own_script_is_driven_as_it_is() {
    let text = include_str!("../../integration-tests/standin/src/package/scripts/upgrade.sh");
    let host = host(text).await;
    upgrade(&host).await.unwrap();
    assert!(host.installation.server_dir.join("lib200812.so").exists());
}

#[tokio::test]
async fn script_mode_needs_the_name_that_the_script_knows() {
    let mut host = Host::new("node");
    host.mode = UpgradeMode::Script;
    host.run_to(Step::Backup).await;
    let error = host.run(Step::Upgrade).await.unwrap_err();
    assert_eq!(error.code, Code::ScriptFailed);
    assert!(error.message.contains("native"), "{error}");
}
