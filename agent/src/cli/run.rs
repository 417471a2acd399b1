//! `grayfin-agent run`.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, load};
use crate::{
    canary::{Canaries, Limits, Site},
    config::{Appearance, Settings},
    files,
    ledger::Ledger,
    probe::{Looks, Options, ProbedNodes, Prober},
    serve::{self, Hands},
    steps::{
        host::HostSteps,
        nodes::{Nodes, PerCluster},
    },
    telemetry,
};

/// What runs when the program is told to end gets this long; then it ends all the same. Whatever it
/// was doing, the next start goes on from the ledger.
const SHUTDOWN_MAX: Duration = Duration::from_secs(2);

/// Threads for what does not block: looks at a hundred nodes, the link, the loops. Little stacks and
/// arenas keep the idle host agent small.
const WORKERS: usize = 2;

/// Runs the host agent until a signal or an error ends it.
pub(super) fn run(config: &Path) -> Result<(), Failure> {
    telemetry::init();
    let usage = |e: crate::config::Error| Failure::usage(Some(e.code()), files::chain(&e));
    Appearance::own().check().map_err(usage)?;
    let settings = load(config)?;
    let generation = settings.check_identity().map_err(usage)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .map_err(|e| Failure::internal(format!("start the runtime: {e}")))?;
    let settings = Arc::new(settings);
    let ended = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())
            .map_err(|e| Failure::internal(format!("wait for signals: {e}")))?;
        let mut interrupt = signal(SignalKind::interrupt())
            .map_err(|e| Failure::internal(format!("wait for signals: {e}")))?;
        tokio::select! {
            ended = serve::serve(Arc::clone(&settings), generation, hands(&settings)) => {
                ended.map_err(|e| Failure::refused(e.code(), &e))
            }
            _ = terminate.recv() => told_to_end(),
            _ = interrupt.recv() => told_to_end(),
        }
    });
    runtime.shutdown_timeout(SHUTDOWN_MAX);
    ended
}

fn told_to_end() -> Result<(), Failure> {
    tracing::info!("told to end: DolphinDB's nodes and any open hold stay as they are");
    Ok(())
}

/// What observes and acts on this host.
fn hands(
    settings: &Arc<Settings>,
) -> Hands<
    HostSteps,
    Looks,
    impl FnOnce(&Arc<Ledger>, tokio::sync::mpsc::Sender<grayfin_proto::v1::CanaryReport>) -> Canaries
    + use<>,
> {
    let probers = probers(settings);
    let nodes = probers.iter().map(|(cluster, prober)| {
        let nodes: Arc<dyn Nodes> = Arc::new(ProbedNodes::new(prober.clone()));
        (cluster.clone(), nodes)
    });
    let nodes = PerCluster::new(nodes.collect());
    let look = Looks::new(probers.clone());
    let (host, state_dir) = (settings.host.clone(), settings.state_dir.clone());
    Hands {
        executor: Arc::new(HostSteps::new(Arc::new(nodes))),
        look: Arc::new(look),
        canary: move |ledger: &Arc<Ledger>, reports| {
            let sites = probers.into_iter().map(|(cluster, prober)| {
                let ledger = Arc::clone(ledger);
                let held = move || ledger.state(|state| state.hold.is_some());
                (cluster, Site::new(prober, Limits::default(), held))
            });
            Canaries::new(host, &state_dir, sites.collect(), reports)
        },
    }
}

/// One prober for each installation.
pub(super) fn probers(settings: &Settings) -> BTreeMap<grayfin_types::ClusterId, Prober> {
    let make = |installation: &Arc<crate::config::Installation>| {
        let prober = Prober::new(
            settings.host.clone(),
            Arc::clone(installation),
            settings.state_dir.clone(),
            Options::default(),
        );
        (installation.cluster.clone(), prober)
    };
    settings.installations.iter().map(make).collect()
}
