//! The package's scripts have the traps of the real ones: each row of the table of measured behaviour,
//! with the lab's own `unzip` and `clear`, and with the system's where there are some.
//!
//! Needs the stand-in's package; could not run on a real one, which cannot be had.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test stops at the first surprise")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use standin::package::{Builder, PackageFile, Release, files, trailer};

const OLD: &str = "2.00.8.10";
const NEW: &str = "2.00.8.12";

/// An installation in a folder of its own, and the PATH its scripts run with.
struct Installation {
    folder: tempfile::TempDir,
    path: String,
}

/// Which `unzip` and `clear` the scripts find.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Tools {
    Own,
    System,
}

/// Both kinds, the system's only where it has both programs.
fn kinds() -> Vec<Tools> {
    let has = |name: &str| Path::new("/usr/bin").join(name).exists();
    if has("unzip") && has("clear") { vec![Tools::Own, Tools::System] } else { vec![Tools::Own] }
}

impl Installation {
    fn new(tools: Tools) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        // A real program, so that it can be started; its bytes do not matter otherwise.
        fs::copy("/bin/sleep", &program).unwrap();
        let builder = Builder::new(&program).unwrap();
        builder.install(&Release::of(OLD).unwrap(), folder.path()).unwrap();
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).unwrap();
        if tools == Tools::Own {
            for name in ["unzip", "clear"] {
                std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_lab"), bin.join(name)).unwrap();
            }
        }
        let path = format!("{}:/usr/bin:/bin", bin.display());
        Self { folder, path }
    }

    fn builder(&self) -> Builder {
        Builder::new(&self.folder.path().join("program")).unwrap()
    }

    fn server(&self) -> PathBuf {
        self.folder.path().join("server")
    }

    fn work(&self) -> PathBuf {
        self.server().join("clusterDemo")
    }

    fn zip(&self) -> PathBuf {
        self.work().join(Release::of(NEW).unwrap().zip_name())
    }

    fn add_zip(&self) {
        self.builder().write_zip(&Release::of(NEW).unwrap(), &self.zip()).unwrap();
    }

    /// Runs `shell upgrade.sh` with these answers.
    fn upgrade_with(&self, shell: &str, terminal: Option<&str>, answers: &str) -> Output {
        let answers_file = self.folder.path().join("answers");
        fs::write(&answers_file, answers).unwrap();
        let mut command = Command::new(shell);
        command
            .arg("upgrade.sh")
            .current_dir(self.work())
            .env_clear()
            .env("PATH", &self.path)
            .stdin(Stdio::from(fs::File::open(&answers_file).unwrap()));
        if let Some(terminal) = terminal {
            command.env("TERM", terminal);
        }
        command.output().unwrap()
    }

    fn upgrade(&self, answers: &str) -> (i32, String) {
        let output = self.upgrade_with("bash", Some("xterm"), answers);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code().unwrap(), text)
    }

    fn version(&self) -> String {
        trailer::read(&self.server().join("dolphindb")).unwrap().unwrap().version
    }

    fn mode(&self) -> u32 {
        fs::metadata(self.server().join("dolphindb")).unwrap().permissions().mode() & 0o777
    }

    /// Everything under `server`, with its bytes' length.
    fn listing(&self) -> Vec<(PathBuf, u64)> {
        let mut found = Vec::new();
        let mut folders = vec![self.server()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().flatten() {
                let metadata = entry.metadata().unwrap();
                if metadata.is_dir() {
                    folders.push(entry.path());
                } else {
                    found.push((entry.path(), metadata.len()));
                }
            }
        }
        found.sort();
        found
    }
}

const YES_OFFLINE: &str = "y\n2\n2.00.8.12\n";

