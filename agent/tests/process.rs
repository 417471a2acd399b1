//! Processes, on real ones: starting apart from us, supervising scripts, units through a stand-in
//! for the service manager's command.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use grayfin_agent::process::{
    Error, Helper, HowRun, Presence, Scope,
    installation::members,
    launch::{Launcher, Program},
    presence,
    signal::{Ending, gone, send},
    units::{Kept, Systemctl},
};
use grayfin_types::facts::{NodeRole, NodeSpec, ProcessIdentity};

mod wait;

use wait::wait_for;

fn launcher() -> Launcher {
    Launcher::at(Path::new(env!("CARGO_BIN_EXE_grayfin-agent")))
}

fn words(all: &[&str]) -> Vec<String> {
    all.iter().map(|w| (*w).to_owned()).collect()
}

/// An installation whose executable is a copy of bash, so that it can play any node.
struct Installation {
    dir: tempfile::TempDir,
}

impl Installation {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("server/work")).unwrap();
        fs::copy("/bin/bash", dir.path().join("server/node")).unwrap();
        Self { dir }
    }

    fn server(&self) -> PathBuf {
        fs::canonicalize(self.dir.path().join("server")).unwrap()
    }

    fn script(&self, name: &str, text: &str) {
        let path = self.server().join("work").join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn program(&self, arguments: &[&str]) -> Program {
        Program::new(&words(arguments), &self.server().join("work"))
            .with("PATH", "/usr/bin:/bin")
            .with("TERM", "xterm")
    }

    async fn one_member(&self) -> ProcessIdentity {
        let server = self.server();
        wait_for("the node", || {
            members(&server, "node").unwrap().first().map(|m| m.identity.clone())
        })
        .await
    }

    async fn end(&self) {
        for member in members(&self.server(), "node").unwrap() {
            send(&member.identity, Ending::Kill).unwrap();
            gone(&member.identity).await.unwrap();
        }
    }
}

fn helper(dir: &Path) -> Helper {
    Helper::new(launcher(), Scope::new(dir, "test"))
}

fn spec() -> NodeSpec {
    NodeSpec {
        alias: "node43".parse().unwrap(),
        role: NodeRole::Controller,
        address: "127.0.0.1".into(),
        port: 1,
        compute_group: String::new(),
    }
}

