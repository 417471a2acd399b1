//! A coordinator's state folder on a small volume of its own, which can be filled.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;

use super::Lab;
use crate::hostns::Command;

/// For a command that makes, fills or empties a volume.
const COMMAND_LIMIT: Duration = Duration::from_secs(20);

impl Lab {
    /// Lays a volume of so many KiB over the state folder of a coordinator that does not run, with what
    /// the folder holds. It goes with the machine.
    pub async fn limit_state(&self, coordinator: u8, kib: u32) -> anyhow::Result<()> {
        let state = self.state(coordinator)?.display().to_string();
        let command = format!(
            "set -e; mkdir -p {state}; cp -a {state} {state}.before; \
             mount -t tmpfs -o size={kib}k,mode=700 none {state}; cp -a {state}.before/. {state}/"
        );
        self.on_coordinator(coordinator, &command).await
    }

    /// Fills that volume to its last byte.
    pub async fn fill_state(&self, coordinator: u8) -> anyhow::Result<()> {
        let state = self.state(coordinator)?.display().to_string();
        // It ends with an error when there is no room left, which is what is wanted.
        let command = format!("cat /dev/zero > {state}/filler; test -s {state}/filler");
        self.on_coordinator(coordinator, &command).await
    }

    /// Makes room on it again.
    pub async fn empty_state(&self, coordinator: u8) -> anyhow::Result<()> {
        let state = self.state(coordinator)?.display().to_string();
        self.on_coordinator(coordinator, &format!("rm -f {state}/filler")).await
    }

    fn state(&self, coordinator: u8) -> anyhow::Result<PathBuf> {
        let name = &self.coordinator(coordinator)?.name;
        Ok(self.paths().machine(name).join("state"))
    }

    async fn on_coordinator(&self, coordinator: u8, command: &str) -> anyhow::Result<()> {
        let name = &self.coordinator(coordinator)?.name;
        let argv = ["bash", "-c", command].map(str::to_owned).to_vec();
        let cwd = self.paths().machine(name);
        let run = Command { argv, cwd, env: self.environment() };
        let done = self.machine(name).run(run, COMMAND_LIMIT).await?;
        ensure!(done.is_success(), "`{command}` on `{name}`: {done:?}");
        Ok(())
    }
}
