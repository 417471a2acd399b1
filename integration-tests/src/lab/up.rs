//! Bringing a lab up.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Context;
use standin::config::Role;
use standin::package::Release;

use super::{Lab, Paths, Spec, config, net};
use crate::binaries::Binaries;
use crate::hostns::Isolation;
use crate::packages::Packages;
use crate::range;
use crate::relay::Relay;
use crate::tools;
use crate::topology::{Cluster, Host, Node, Options, Range, Topology};
use crate::wait;

/// Makes everything in a folder and returns when it is healthy. Whatever goes wrong or stops this in
/// the middle, the half-made lab goes again: from the moment there is something to clean up, a [`Lab`]
/// exists that does it when dropped.
pub(super) async fn bring_up(folder: &Path, options: &Options) -> anyhow::Result<Lab> {
    let started = Instant::now();
    let release = Release::of(&options.version).with_context(|| {
        let known: Vec<String> = Release::all().into_iter().map(|it| it.version).collect();
        format!("`{}` is not modelled: {}", options.version, known.join(", "))
    })?;
    Topology::new(options, Range { a: 16, b: 0 }).map_err(|reason| anyhow::anyhow!(reason))?;
    let (binaries, packages) = tokio::task::spawn_blocking(|| {
        let binaries = Binaries::ensure()?;
        let packages = Packages::ensure(&binaries)?;
        anyhow::Ok((binaries, packages))
    })
    .await??;
    tracing::info!(elapsed = ?started.elapsed(), "programs and packages are ready");
    let isolation = if options.netns {
        net::may_make_networks()?;
        Isolation::Networks
    } else if options.no_namespaces {
        Isolation::Signals
    } else {
        Isolation::detect()
    };
    if !matches!(isolation, Isolation::Namespaces | Isolation::Networks) {
        tracing::warn!("{}", isolation.describe());
    }
    let claim = range::claim()?;
    let topology = Topology::new(options, claim.range).map_err(|reason| anyhow::anyhow!(reason))?;
    let paths = Paths::of_new(folder)?;
    let spec = Spec { options: options.clone(), topology, isolation };
    let mut lab = Lab { paths, spec, owned: Mutex::default(), ours: true, relays: Vec::new() };
    fs::write(lab.paths.spec(), serde_json::to_vec_pretty(&lab.spec)?).context("write lab.json")?;
    let _lock = lab.lock()?;
    copy_programs(&lab.paths, &binaries, options)?;
    install_everywhere(&lab, &packages, &release)?;
    if !options.no_grayfin {
        lab.write_grayfin()?;
    }
    tracing::info!(elapsed = ?started.elapsed(), range = %claim.range, "files are in place");
    let names: Vec<String> = lab.spec.topology.machines().map(str::to_owned).collect();
    lab.power_the_switch().await?;
    for name in &names {
        let owner = lab.machine(name).switch_on(Some(claim.copy()?)).await?;
        lab.keep(owner);
        lab.plug_in(name)?;
    }
    drop(claim);
    if options.relayed {
        for coordinator in &lab.spec.topology.coordinators {
            let listen = coordinator.relay_address();
            let relay = Relay::start(&listen, coordinator.address.clone()).await;
            lab.relays.push(relay.with_context(|| format!("listen on `{listen}`"))?);
        }
    }
    start_grayfin(&lab).await?;
    start_database(&lab).await?;
    tracing::info!(elapsed = ?started.elapsed(), "nodes are started");
    lab.wait_healthy().await?;
    if !options.no_grayfin {
        lab.wait_hosts_connected().await?;
    }
    tracing::info!(elapsed = ?started.elapsed(), "the lab is healthy");
    Ok(lab)
}