#[tokio::test]
async fn a_started_node_is_in_no_way_ours() {
    let one = Installation::new();
    one.script("start.sh", "umask > mask; ulimit -n > files; ../node -c 'read x < fifo; :' &\n");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        one.server().join("work/fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    let mut program = one.program(&["bash", "start.sh"]);
    program.umask = Some(0o027);
    program.limits = vec![("Max open files".into(), Some(321), Some(4321))];
    let output = one.dir.path().join("said");
    let pid = launcher().start(&program, &output).await.unwrap();
    assert_ne!(pid, std::process::id());
    let node = one.one_member().await;
    assert_eq!(node.executable, one.server().join("node").to_string_lossy());

    let status = fs::read_to_string(format!("/proc/{}/stat", node.pid)).unwrap();
    let fields: Vec<&str> = status.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let own = fs::read_to_string("/proc/self/stat").unwrap();
    let own: Vec<&str> = own.rsplit_once(')').unwrap().1.split_whitespace().collect();
    assert_ne!(fields[2], own[2], "another process group");
    assert_ne!(fields[3], own[3], "another session");
    let mask = one.server().join("work/mask");
    assert_eq!(fs::read_to_string(mask).unwrap().trim(), "0027");
    assert_eq!(fs::read_to_string(one.server().join("work/files")).unwrap().trim(), "321");

    let how = HowRun::of(&spec(), &node, "", "boot").unwrap();
    assert_eq!(how.umask, 0o027);
    assert!(how.limits.contains(&("Max open files".into(), Some(321), Some(4321))));
    assert!(how.environment().contains(&("TERM".into(), "xterm".into())));
    one.end().await;
}

#[tokio::test]
async fn a_node_starts_even_if_there_is_no_place_for_its_words() {
    let one = Installation::new();
    one.script("start.sh", "echo said; mkfifo fifo; ../node -c 'read x < fifo; :' &\n");
    let nowhere = one.dir.path().join("not/there/said");
    launcher().start(&one.program(&["bash", "start.sh"]), &nowhere).await.unwrap();
    one.one_member().await;
    one.end().await;
}

#[tokio::test]
async fn a_program_that_is_not_there_says_so_in_its_output() {
    let one = Installation::new();
    let output = one.dir.path().join("said");
    launcher().start(&one.program(&["no-such-program"]), &output).await.unwrap();
    let said = wait_for("the complaint", || {
        fs::read_to_string(&output).ok().filter(|said| said.ends_with('\n'))
    });
    assert!(said.await.contains("no-such-program"));
}

#[tokio::test]
async fn as_the_owner_with_its_groups() {
    if !rustix::process::geteuid().is_root() {
        // Only root can become somebody else; nothing to be seen otherwise.
        return;
    }
    let one = Installation::new();
    let open = fs::Permissions::from_mode(0o777);
    fs::set_permissions(one.dir.path(), open.clone()).unwrap();
    fs::set_permissions(one.server().join("work"), open).unwrap();
    let mut program = one.program(&["bash", "-c", "id -u; id -g; id -G"]);
    let groups = vec![1235, 1236];
    program.owner = Some(grayfin_agent::process::Owner { uid: 1234, gid: 1235, groups });
    let outcome = helper(one.dir.path()).run(&program, "", Duration::from_secs(20)).await.unwrap();
    assert_eq!(outcome.output, "1234\n1235\n1235 1236", "{outcome:?}");
}

#[tokio::test]
async fn a_script_gets_its_answers_and_its_end_is_reported() {
    let one = Installation::new();
    one.script("ask.sh", "read a; read b; echo \"$a-$b\"; echo bad >&2; exit 3\n");
    let program = one.program(&["bash", "ask.sh"]);
    let outcome =
        helper(one.dir.path()).run(&program, "y\n2\n", Duration::from_secs(20)).await.unwrap();
    assert_eq!(outcome.status, "exit 3");
    assert!(!outcome.succeeded());
    assert_eq!(outcome.output, "y-2\nbad");
}

#[tokio::test]
async fn nothing_that_a_script_started_is_left() {
    let one = Installation::new();
    // A grandchild in a session of its own, one that ignores signals, and one whose parent is gone.
    one.script(
        "leave.sh",
        "setsid ../node -c 'trap \"\" TERM HUP; echo $$ >> pids; read x < /dev/tty; while :; do sleep 1; done' &\n\
         (../node -c 'echo $$ >> pids; while :; do sleep 1; done' &)\n\
         while [ \"$(cat pids | wc -l)\" != 2 ]; do :; done\n",
    );
    let program = one.program(&["bash", "leave.sh"]);
    let outcome = helper(one.dir.path()).run(&program, "", Duration::from_secs(20)).await.unwrap();
    assert_eq!(outcome.status, "exit 0");
    assert_eq!(members(&one.server(), "node").unwrap(), []);
}

#[tokio::test]
async fn a_script_that_asks_too_much_or_never_ends_is_ended_with_all_its_children() {
    let one = Installation::new();
    one.script("endless.sh", "../node -c 'while :; do sleep 1; done' & read a; read surprise\n");
    let program = one.program(&["bash", "endless.sh"]);
    let result = helper(one.dir.path()).run(&program, "y\n", Duration::from_millis(700)).await;
    assert!(matches!(result, Err(Error::Timeout { .. })), "{result:?}");
    assert_eq!(members(&one.server(), "node").unwrap(), []);
}

#[tokio::test]
async fn what_an_earlier_life_left_is_found_and_ended() {
    let one = Installation::new();
    one.script("slow.sh", "../node -c 'while :; do sleep 1; done'\n");
    let program = one.program(&["bash", "slow.sh"]);
    let (first, again) = (helper(one.dir.path()), helper(one.dir.path()));
    let running =
        tokio::spawn(async move { first.run(&program, "", Duration::from_secs(60)).await });
    let node = one.one_member().await;
    // As after kill -9 of the host agent: nobody awaits the helper any more.
    running.abort();
    again.sweep("test").await.unwrap();
    assert_eq!(presence(&node).unwrap(), Presence::Gone);

    // Another scope's helpers are not ours to end.
    one.script("other.sh", "../node -c 'while :; do sleep 1; done'\n");
    let other = Helper::new(launcher(), Scope::new(Path::new("/elsewhere"), "test"));
    let program = one.program(&["bash", "other.sh"]);
    let running =
        tokio::spawn(async move { other.run(&program, "", Duration::from_secs(60)).await });
    let node = one.one_member().await;
    assert_eq!(again.sweep("test").await.unwrap(), 0);
    assert_eq!(presence(&node).unwrap(), Presence::Same);
    running.abort();
    wait_for("its end", || (presence(&node).unwrap() == Presence::Gone).then_some(())).await;
}

/// A command that answers like the service manager's, with its state in files.
fn stand_in_systemctl(dir: &Path) -> Systemctl {
    let path = dir.join("systemctl");
    fs::write(&path, include_str!("stand_in_systemctl.sh")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    Systemctl::new(path.to_str().unwrap())
}

fn unit_file(dir: &Path, name: &str, text: &str) {
    fs::create_dir_all(dir.join("units")).unwrap();
    fs::write(dir.join("units").join(name), text).unwrap();
}

#[tokio::test]
async fn a_unit_is_masked_stopped_unmasked_and_started() {
    let dir = tempfile::tempdir().unwrap();
    let systemctl = stand_in_systemctl(dir.path());
    unit_file(
        dir.path(),
        "a.service",
        "LoadState=loaded\nActiveState=active\nUnitFileState=enabled\nMainPID=7\n",
    );
    let before = systemctl.show("a.service").await.unwrap();
    assert_eq!((before.main_pid, before.file.as_str()), (7, "enabled"));
    let kept = systemctl.keep_down(&before).await.unwrap();
    assert_eq!(kept, Kept::Masked);
    let masked = systemctl.show("a.service").await.unwrap();
    assert_eq!(masked.load, "masked");
    let refused = systemctl.start("a.service").await;
    assert!(matches!(refused, Err(Error::Failed { .. })), "{refused:?}");
    systemctl.stop("a.service").await.unwrap();
    systemctl.release(&before).await.unwrap();
    systemctl.start("a.service").await.unwrap();
    assert_eq!(systemctl.show("a.service").await.unwrap().active, "active");
    // Masked by somebody else before us: left so.
    let kept = systemctl.keep_down(&masked).await.unwrap();
    assert_eq!(kept, Kept::WasMasked);
    systemctl.release(&masked).await.unwrap();
}

#[tokio::test]
async fn a_unit_that_cannot_be_masked_is_disabled() {
    let dir = tempfile::tempdir().unwrap();
    let systemctl = stand_in_systemctl(dir.path());
    unit_file(
        dir.path(),
        "b.service",
        "LoadState=loaded\nActiveState=active\nUnitFileState=enabled\nLocal=yes\n",
    );
    let before = systemctl.show("b.service").await.unwrap();
    let kept = systemctl.keep_down(&before).await.unwrap();
    assert_eq!(kept, Kept::Disabled);
    assert_eq!(systemctl.show("b.service").await.unwrap().file, "disabled");
    systemctl.release(&before).await.unwrap();
    assert_eq!(systemctl.show("b.service").await.unwrap().file, "enabled");
    assert!(Systemctl::new("/no/such/systemctl").show("b.service").await.is_err());
}
