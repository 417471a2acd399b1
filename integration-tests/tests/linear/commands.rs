//! Ready-made commands: a host enrols, a rollout over all hosts starts.

use grayfin_coordinator_core::Cmd;
use grayfin_coordinator_core::cmd::{Enrol, Start};
use grayfin_types::plan::{HostPlan, Plan};
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
    let hosts = (1..=HOSTS).map(|host| HostPlan::bare(host_id(host))).collect();
    Cmd::Start(Box::new(Start {
        request_id: format!("start-{number}"),
        rollout: RolloutId::new(format!("r-{number}")).unwrap(),
        plan: Plan {
            hash: "0".repeat(64),
            ..Plan::bare(cluster(), "2.00.8.12".parse().unwrap(), hosts)
        },
        findings: Vec::new(),
        by: "ann".to_owned(),
    }))
}
