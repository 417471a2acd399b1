//! Doubles for the tests of steps: a ledger in memory, coordinators that say what the test wants.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use grayfin_types::{
    Code, DdbVersion, HostId, NodeAlias, RolloutId, Token,
    plan::{HostPlan, Package, Plan, UpgradeMode},
    step::{Happened, Step},
};
use serde_json::Value;

use super::{
    Boxed, Context, Coordination, Denied, Record, Records, Reporting, StepError, Stop, Work,
};
use crate::config::{Installation, StopBy, Units};

/// Makes work for host `host43` of cluster `trade`, whose plan is empty: tests change what they need.
pub fn work() -> Work {
    let host: HostId = "host43".parse().expect("a good id");
    let installation = Installation {
        cluster: "trade".parse().expect("a good id"),
        server_dir: PathBuf::from("/s"),
        executable: "ddb".to_owned(),
        work_dir: PathBuf::from("/s/clusterDemo"),
        package_dir: PathBuf::from("/p"),
        backup_dir: PathBuf::from("/b"),
        credentials_file: PathBuf::from("/c"),
        upgrade_mode: UpgradeMode::Native,
        upgrade_script: PathBuf::from("/s/clusterDemo/upgrade.sh"),
        path: "/usr/bin:/bin".to_owned(),
        start_controller: vec!["true".to_owned()],
        start_ddb_agent: vec!["true".to_owned()],
        stop: StopBy::Signal,
        units: Units { systemctl: "systemctl".to_owned(), names: BTreeMap::new() },
    };
    let host_plan = HostPlan::bare(host.clone());
    let target: DdbVersion = "2.00.8.12".parse().expect("a good version");
    let plan = Plan::bare(installation.cluster.clone(), target, vec![host_plan.clone()]);
    let rollout: RolloutId = "r1".parse().expect("a good id");
    Work {
        host,
        installation: Arc::new(installation),
        rollout,
        token: Token(5),
        plan: Arc::new(plan),
        host_plan,
        state_dir: PathBuf::from("/state"),
        work_dir: PathBuf::from("/state/hold-5"),
    }
}

/// A ledger, coordinator and listener in one.
#[derive(Debug, Default)]
pub struct Double {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    records: Vec<Record>,
    passing: Vec<(Step, bool, Happened)>,
    first_start: bool,
    asked: Vec<Vec<NodeAlias>>,
    denied: Option<Denied>,
    broken: Option<StepError>,
    package: Option<Vec<u8>>,
}

impl Double {
    /// Makes a context for one step of `work`, with a limit of one minute.
    pub fn context(self: &Arc<Self>, work: Work, step: Step) -> Context {
        let whole = Context::new(
            Arc::new(work),
            Arc::clone(self) as Arc<dyn Records>,
            Arc::clone(self) as Arc<dyn Coordination>,
            Arc::clone(self) as Arc<dyn Reporting>,
        );
        whole.for_step(step, false, Duration::from_secs(60), Stop::default())
    }

    /// Everything that was recorded.
    pub fn records(&self) -> Vec<Record> {
        self.with(|inner| inner.records.clone())
    }

    /// Every passing report: step, undo, what.
    pub fn passing(&self) -> Vec<(Step, bool, Happened)> {
        self.with(|inner| inner.passing.clone())
    }

    /// Which nodes a go was asked for, in order.
    pub fn asked(&self) -> Vec<Vec<NodeAlias>> {
        self.with(|inner| inner.asked.clone())
    }

    /// Says no to every go from now on.
    pub fn deny(&self, denied: Denied) {
        self.with(|inner| inner.denied = Some(denied));
    }

    /// Fails every durable write from now on, as a full disk does; `None` mends it.
    pub fn break_ledger(&self, error: Option<StepError>) {
        self.with(|inner| inner.broken = error);
    }

    /// Says whether the first-start intent is durable.
    pub fn set_first_start(&self, on: bool) {
        self.with(|inner| inner.first_start = on);
    }

    /// Serves these bytes as the package.
    pub fn serve_package(&self, bytes: Vec<u8>) {
        self.with(|inner| inner.package = Some(bytes));
    }

    /// Empties a step's journal, as its finished undo does.
    pub fn undone(&self, undone: Step) {
        self.with(|inner| {
            inner.records.retain(|r| !matches!(r, Record::Journal { step, .. } if *step == undone));
        });
    }

    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Records for Double {
    fn append(&self, record: Record) -> Result<(), StepError> {
        self.with(|inner| match &inner.broken {
            Some(error) => Err(error.clone()),
            None => {
                inner.records.push(record);
                Ok(())
            }
        })
    }

    fn captured(&self, wanted: &str) -> Option<Value> {
        self.with(|inner| {
            inner.records.iter().find_map(|record| match record {
                Record::Captured { key, value } if key == wanted => Some(value.clone()),
                Record::Captured { .. } | Record::Journal { .. } | Record::GoingDown { .. } => None,
            })
        })
    }

    fn journal(&self, of: Step, wanted: &str) -> Vec<Value> {
        self.with(|inner| {
            let lines = inner.records.iter().filter_map(|record| match record {
                Record::Journal { step, key, value } if *step == of && key == wanted => {
                    Some(value.clone())
                }
                Record::Captured { .. } | Record::Journal { .. } | Record::GoingDown { .. } => None,
            });
            lines.collect()
        })
    }

    fn first_start(&self) -> bool {
        self.with(|inner| inner.first_start)
    }
}

impl Coordination for Double {
    fn ask_go<'a>(
        &'a self,
        _: &'a Work,
        nodes: &'a [NodeAlias],
        _: Duration,
    ) -> Boxed<'a, Result<(), Denied>> {
        let answer = self.with(|inner| {
            inner.asked.push(nodes.to_vec());
            inner.denied.clone().map_or(Ok(()), Err)
        });
        Box::pin(std::future::ready(answer))
    }

    fn fetch_package<'a>(
        &'a self,
        _: &'a Work,
        package: &'a Package,
        target: &'a Path,
    ) -> Boxed<'a, Result<(), StepError>> {
        let missing = || StepError::new(Code::PackageMissing, package.file.clone());
        let bytes = self.with(|inner| inner.package.clone()).ok_or_else(missing);
        let written = bytes.and_then(|bytes| {
            std::fs::write(target, bytes)
                .map_err(|e| StepError::new(Code::PackageMissing, e.to_string()))
        });
        Box::pin(std::future::ready(written))
    }
}

impl Reporting for Double {
    fn passing(&self, step: Step, undo: bool, happened: Happened) {
        self.with(|inner| inner.passing.push((step, undo, happened)));
    }
}
