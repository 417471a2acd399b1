//! Finds and builds the programs a lab is made of.
//!
//! Neither `cargo run --bin demo` nor `cargo test` builds the programs of other packages, so one nested
//! `cargo build --workspace --bins` does, once per process and never by two processes at a time. The
//! programs are those of the profile this process was itself built with.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::Context;
use rustix::fs::FlockOperation;

/// Set to anything: take the programs as they are. For people who build by themselves.
const NO_BUILD: &str = "GRAYFIN_LAB_NO_BUILD";

/// Where the programs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// `target/<profile>`.
    pub folder: PathBuf,
}

/// What an earlier call in this process found.
static FOUND: Mutex<Option<Binaries>> = Mutex::new(None);

impl Binaries {
    /// The programs of this process's profile, built now unless this process has built them before.
    pub fn ensure() -> anyhow::Result<Self> {
        let mut found = match FOUND.lock() {
            Ok(found) => found,
            Err(poisoned) => poisoned.into_inner(),
        };
        if let Some(binaries) = &*found {
            return Ok(binaries.clone());
        }
        let binaries = Self { folder: profile_folder()? };
        if std::env::var_os(NO_BUILD).is_none() {
            build(&binaries.folder)?;
        }
        *found = Some(binaries.clone());
        Ok(binaries)
    }

    /// The coordinator and CLI.
    pub fn grayfin(&self) -> PathBuf {
        self.folder.join("grayfin")
    }

    /// The host agent.
    pub fn grayfin_agent(&self) -> PathBuf {
        self.folder.join("grayfin-agent")
    }

    /// The stand-in node.
    pub fn node(&self) -> PathBuf {
        self.folder.join("dolphindb")
    }

    /// The lab's own program.
    pub fn lab(&self) -> PathBuf {
        self.folder.join("lab")
    }
}

/// The profile's folder: where this program is, or the one above for a test in `deps`.
fn profile_folder() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("find this program")?;
    let folder = program.parent().context("this program has no folder")?;
    let folder = match folder.file_name().and_then(|name| name.to_str()) {
        Some("deps" | "examples") => folder.parent().context("no profile folder")?,
        _ => folder,
    };
    Ok(folder.to_path_buf())
}

/// The arguments that make Cargo build into `folder`.
fn cargo_arguments(folder: &Path) -> anyhow::Result<Vec<String>> {
    let profile = folder.file_name().and_then(|name| name.to_str()).context("no profile name")?;
    let target = folder.parent().context("no target folder")?;
    let mut arguments: Vec<String> =
        ["build", "--quiet", "--workspace", "--bins"].map(str::to_owned).to_vec();
    match profile {
        "debug" => {}
        "release" => arguments.push("--release".to_owned()),
        other => arguments.extend(["--profile".to_owned(), other.to_owned()]),
    }
    arguments.push("--target-dir".to_owned());
    arguments.push(target.to_str().context("the target folder's name is not UTF-8")?.to_owned());
    Ok(arguments)
}

/// Runs the nested build, one process at a time.
fn build(folder: &Path) -> anyhow::Result<()> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    anyhow::ensure!(
        workspace.join("Cargo.toml").exists(),
        "`{}` is gone, so the programs of the lab cannot be built; set {NO_BUILD}=1 to use those in \
         `{}`",
        workspace.display(),
        folder.display()
    );
    let lock_path = folder.join(".lab-build.lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&lock_path)
        .with_context(|| format!("open `{}`", lock_path.display()))?;
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).context("wait for the build lock")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(cargo_arguments(folder)?)
        .current_dir(&workspace)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context("run `cargo build --workspace --bins`")?;
    anyhow::ensure!(status.success(), "`cargo build --workspace --bins` failed: {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_decides_the_arguments() {
        let of = |folder: &str| cargo_arguments(Path::new(folder)).unwrap().join(" ");
        assert_eq!(of("/t/debug"), "build --quiet --workspace --bins --target-dir /t");
        assert_eq!(of("/t/release"), "build --quiet --workspace --bins --release --target-dir /t");
        assert_eq!(
            of("/t/fast"),
            "build --quiet --workspace --bins --profile fast --target-dir /t"
        );
        assert!(!profile_folder().unwrap().ends_with("deps"));
    }
}
