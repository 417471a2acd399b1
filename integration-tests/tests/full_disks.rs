//! Disks that are full where room was counted on: under a package that is just being unpacked, and
//! under the ledger from the middle of a hold on. Nothing half-done is left, the host comes up, and the
//! rollout ends once there is room.
//!
//! Could run on a real cluster.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use integration_tests::suite::{self, CANARY, FROM, NOTICE_LIMIT, TO};
use integration_tests::{Lab, Options, Target, wait};
use standin::config::Role;

/// What `preflight` wants to be free for the ledger (64 MiB), and some more.
const STATE_KIB: u64 = 80 << 10;
/// For a node that was told to start: its DolphinDB agent has to find the leader first.
const START_LIMIT: Duration = Duration::from_secs(60);

fn state(lab: &Lab, host: u8) -> anyhow::Result<PathBuf> {
    Ok(lab.paths().agent(&lab.host(host)?.name).join("state"))
}

/// Where the installation is, and where packages are unpacked beside it.
fn beside(lab: &Lab, host: u8) -> anyhow::Result<PathBuf> {
    let server = lab.paths().server(&lab.host(host)?.name, lab.cluster());
    Ok(server.parent().map(PathBuf::from).unwrap_or(server))
}

/// Boots a host with its installation on a volume that has room for two more of the kind.
async fn boot_on_a_volume(lab: &Lab, host: u8) -> anyhow::Result<()> {
    let (name, folder) = (lab.host(host)?.name.clone(), beside(lab, host)?);
    lab.kill(&Target::Host(host)).await?;
    lab.switch_on(&name).await?;
    let size = lab.shell(host, &format!("du -sk {} | cut -f1", folder.display())).await?;
    let kib: u64 = size.trim().parse()?;
    lab.small_volume(host, &folder, kib * 3 + (64 << 10)).await?;
    lab.restart(&Target::Agent(host)).await?;
    for role in [Role::Controller, Role::DdbAgent, Role::DataNode] {
        let Some(node) = lab.cluster().on_host(host, role) else { continue };
        let target = Target::Node(node.alias().to_owned());
        wait::until(&format!("`{}` to be started", node.alias()), START_LIMIT, || async {
            lab.restart(&target).await.map_err(|error| format!("{error:#}"))
        })
        .await?;
    }
    lab.wait_healthy().await
}

/// Lets a host agent's ledger lie on a small volume, and the host agent stand at a place.
async fn ledger_on_a_volume(lab: &Lab, host: u8, place: &str) -> anyhow::Result<()> {
    lab.kill(&Target::Agent(host)).await?;
    lab.small_volume(host, &state(lab, host)?, STATE_KIB).await?;
    lab.restart_agent_with_stops(host, &[place.to_owned()]).await
}

/// Somebody else takes all the room as soon as the package is being unpacked.
async fn taken_while_it_is_unpacked(lab: &Lab, host: u8) -> anyhow::Result<()> {
    let folder = beside(lab, host)?;
    let (folder, taken) = (folder.display(), folder.join("filler"));
    let taken = taken.display();
    let wait_and_take = format!(
        "(while [ -z \"$(ls -d {folder}/.grayfin-*.partial 2>/dev/null)\" ]; do :; done; \
         dd if=/dev/zero of={taken} bs=64k 2>/dev/null) &"
    );
    lab.shell(host, &wait_and_take).await.map(drop)
}

/// The package did not fit: what there was of it is gone again, and no host was touched.
async fn full_at_unpack(lab: &Lab, id: &str, host: u8) -> anyhow::Result<()> {
    let (name, folder) = (lab.host(host)?.name.clone(), beside(lab, host)?);
    let status = lab.wait_halted(id, &[&name, "GF0307", "No space left", ".partial"]).await?;
    ensure!(status.hosts.iter().all(|it| it.started_ms.is_none()), "{}", suite::summary(&status));
    let left = lab.shell(host, &format!("ls -A {}", folder.display())).await?;
    ensure!(!left.contains(".grayfin-stage"), "something half-unpacked is left: {left}");
    lab.make_room(host, &folder).await?;
    lab.retry(id).await
}

/// The ledger's volume is full from the beginning of a hold on. What the ledger needs was reserved with
/// the hold; what is only kept beside it has no room, so the host is brought back before it is stopped.
async fn full_before_the_stop(lab: &Lab, id: &str, host: u8) -> anyhow::Result<()> {
    lab.wait_agent_stands(host).await?;
    lab.fill(host, &state(lab, host)?).await?;
    lab.agent_goes_on(host).await?;
    let name = lab.host(host)?.name.clone();
    lab.wait_halted(id, &[&name, "No space left", "state"]).await?;
    lab.wait_runs(host, FROM).await?;
    lab.make_room(host, &state(lab, host)?).await?;
    lab.retry(id).await
}

/// It is full from the moment on when everything is stopped: the room that was reserved lasts until the
/// host is up.
async fn full_while_all_is_stopped(lab: &Lab, host: u8) -> anyhow::Result<()> {
    lab.wait_agent_stands(host).await?;
    lab.fill(host, &state(lab, host)?).await?;
    lab.agent_goes_on(host).await?;
    lab.wait_runs(host, TO).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_at_unpacking_or_under_the_ledger_of_a_hold_leaves_nothing_half_done() {
    let options = Options { version: FROM.to_owned(), ..Options::default() };
    suite::in_lab(&options, async |lab| {
        let hosts = lab.order().await?;
        boot_on_a_volume(lab, hosts[0]).await?;
        // Which one leads has changed with it, perhaps.
        let hosts = {
            let mut order = lab.order().await?;
            order.retain(|host| *host != hosts[0]);
            [hosts[0], order[0], order[1]]
        };
        ledger_on_a_volume(lab, hosts[1], "act.execute.quiesce.before").await?;
        ledger_on_a_volume(lab, hosts[2], "act.execute.backup.before").await?;
        lab.wait_hosts_connected().await?;
        lab.wait_ready(TO, &CANARY).await?;
        let observer = lab.observer()?;
        taken_while_it_is_unpacked(lab, hosts[0]).await?;
        let id = lab.start_rollout(TO, &CANARY).await?;
        full_at_unpack(lab, &id, hosts[0]).await?;
        full_before_the_stop(lab, &id, hosts[1]).await?;
        full_while_all_is_stopped(lab, hosts[2]).await?;
        let name = lab.host(hosts[2])?.name.clone();
        wait::until("the host to be done", NOTICE_LIMIT, || async {
            let status = lab.rollout(&id).await.map_err(|error| format!("{error:#}"))?;
            let done =
                status.hosts.iter().any(|it| it.host.as_str() == name && it.ended_ms.is_some());
            if done { Ok(()) } else { Err(suite::summary(&status)) }
        })
        .await?;
        lab.make_room(hosts[2], &state(lab, hosts[2])?).await?;
        lab.ensure_good_end(&id, TO, &observer.stop()).await
    })
    .await;
}