#[test]
fn success_is_zero_and_deletes_package_and_folder() {
    for tools in kinds() {
        let installation = Installation::new(tools);
        installation.add_zip();
        fs::write(installation.server().join("dolphindb.lic"), "the site's own").unwrap();
        fs::write(installation.work().join("config/cluster.nodes"), "the site's own").unwrap();
        let (code, text) = installation.upgrade(YES_OFFLINE);
        assert_eq!(code, 0, "{tools:?}: {text}");
        assert!(text.trim_end().lines().next_back().unwrap().contains("UpgradeSuccess"));
        assert!(text.contains("\u{1b}[32m UnzipSuccess\u{1b}[0m"), "status words are coloured");
        assert!(text.contains("UpLoadSuccess"));
        assert!(!installation.zip().exists(), "the package is deleted");
        assert!(!installation.work().join("v2.00.8.12").exists());
        assert_eq!(installation.version(), NEW);
        assert_eq!(installation.mode(), 0o755, "an existing file keeps its mode");
        let read = |path: PathBuf| fs::read_to_string(path).unwrap();
        assert_eq!(read(installation.server().join("dolphindb.lic")), "the site's own");
        assert_eq!(read(installation.work().join("config/cluster.nodes")), "the site's own");
        assert!(installation.server().join("libcompat02.so").exists(), "stale files stay");
        assert!(installation.server().join("libcompat03.so").exists());
    }
}

#[test]
fn a_refusal_or_a_wrong_number_is_zero_and_does_nothing() {
    for tools in kinds() {
        let installation = Installation::new(tools);
        installation.add_zip();
        let before = installation.listing();
        for answers in ["n\n", "yes\n", "y\n7\n", "y\n\n"] {
            assert_eq!(installation.upgrade(answers).0, 0, "{tools:?} {answers:?}");
        }
        let (code, text) = installation.upgrade("y\n3\n");
        assert_eq!(code, 1);
        assert!(text.contains("you choose exit!"));
        assert_eq!(installation.listing(), before);
        assert_eq!(installation.version(), OLD);
    }
}

#[test]
fn a_missing_package_is_zero() {
    for tools in kinds() {
        let installation = Installation::new(tools);
        let (code, text) = installation.upgrade(YES_OFFLINE);
        assert_eq!(code, 0, "{tools:?}");
        assert!(text.contains("UpLoadFailure"), "{text}");
        assert_eq!(installation.version(), OLD);
    }
}

#[test]
fn a_corrupt_package_is_nine_without_a_word() {
    for tools in kinds() {
        let installation = Installation::new(tools);
        fs::write(installation.zip(), vec![7_u8; 5000]).unwrap();
        let (code, text) = installation.upgrade(YES_OFFLINE);
        assert_eq!(code, 9, "{tools:?}");
        assert!(!text.contains("UnzipFailure"), "the message cannot be reached");
        assert_eq!(installation.version(), OLD);
    }
}

#[test]
fn a_package_without_server_is_one_and_leaves_the_folder() {
    for tools in kinds() {
        let installation = Installation::new(tools);
        let release = Release::of(NEW).unwrap();
        let wrong: Vec<PackageFile> = files(&release)
            .into_iter()
            .map(|mut file| {
                file.path = file.path.replacen("server/", "other/", 1);
                file
            })
            .collect();
        installation.builder().write_zip_of(&release, &wrong, &installation.zip()).unwrap();
        assert_eq!(installation.upgrade(YES_OFFLINE).0, 1, "{tools:?}");
        assert!(installation.work().join("v2.00.8.12/other").exists());
        assert_eq!(installation.version(), OLD);
    }
}

#[test]
fn a_leftover_folder_is_one() {
    for tools in kinds() {
        let installation = Installation::new(tools);
        installation.add_zip();
        let leftover = installation.work().join("v2.00.8.12/server/dolphindb");
        fs::create_dir_all(leftover.parent().unwrap()).unwrap();
        fs::write(&leftover, "from the last time").unwrap();
        assert_eq!(installation.upgrade(YES_OFFLINE).0, 1, "{tools:?}");
        assert_eq!(fs::read(&leftover).unwrap(), b"from the last time");
        assert_eq!(installation.version(), OLD);
    }
}

#[test]
fn the_end_of_the_input_is_one() {
    for tools in kinds() {
        let installation = Installation::new(tools);
        installation.add_zip();
        for answers in ["", "y\n", "y\n2\n"] {
            assert_eq!(installation.upgrade(answers).0, 1, "{tools:?} {answers:?}");
        }
        assert_eq!(installation.version(), OLD);
    }
}

