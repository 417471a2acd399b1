//! systemd units: found, kept from restarting, stopped, started again.
//!
//! A unit with `Restart=always` brings back what we end, after ten seconds in the vendor's own
//! examples. It is therefore masked, which survives a reboot; its processes are then ended by
//! identity like all others, and only then the unit is stopped, so that systemd has nothing left to
//! kill after its own limit (90 s by default, with SIGKILL).

use std::{path::PathBuf, process::Stdio, time::Duration};

use grayfin_types::facts::ProcessIdentity;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::{Error, cgroup};

/// For one call of `systemctl`; starting a `Type=forking` unit waits for its fork.
const CALL_LIMIT: Duration = Duration::from_secs(100);

/// The service manager.
#[derive(Debug, Clone)]
pub struct Systemctl {
    program: String,
}

/// What a unit is like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitState {
    /// Its name.
    pub name: String,
    /// `loaded`, `masked`, `not-found`, …
    pub load: String,
    /// `active`, `inactive`, `failed`, …
    pub active: String,
    /// `enabled`, `disabled`, `masked`, …
    pub file: String,
    /// Its main process, 0 for none.
    pub main_pid: u32,
    /// `control-group`, `process`, `mixed`, `none`.
    pub kill_mode: String,
}

/// How a unit was kept from being started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kept {
    /// It was masked already, not by us.
    WasMasked,
    /// We masked it.
    Masked,
    /// It lies in `/etc/systemd/system`, where it cannot be masked: it was stopped and disabled.
    Disabled,
}

impl Systemctl {
    /// Uses this program.
    pub fn new(program: &str) -> Self {
        Self { program: program.to_owned() }
    }

    /// Finds the unit whose main process this is; none if it does not run under one.
    pub async fn unit_of(&self, process: &ProcessIdentity) -> Result<Option<String>, Error> {
        let text = |pid| cgroup::of(pid).unwrap_or_default();
        let theirs = text(process.pid);
        let Some(name) = cgroup::service(&theirs) else { return Ok(None) };
        // A node that we started ourselves may live in our own unit's group.
        if cgroup::service(&text(std::process::id())) == Some(name) {
            return Ok(None);
        }
        let unit = self.show(name).await?;
        // Others only happen to be its ancestors: `cron.service`, `user@0.service`, or the DolphinDB
        // agent's unit for a data node.
        Ok((unit.main_pid == process.pid).then_some(unit.name))
    }

    /// Asks what a unit is like.
    pub async fn show(&self, unit: &str) -> Result<UnitState, Error> {
        let properties = "--property=Id,LoadState,ActiveState,UnitFileState,MainPID,KillMode";
        let text = self.call(&["show", properties, "--", unit]).await?;
        let value = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
                .unwrap_or_default()
                .to_owned()
        };
        Ok(UnitState {
            name: unit.to_owned(),
            load: value("LoadState"),
            active: value("ActiveState"),
            file: value("UnitFileState"),
            main_pid: value("MainPID").parse().unwrap_or(0),
            kill_mode: value("KillMode"),
        })
    }

    /// Returns the files that a unit is made of; none if there is no such unit.
    pub async fn fragment(&self, unit: &str) -> Result<Vec<PathBuf>, Error> {
        let text = self.call(&["show", "--property=FragmentPath,DropInPaths", "--", unit]).await?;
        let values = text.lines().filter_map(|line| line.split_once('=').map(|(_, value)| value));
        Ok(values
            .flat_map(str::split_ascii_whitespace)
            .filter(|path| path.starts_with('/'))
            .map(PathBuf::from)
            .collect())
    }

    /// Keeps a unit from being started by anybody, over reboots. `before` is what it was like.
    pub async fn keep_down(&self, before: &UnitState) -> Result<Kept, Error> {
        if before.load == "masked" {
            return Ok(Kept::WasMasked);
        }
        match self.call(&["mask", "--", &before.name]).await {
            Ok(_) => Ok(Kept::Masked),
            Err(Error::Failed { output, .. }) if output.contains("already exists") => {
                self.call(&["disable", "--", &before.name]).await?;
                Ok(Kept::Disabled)
            }
            Err(e) => Err(e),
        }
    }

    /// Takes [`Self::keep_down`] back, by what the unit was like before and is like now; also after a
    /// crash in the middle of it, and twice.
    pub async fn release(&self, before: &UnitState) -> Result<(), Error> {
        let now = self.show(&before.name).await?;
        if before.load != "masked" && now.load == "masked" {
            self.call(&["unmask", "--", &before.name]).await?;
        }
        let now = self.show(&before.name).await?;
        if before.file == "enabled" && now.file == "disabled" {
            self.call(&["enable", "--", &before.name]).await?;
        }
        Ok(())
    }

    /// Tells systemd that the unit is down. Its processes must be gone already.
    pub async fn stop(&self, unit: &str) -> Result<(), Error> {
        self.call(&["stop", "--", unit]).await.map(drop)
    }

    /// Starts the unit.
    pub async fn start(&self, unit: &str) -> Result<(), Error> {
        // A unit that failed too often is refused until its counter is reset.
        self.call(&["reset-failed", "--", unit]).await.map(drop).or_else(ignore_failed)?;
        self.call(&["start", "--", unit]).await.map(drop)
    }

    async fn call(&self, arguments: &[&str]) -> Result<String, Error> {
        let name = format!("{} {}", self.program, arguments.join(" "));
        let run = |source| Error::Run { program: name.clone(), source };
        let child = Command::new(&self.program)
            .args(arguments)
            .env("LC_ALL", "C")
            .env("SYSTEMD_COLORS", "0")
            .env("SYSTEMD_PAGER", "cat")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(run)?;
        let Ok(done) = tokio::time::timeout(CALL_LIMIT, child.wait_with_output()).await else {
            let limit_ms = u64::try_from(CALL_LIMIT.as_millis()).unwrap_or(u64::MAX);
            let output = "(not read)".to_owned();
            return Err(Error::Timeout { program: name, limit_ms, output });
        };
        let done = done.map_err(run)?;
        if !done.status.success() {
            let output: String = String::from_utf8_lossy(&done.stderr).chars().take(500).collect();
            let output = output.trim().to_owned();
            return Err(Error::Failed { program: name, status: done.status.to_string(), output });
        }
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }
}

/// `reset-failed` complains about units that are not loaded.
fn ignore_failed(error: Error) -> Result<(), Error> {
    match error {
        Error::Failed { .. } => Ok(()),
        Error::Io { .. }
        | Error::NotTheSame { .. }
        | Error::Signal { .. }
        | Error::Run { .. }
        | Error::Timeout { .. }
        | Error::NotEmptied { .. }
        | Error::Unknown(_) => Err(error),
    }
}
