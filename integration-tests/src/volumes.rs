//! Volumes of a lab's machines: small ones over their folders, full ones, and what is run there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;

use crate::Lab;
use crate::hostns::Command;

/// For a command on a machine that ends at once.
const COMMAND_LIMIT: Duration = Duration::from_secs(20);
/// What takes the room that is left on a volume.
const FILLER: &str = "filler";

impl Lab {
    /// Runs a shell command on a machine, in its mount namespace; returns what it said.
    async fn shell_of(&self, machine: &str, command: &str) -> anyhow::Result<String> {
        let argv = ["bash", "-c", command].map(str::to_owned).to_vec();
        let cwd = self.paths().machine(machine);
        let run = Command { argv, cwd, env: self.environment() };
        let done = self.machine(machine).run(run, COMMAND_LIMIT).await?;
        ensure!(done.is_success(), "`{command}` on `{machine}`: {done:?}");
        Ok(done.output)
    }

    async fn lay_volume(&self, machine: &str, folder: &Path, kib: u64) -> anyhow::Result<()> {
        let path = folder.display();
        let command = format!(
            "set -e; mkdir -p {path} {path}.under; mount --bind {path} {path}.under; \
             mount -t tmpfs -o size={kib}k none {path}; cp -a {path}.under/. {path}/"
        );
        self.shell_of(machine, &command).await.map(drop)
    }

    async fn fill_volume(&self, machine: &str, folder: &Path) -> anyhow::Result<()> {
        let path = folder.join(FILLER);
        let path = path.display();
        // It ends with an error when there is no room left, which is what is wanted.
        let command = format!("dd if=/dev/zero of={path} bs=1k 2>/dev/null; test -s {path}");
        self.shell_of(machine, &command).await.map(drop)
    }

    async fn empty_volume(&self, machine: &str, folder: &Path) -> anyhow::Result<()> {
        let command = format!("rm -f {}", folder.join(FILLER).display());
        self.shell_of(machine, &command).await.map(drop)
    }

    /// Runs a shell command on a host, in its mount namespace; returns what it said.
    pub async fn shell(&self, host: u8, command: &str) -> anyhow::Result<String> {
        self.shell_of(&self.host(host)?.name, command).await
    }

    /// Puts a small volume over a folder of a host, with what the folder holds. It is seen on that
    /// host alone, and goes when the host loses its power.
    pub async fn small_volume(&self, host: u8, folder: &Path, kib: u64) -> anyhow::Result<()> {
        self.lay_volume(&self.host(host)?.name, folder, kib).await
    }

    /// Takes a volume away again, with what was written to it.
    pub async fn without_volume(&self, host: u8, folder: &Path) -> anyhow::Result<()> {
        let path = folder.display();
        let command =
            format!("set -e; umount -l {path}; umount -l {path}.under; rmdir {path}.under");
        self.shell(host, &command).await.map(drop)
    }

    /// Fills the volume of a folder to its last byte.
    pub async fn fill(&self, host: u8, folder: &Path) -> anyhow::Result<()> {
        self.fill_volume(&self.host(host)?.name, folder).await
    }

    /// Makes room again.
    pub async fn make_room(&self, host: u8, folder: &Path) -> anyhow::Result<()> {
        self.empty_volume(&self.host(host)?.name, folder).await
    }

    /// Puts a small volume over the state folder of a coordinator that does not run.
    pub async fn limit_state(&self, coordinator: u8, kib: u64) -> anyhow::Result<()> {
        let state = self.state_of(coordinator)?;
        self.lay_volume(&self.coordinator(coordinator)?.name, &state, kib).await
    }

    /// Fills that volume to its last byte.
    pub async fn fill_state(&self, coordinator: u8) -> anyhow::Result<()> {
        let state = self.state_of(coordinator)?;
        self.fill_volume(&self.coordinator(coordinator)?.name, &state).await
    }

    /// Makes room on it again.
    pub async fn empty_state(&self, coordinator: u8) -> anyhow::Result<()> {
        let state = self.state_of(coordinator)?;
        self.empty_volume(&self.coordinator(coordinator)?.name, &state).await
    }

    fn state_of(&self, coordinator: u8) -> anyhow::Result<PathBuf> {
        let name = &self.coordinator(coordinator)?.name;
        Ok(self.paths().machine(name).join("state"))
    }
}
