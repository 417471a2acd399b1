//! Ready-made commands: a host enrols, a rollout over all hosts starts.

use grayfin_coordinator_core::Cmd;
use grayfin_coordinator_core::cmd::{Enrol, Start};
use grayfin_types::plan::{
    CanarySpec, Compatibility, HostPlan, Package, PauseAfter, Plan, Policy, StaysAlive, UpgradeMode,
};
use grayfin_types::{Generation, LedgerId, RolloutId};
use integration_tests::history::Host;

use super::parties::{HOSTS, cluster, host_id};

pub(crate) fn enrol(host: Host) -> Cmd {
    Cmd::Enrol(Enrol {
        host: host_id(host),
        clusters: [cluster()].into(),
        generation: Generation(1),
        ledger_id: LedgerId::new(format!("ledger-{host}")).unwrap(),
        ledger_position: 0,
        agent_version: "0.1.0".to_owned(),
        last_orders: [].into(),
        ledger: None,
    })
}

pub(crate) fn start(number: u64) -> Cmd {
    let host = |host: Host| HostPlan {
        host: host_id(host),
        reason: "in order".to_owned(),
        from: None,
        already_done: false,
        nodes: Vec::new(),
        has_leader: false,
        stays: StaysAlive::default(),
        backup: Vec::new(),
        backup_dir: "/backups".to_owned(),
        memory: Vec::new(),
    };
    Cmd::Start(Box::new(Start {
        request_id: format!("start-{number}"),
        rollout: RolloutId::new(format!("r-{number}")).unwrap(),
        plan: Plan {
            hash: "0".repeat(64),
            cluster: cluster(),
            target: "2.00.8.12".parse().unwrap(),
            mode: UpgradeMode::Native,
            package: Package { file: "p.zip".to_owned(), sha256: "0".repeat(64), bytes: 1 },
            compatibility: Compatibility { level: None, patch: true, why: "a patch".to_owned() },
            hosts: (1..=HOSTS).map(host).collect(),
            overrides: Vec::new(),
            accepted_losses: Vec::new(),
            policy: Policy::default(),
            canary: CanarySpec::Off,
            windows: Vec::new(),
            pause_after: PauseAfter::Never,
            point_of_no_return: "start".to_owned(),
        },
        findings: Vec::new(),
        by: "ann".to_owned(),
    }))
}
