//! What every part of a node needs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use standin_model::{NodeRole, Timing};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::engine::Clock;
use super::log::Log;
use crate::config::{Role, Site};
use crate::faults::Faults;
use crate::net::Peers;
use crate::package::License;
use crate::package::trailer::Trailer;
use crate::version::Version;

/// Where the files of a node are.
#[derive(Debug)]
pub(crate) struct Places {
    /// HomeDir, as `getHomeDir()` answers it.
    pub(crate) home: PathBuf,
    /// The folder of this node alone: `<home>/<alias>` for controllers and DolphinDB agents.
    pub(crate) own: PathBuf,
    /// The working folder.
    pub(crate) work: PathBuf,
    /// The folder of the binary.
    pub(crate) server: PathBuf,
    /// The binary itself, as it was called at the start.
    pub(crate) program: PathBuf,
}

/// What every part of a node needs.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) role: Role,
    pub(crate) site: Site,
    pub(crate) version: Version,
    pub(crate) trailer: Trailer,
    pub(crate) license: License,
    pub(crate) places: Places,
    pub(crate) log: Log,
    pub(crate) faults: Faults,
    pub(crate) scale: f64,
    pub(crate) timing: Timing,
    pub(crate) clock: Clock,
    pub(crate) peers: Peers,
    pub(crate) runtime: Handle,
    /// The node's own configuration.
    pub(crate) settings: BTreeMap<String, String>,
    /// Whether the cluster has several controllers.
    pub(crate) ha: bool,
    /// The controllers, as the configuration names them.
    pub(crate) controllers: Vec<Site>,
    stopping: AtomicBool,
    stop: Notify,
}

impl Shared {
    #[expect(clippy::too_many_arguments, reason = "called once, with what a start works out")]
    pub(crate) fn new(
        (role, site): (Role, Site),
        (version, trailer): (Version, Trailer),
        license: License,
        places: Places,
        log: Log,
        (scale, timing): (f64, Timing),
        settings: BTreeMap<String, String>,
        (ha, controllers): (bool, Vec<Site>),
    ) -> Self {
        Self {
            role,
            site,
            version,
            trailer,
            license,
            faults: Faults::of(&places.own),
            places,
            log,
            scale,
            timing,
            clock: Clock::start(),
            peers: Peers::default(),
            runtime: Handle::current(),
            settings,
            ha,
            controllers,
            stopping: AtomicBool::new(false),
            stop: Notify::new(),
        }
    }

    /// Its alias.
    pub(crate) fn alias(&self) -> &str {
        &self.site.alias
    }

    /// The model's word for its role.
    pub(crate) fn model_role(&self) -> NodeRole {
        model_role(self.role)
    }

    /// The value of a key of its configuration.
    pub(crate) fn setting(&self, key: &str) -> Option<&str> {
        self.settings.get(key).map(String::as_str)
    }

    /// The value of a switch of its configuration.
    pub(crate) fn is_on(&self, key: &str) -> bool {
        self.setting(key).is_some_and(|value| matches!(value, "1" | "true" | "TRUE" | "True"))
    }

    /// A documented time, scaled.
    pub(crate) fn scaled(&self, documented: Duration) -> Duration {
        documented.mul_f64(self.scale)
    }

    /// Asks the node to stop, like the signal does.
    pub(crate) fn ask_to_stop(&self) {
        self.stop.notify_one();
    }

    /// Waits until somebody asks the node to stop.
    pub(crate) async fn asked_to_stop(&self) {
        self.stop.notified().await;
    }

    /// From now on nothing new is begun.
    pub(crate) fn begin_to_stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Is it about to end?
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// The controller of that alias.
    pub(crate) fn controller(&self, alias: &str) -> Option<&Site> {
        self.controllers.iter().find(|site| site.alias == alias)
    }
}

/// The model's word for a role.
pub(crate) fn model_role(role: Role) -> NodeRole {
    match role {
        Role::Controller => NodeRole::Controller,
        Role::DdbAgent => NodeRole::DdbAgent,
        Role::DataNode => NodeRole::DataNode,
        Role::ComputeNode => NodeRole::ComputeNode,
    }
}

/// The configuration's word for a role.
pub(crate) fn config_role(role: NodeRole) -> Role {
    match role {
        NodeRole::Controller => Role::Controller,
        NodeRole::DdbAgent => Role::DdbAgent,
        NodeRole::DataNode => Role::DataNode,
        NodeRole::ComputeNode => Role::ComputeNode,
    }
}