/// Copies our programs, so that a build meanwhile changes nothing, and adds the scripts' tools.
fn copy_programs(paths: &Paths, binaries: &Binaries, options: &Options) -> anyhow::Result<()> {
    let folder = paths.programs();
    fs::create_dir_all(&folder).with_context(|| format!("make `{}`", folder.display()))?;
    let mut programs = vec![(binaries.lab(), "lab")];
    if !options.no_grayfin {
        programs.push((binaries.grayfin(), "grayfin"));
        programs.push((binaries.grayfin_agent(), "grayfin-agent"));
    }
    for (from, name) in programs {
        let to = folder.join(name);
        fs::copy(&from, &to)
            .with_context(|| format!("copy `{}` to `{}`", from.display(), to.display()))?;
    }
    for name in tools::NAMES {
        fs::hard_link(folder.join("lab"), folder.join(name))
            .with_context(|| format!("add `{name}`"))?;
    }
    Ok(())
}

/// Installs every cluster on every host, hosts at the same time.
fn install_everywhere(lab: &Lab, packages: &Packages, release: &Release) -> anyhow::Result<()> {
    std::thread::scope(|scope| {
        let workers: Vec<_> = lab
            .spec
            .topology
            .hosts
            .iter()
            .map(|host| scope.spawn(move || install_host(lab, packages, release, host)))
            .collect();
        for worker in workers {
            worker.join().map_err(|_panic| anyhow::anyhow!("an installer panicked"))??;
        }
        Ok(())
    })
}

fn install_host(
    lab: &Lab,
    packages: &Packages,
    release: &Release,
    host: &Host,
) -> anyhow::Result<()> {
    for cluster in &lab.spec.topology.clusters {
        if !cluster.nodes.iter().any(|node| node.host == host.number) {
            continue;
        }
        let folder = lab.paths.machine(&host.name).join(cluster.installation());
        packages.builder().install(release, &folder)?;
        write_configuration(lab, cluster, host)?;
    }
    packages.put_all(&lab.paths.packages(&host.name))
}

/// Replaces the package's sample configuration by the cluster's.
fn write_configuration(lab: &Lab, cluster: &Cluster, host: &Host) -> anyhow::Result<()> {
    let options = &lab.spec.options;
    let folder = lab.paths.work(&host.name, cluster).join("config");
    let has_controller = cluster.on_host(host.number, Role::Controller).is_some();
    let shared = |text: String| has_controller.then_some(text);
    for (name, text) in [
        ("controller.cfg", config::controller(cluster, host.number, options)),
        ("agent.cfg", config::agent(cluster, host.number, options)),
        ("cluster.cfg", shared(config::cluster(options))),
        ("cluster.nodes", shared(config::nodes(cluster))),
    ] {
        let path = folder.join(name);
        match text {
            Some(text) => fs::write(&path, text),
            None => fs::remove_file(&path),
        }
        .with_context(|| format!("write `{}`", path.display()))?;
    }
    Ok(())
}

/// Starts controllers and DolphinDB agents by script, then the rest through the leader.
async fn start_database(lab: &Lab) -> anyhow::Result<()> {
    for cluster in &lab.spec.topology.clusters {
        for role in [Role::Controller, Role::DdbAgent] {
            for node in cluster.with_role(role) {
                lab.start_by_script(node).await?;
            }
        }
    }
    for cluster in &lab.spec.topology.clusters {
        lab.wait_leader(cluster).await?;
        let aliases: Vec<&str> = cluster.started_by_leader().map(Node::alias).collect();
        let limit = lab.limit(Duration::from_secs(30));
        wait::until("the leader to start the data nodes", limit, || async {
            lab.start_by_leader(cluster, &aliases).await.map_err(|error| format!("{error:#}"))
        })
        .await?;
    }
    Ok(())
}

async fn start_grayfin(lab: &Lab) -> anyhow::Result<()> {
    if lab.spec.options.no_grayfin {
        return Ok(());
    }
    for coordinator in &lab.spec.topology.coordinators {
        lab.start_coordinator(coordinator.number).await?;
    }
    lab.form_group().await?;
    for host in &lab.spec.topology.hosts {
        lab.start_agent(host).await?;
    }
    Ok(())
}
