//! A healthy cluster whose facts a test bends, and a gate that is asked about it.

use grayfin_coordinator_core::gates::{Gate, Input, Moment, ask, passes};
use grayfin_types::{
    Code, HostId,
    facts::{ClusterFacts, HostFacts, Probe},
    gate::Decision,
    plan::{CanarySpec, Override, Policy, Window},
};

use crate::{
    model::{NEW, cluster, host, version},
    world::{World, policy},
};

/// A cluster that is looked at, and what a gate is asked with.
pub(crate) struct Bench {
    pub(crate) world: World,
    pub(crate) hosts: Vec<HostId>,
    pub(crate) moment: Moment,
    pub(crate) policy: Policy,
    pub(crate) target: String,
    pub(crate) overrides: Vec<Override>,
    pub(crate) losses: Vec<String>,
    pub(crate) accepted: Option<String>,
    pub(crate) canary: CanarySpec,
    pub(crate) windows: Vec<Window>,
}

pub(crate) fn unknown<T>() -> Probe<T> {
    Probe::Unknown("it was not readable".to_owned())
}

impl Bench {
    pub(crate) fn new(hosts: usize) -> Self {
        let mut world = World::new(hosts);
        for _ in 0..20 {
            world.view.demand(&cluster(), None, world.now_ms + 60_000);
            world.step();
        }
        Self {
            world,
            hosts: (1..=hosts).map(host).collect(),
            moment: Moment::Start,
            policy: policy(),
            target: NEW.to_owned(),
            overrides: Vec::new(),
            losses: Vec::new(),
            accepted: None,
            canary: CanarySpec::Off,
            windows: Vec::new(),
        }
    }

    pub(crate) fn host(&mut self, number: usize) -> &mut HostFacts {
        let seen = self.world.view.hosts.get_mut(&host(number)).unwrap();
        &mut seen.facts.get_mut(&cluster()).unwrap().value
    }

    pub(crate) fn cluster(&mut self) -> &mut ClusterFacts {
        let seen = self.world.view.clusters.get_mut(&cluster()).unwrap();
        &mut seen.facts.as_mut().unwrap().value
    }

    pub(crate) fn chunks(&mut self) -> &mut grayfin_types::facts::ChunkFacts {
        let seen = self.world.view.clusters.get_mut(&cluster()).unwrap();
        &mut seen.chunks.as_mut().unwrap().facts
    }

    pub(crate) fn node_down(&mut self, name: &str) {
        if let Probe::Known(nodes) = &mut self.cluster().nodes {
            nodes.iter_mut().find(|n| n.spec.alias.as_str() == name).unwrap().up = false;
        }
    }

    pub(crate) fn ask(&self, gate: Gate) -> Decision {
        self.find(gate).0
    }

    pub(crate) fn find(&self, gate: Gate) -> (Decision, bool) {
        let cluster = cluster();
        let target = version(&self.target);
        let input = Input {
            state: &self.world.state,
            view: &self.world.view,
            now_ms: self.world.now_ms,
            moment: self.moment,
            cluster: &cluster,
            policy: &self.policy,
            target: &target,
            hosts: &self.hosts,
            overrides: &self.overrides,
            accepted_losses: &self.losses,
            compat_accepted: self.accepted.as_deref(),
            canary: &self.canary,
            windows: &self.windows,
            rollout: None,
        };
        let finding = ask(&[gate], &input).remove(0);
        let passes = passes(&finding);
        (finding.decision, passes)
    }

    pub(crate) fn goes(&self, gate: Gate) {
        let found = self.ask(gate);
        assert_eq!(found, Decision::Go, "{}", gate.name());
    }

    /// Checks that it stands against it, with a code, naming a subject, and with a remedy.
    pub(crate) fn against(&self, gate: Gate, stop: bool, code: Code, subject: &str) {
        let found = self.ask(gate);
        let is_stop = matches!(found, Decision::Stop { .. });
        let about = |r: &grayfin_types::gate::Reason| r.code == code && r.subject.contains(subject);
        assert!(found.reasons().iter().any(about), "{}: {found:#?}", gate.name());
        assert_eq!(is_stop, stop, "{}: {found:#?}", gate.name());
        assert!(found.reasons().iter().all(|r| !r.remedy.is_empty() && !r.evidence.is_empty()));
    }

    pub(crate) fn holds(&self, gate: Gate, code: Code, subject: &str) {
        self.against(gate, false, code, subject);
    }

    pub(crate) fn stops(&self, gate: Gate, code: Code, subject: &str) {
        self.against(gate, true, code, subject);
    }
}

pub(crate) fn after_a_while(hosts: usize, ms: u64) -> Bench {
    let mut bench = Bench::new(hosts);
    bench.world.now_ms += ms;
    bench
}