#[test]
fn without_a_terminal_type_it_is_one_before_anything() {
    for tools in kinds() {
        let installation = Installation::new(tools);
        installation.add_zip();
        for terminal in [None, Some("dumb")] {
            let output = installation.upgrade_with("bash", terminal, YES_OFFLINE);
            assert_eq!(output.status.code(), Some(1), "{tools:?} {terminal:?}");
        }
        assert_eq!(installation.version(), OLD);
    }
}

#[test]
fn the_plain_shell_cannot_read_the_script() {
    if !Path::new("/bin/dash").exists() {
        let in_ci = std::env::var_os("CI").is_some();
        assert!(!in_ci, "dash is missing, and in CI a skipped test is a failure");
        return;
    }
    let installation = Installation::new(Tools::Own);
    installation.add_zip();
    let output = installation.upgrade_with("/bin/dash", Some("xterm"), YES_OFFLINE);
    assert_eq!(output.status.code(), Some(2));
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.contains("\"(\" unexpected"), "{words}");
    assert_eq!(installation.version(), OLD);
}

#[test]
fn while_a_process_runs_it_succeeds_and_takes_the_execute_bit_away() {
    for tools in kinds() {
        let installation = Installation::new(tools);
        installation.add_zip();
        let program = installation.server().join("dolphindb");
        let mut running = Command::new(&program).arg("600").spawn().unwrap();
        let (code, text) = installation.upgrade(YES_OFFLINE);
        let exe = fs::read_link(format!("/proc/{}/exe", running.id())).unwrap();
        running.kill().unwrap();
        running.wait().unwrap();
        assert_eq!(code, 0, "{tools:?}: {text}");
        assert!(text.contains("UpgradeSuccess"));
        assert!(exe.to_str().unwrap().ends_with("(deleted)"), "{exe:?}");
        assert_eq!(installation.mode(), 0o644, "the new file has the package's mode");
        assert_eq!(installation.version(), NEW);
    }
}

/// Runs a stop script where only its own processes can be seen, so that nobody else's are hit.
fn stop(installation: &Installation, before: &str, user: Option<&str>) -> (i32, String) {
    let script = format!("{before}\nsh stopAllNode.sh\necho rc=$? >&2\nwait 2>/dev/null\nexit 0");
    let mut command = Command::new("unshare");
    command
        .args(["--pid", "--mount", "--fork", "--mount-proc", "--kill-child", "sh", "-c", &script])
        .current_dir(installation.work())
        .env_clear()
        .env("PATH", &installation.path)
        .stdin(Stdio::null());
    if let Some(user) = user {
        command.env("USER", user);
    }
    let output = command.output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    let code = words.split("rc=").nth(1).unwrap_or_else(|| panic!("{words}"));
    let code = code.lines().next().unwrap().parse().unwrap();
    (code, words)
}

#[test]
fn the_stop_script_stops_whatever_has_the_word_and_its_code_means_nothing() {
    use integration_tests::hostns::Isolation;
    if Isolation::detect() != Isolation::Namespaces {
        let in_ci = std::env::var_os("CI").is_some();
        assert!(!in_ci, "no namespaces, and in CI a skipped test is a failure");
        return;
    }
    let installation = Installation::new(Tools::Own);
    let user = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
    let user = user.trim();
    let (code, words) = stop(&installation, "", Some(user));
    assert_eq!(code, 123, "nothing runs: {words}");
    let (code, words) = stop(&installation, "", None);
    assert_eq!(code, 123, "USER is unset: {words}");
    // An editor on a file of that name is hit as well; a process without the word is not. The stopped
    // ones are reaped before the trap looks; the third is not waited for.
    let before = "../dolphindb 600 & a=$!
        bash -c \"exec -a 'vi dolphindb.cfg' sleep 600\" & b=$!
        sleep 600 & c=$!
        wait() { command wait $a $b; }
        trap 'for it in $a $b $c; do kill -0 $it 2>/dev/null && echo lives=$it. >&2; done; \
            echo third=$c. >&2; kill $c' EXIT";
    let (code, words) = stop(&installation, before, Some(user));
    assert_eq!(code, 0, "{words}");
    let third = words.split("third=").nth(1).unwrap().split('.').next().unwrap();
    let alive: Vec<&str> =
        words.split("lives=").skip(1).map(|it| it.split('.').next().unwrap()).collect();
    assert_eq!(alive, [third], "{words}");
}
