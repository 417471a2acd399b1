//! Controls: harm is done on purpose, and whoever must notice it has to.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use standin::config::Role;

use super::Verdict;
use crate::{Lab, Target, wait};

/// For the observer to see two hosts down, and for the cluster to be well again.
const NOTICE_LIMIT: Duration = Duration::from_secs(60);

/// All controls; each leaves the lab in a state that the next can use.
pub(super) async fn all(lab: &Lab, verdict: &mut Verdict) {
    verdict.claim("one flipped bit in a backup is found", flipped_bit(lab).await);
    verdict.claim("a deleted acknowledged row is found", deleted_row(lab).await);
    verdict.claim("two hosts down at once are seen", two_hosts(lab).await);
}

/// Verification must name the file with the flipped bit, and be content again without it.
async fn flipped_bit(lab: &Lab) -> anyhow::Result<String> {
    let host = lab.host(1)?.clone();
    let file = biggest_file(&lab.paths().backups(&host.name, lab.cluster()))?;
    flip(&file)?;
    let done = lab.agent_cli(host.number, &["backup", "verify"]).await?;
    ensure!(
        !done.is_success(),
        "verification was content with a flipped bit in `{}`",
        file.display()
    );
    let name = file.file_name().and_then(|n| n.to_str()).context("a name in UTF-8")?;
    let said = format!("{done:?}");
    ensure!(said.contains(name) && said.contains("GF0801"), "it does not name `{name}`: {said}");
    flip(&file)?;
    let again = lab.agent_cli(host.number, &["backup", "verify"]).await?;
    ensure!(again.is_success(), "it is not content after the bit was set right: {again:?}");
    Ok(format!("in `{name}`"))
}

fn flip(file: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::FileExt;
    let handle = std::fs::File::options().read(true).write(true).open(file)?;
    let middle = handle.metadata()?.len() / 2;
    let mut byte = [0u8];
    handle.read_exact_at(&mut byte, middle)?;
    byte[0] ^= 0x10;
    handle.write_all_at(&byte, middle)?;
    Ok(())
}

fn biggest_file(folder: &Path) -> anyhow::Result<PathBuf> {
    let mut biggest: Option<(u64, PathBuf)> = None;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                let length = entry.metadata()?.len();
                if biggest.as_ref().is_none_or(|(most, _)| length > *most) {
                    biggest = Some((length, entry.path()));
                }
            }
        }
    }
    biggest.map(|(_, file)| file).context("the backup has no file")
}

/// The canary's own check must miss a row that was acknowledged and then deleted everywhere.
async fn deleted_row(lab: &Lab) -> anyhow::Result<String> {
    let writers = canary_hosts(lab).await?;
    let before = canary_says(lab, &writers).await?;
    ensure!(before.0, "the canary misses rows before anything was deleted: {}", before.1);
    let node = lab.cluster().with_role(Role::DataNode).next().context("a data node")?;
    let client = lab.ddb(node.alias())?;
    let table = "loadTable(\"dfs://grayfin_canary\", \"rows\")";
    let epoch = client.number(&format!("exec min(epoch) from {table}")).await?;
    // From the middle: what became of the last rows may not be known. The epoch does not fit into an
    // INT, hence the suffix.
    let rows = format!("{table} where epoch == {epoch}l");
    let last = client.number(&format!("exec max(seq) from {rows}")).await?;
    let seq = client.number(&format!("exec max(seq) from {rows} and seq <= {}", last / 2)).await?;
    client.run(&format!("delete from {rows} and seq == {seq}")).await?;
    let after = canary_says(lab, &writers).await?;
    ensure!(!after.0, "the canary did not miss epoch {epoch}, sequence {seq}: {}", after.1);
    ensure!(after.1.contains("GF0901"), "it does not say GF0901: {}", after.1);
    Ok(format!("epoch {epoch}, sequence {seq}"))
}

/// Hosts whose agent has a journal of the canary.
async fn canary_hosts(lab: &Lab) -> anyhow::Result<Vec<u8>> {
    let mut found = Vec::new();
    for host in &lab.topology().hosts {
        let done = lab.agent_cli(host.number, &["canary", "check"]).await?;
        if !format!("{done:?}").contains("no journal") {
            found.push(host.number);
        }
    }
    ensure!(!found.is_empty(), "no host has a journal of the canary");
    Ok(found)
}

/// Whether all canary checks are content, and everything that they said.
async fn canary_says(lab: &Lab, hosts: &[u8]) -> anyhow::Result<(bool, String)> {
    let (mut content, mut said) = (true, String::new());
    for host in hosts {
        let done = lab.agent_cli(*host, &["canary", "check"]).await?;
        content &= done.is_success();
        said.push_str(&format!("{done:?}\n"));
    }
    Ok((content, said))
}

/// With a node of each of two hosts killed, the observer must object.
async fn two_hosts(lab: &Lab) -> anyhow::Result<String> {
    let observer = lab.observer()?;
    let nodes: Vec<String> =
        lab.cluster().with_role(Role::DataNode).take(2).map(|n| n.alias().to_owned()).collect();
    for alias in &nodes {
        lab.kill(&Target::Node(alias.clone())).await?;
    }
    let noticed = wait::until("the observer to object", NOTICE_LIMIT, || async {
        let overlaps = observer.report().overlaps();
        if overlaps.is_empty() { Err("no overlap seen".to_owned()) } else { Ok(overlaps.len()) }
    })
    .await;
    drop(observer);
    match noticed {
        Ok(_) => Ok(nodes.join(" and ")),
        Err(error) => bail!("{error:#}"),
    }
}
