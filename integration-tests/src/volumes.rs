//! Volumes of a host in a lab: small ones over its folders, full ones, and what is run there.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;

use crate::Lab;

/// For a command on a host that ends at once.
const COMMAND_LIMIT: Duration = Duration::from_secs(20);
/// What takes the room that is left on a volume.
const FILLER: &str = "filler";

impl Lab {
    /// Runs a shell command on a host, in its mount namespace; returns what it said.
    pub async fn shell(&self, host: u8, command: &str) -> anyhow::Result<String> {
        let host = self.host(host)?;
        let folder = self.paths().machine(&host.name);
        let done = self.run_on(host, folder, &["bash", "-c", command], COMMAND_LIMIT).await?;
        ensure!(done.is_success(), "`{command}` on `{}`: {done:?}", host.name);
        Ok(done.output)
    }

    /// Puts a small volume over a folder of a host, with what the folder holds. It is seen on that
    /// host alone, and goes when the host loses its power.
    pub async fn small_volume(&self, host: u8, folder: &Path, kib: u64) -> anyhow::Result<()> {
        let path = folder.display();
        let command = format!(
            "set -e; mkdir -p {path}.under; mount --bind {path} {path}.under; \
             mount -t tmpfs -o size={kib}k none {path}; cp -a {path}.under/. {path}/"
        );
        self.shell(host, &command).await.map(drop)
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
        let path = folder.join(FILLER);
        let path = path.display();
        let command = format!("dd if=/dev/zero of={path} bs=1k 2>/dev/null; test -s {path}");
        self.shell(host, &command).await.map(drop)
    }

    /// Makes room again.
    pub async fn make_room(&self, host: u8, folder: &Path) -> anyhow::Result<()> {
        self.shell(host, &format!("rm {}", folder.join(FILLER).display())).await.map(drop)
    }
}
