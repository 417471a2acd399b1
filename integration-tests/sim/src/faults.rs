//! What goes wrong, and when: drawn from the seed, until the last fault clears.

use grayfin_coordinator_core::State;
use grayfin_types::{facts::NodeRole, step::Step};

use crate::{
    agent::StepFault,
    cluster::{NEW, OLD, Tree, version},
    dice::Dice,
    facts::Blur,
    message::Happening,
    world::World,
};

/// Where a process dies: `(writes to go, before the write)`.
type Death = Option<(u64, bool)>;

/// Makes another stream of chance of the same seed.
const SIDE: u64 = 0x05ea_f00d;

/// What is wrong now, and until when.
#[derive(Debug)]
pub struct Chaos {
    /// A node that its host's agent does not see, since when and until when.
    pub(crate) stray: Option<(usize, u64, u64)>,
    /// No fault begins after this.
    pub until_ms: u64,
    /// Faults that will be drawn.
    pub faults: u64,
    cut_until: Vec<u64>,
    slow_until: u64,
    lossy_until: u64,
    doubling_until: u64,
    skew: Vec<i64>,
    deaths: Vec<Death>,
    commit_death: Death,
    thawed: Vec<Option<u64>>,
    /// A backup of the coordinators' state that was taken.
    pub(crate) backup: Option<State>,
    /// Somebody is to stop a node just before a down action.
    pub strike: bool,
    /// When a node began to answer with the old version.
    pub old_version_ms: u64,
    /// When the cluster lost rows.
    pub rows_lost_ms: u64,
    /// Nothing is wrong by itself any more.
    pub over: bool,
    /// Chance of its own for what was added later, so that older seeds stay what they were.
    pub(crate) side: Dice,
}

impl Chaos {
    /// Draws how bad it will be.
    pub fn new(seed: u64, dice: &mut Dice) -> Self {
        // One run in ten is undisturbed, most have a few faults, some have many.
        let faults = match dice.roll(10) {
            0 => 0,
            1..=6 => dice.between(1, 4),
            _ => dice.between(5, 14),
        };
        Self {
            until_ms: if faults == 0 { 0 } else { dice.between(1_500, 14_000) },
            faults,
            stray: None,
            cut_until: vec![0; 8],
            slow_until: 0,
            lossy_until: 0,
            doubling_until: 0,
            skew: vec![0; 8],
            deaths: vec![None; 8],
            commit_death: None,
            thawed: vec![None; 8],
            backup: None,
            strike: false,
            old_version_ms: 0,
            rows_lost_ms: 0,
            over: faults == 0,
            side: Dice::new(seed ^ SIDE),
        }
    }

    /// Tells whether a host is cut off from the coordinators.
    pub fn is_cut(&self, h: usize, now_ms: u64) -> bool {
        self.cut_until.get(h).is_some_and(|until| *until > now_ms)
    }

    /// A link heals.
    pub fn heal(&mut self, h: usize) {
        if let Some(until) = self.cut_until.get_mut(h) {
            *until = 0;
        }
    }

    /// How far a host's wall clock is off.
    pub fn skew_ms(&self, h: usize) -> i64 {
        self.skew.get(h).copied().unwrap_or(0)
    }

    /// When a host agent that stood still went on.
    pub fn thawed_at(&self, h: usize) -> Option<u64> {
        self.thawed.get(h).copied().flatten()
    }

    /// Draws how long a message takes.
    pub fn delay(&self, dice: &mut Dice, now_ms: u64) -> u64 {
        if now_ms < self.slow_until { dice.between(5, 300) } else { dice.between(1, 4) }
    }

    /// Draws whether one is lost, and the connection with it.
    pub fn loses(&self, dice: &mut Dice, now_ms: u64) -> bool {
        now_ms < self.lossy_until && dice.percent(4)
    }

    /// Draws whether one comes twice.
    pub fn doubles(&self, dice: &mut Dice, now_ms: u64) -> bool {
        now_ms < self.doubling_until && dice.percent(30)
    }
}

impl World {
    pub(crate) fn plan_faults(&mut self) {
        for _ in 0..self.chaos.faults {
            let at = self.dice.between(400, self.chaos.until_ms);
            self.after(at, Happening::Fault);
        }
    }

    pub(crate) fn dies_at_write(&mut self, h: usize) -> Option<bool> {
        counts_down(&mut self.chaos.deaths[h])
    }

    pub(crate) fn dies_at_commit(&mut self) -> Option<bool> {
        counts_down(&mut self.chaos.commit_death)
    }

    /// Something goes wrong.
    pub(crate) fn fault(&mut self) {
        if self.chaos.over {
            return;
        }
        let h = self.target();
        match self.dice.roll(24) {
            0 => {
                let until = self.now_ms + self.dice.between(50, 3_000);
                self.chaos.cut_until[h] = until;
                self.tally.note("link cut");
                self.say(|w| format!("FAULT link of {} is cut until {until}", w.agents[h].id));
                // The other end finds out by keepalive.
                self.end_session(h);
            }
            1 => {
                for host in 0..self.agents.len() {
                    self.chaos.cut_until[host] = self.now_ms + self.dice.between(50, 2_000);
                    self.end_session(host);
                }
                self.tally.note("all links cut");
                self.say(|_| "FAULT all links are cut".to_owned());
            }
            2 => {
                self.chaos.slow_until = self.now_ms + self.dice.between(200, 3_000);
                self.tally.note("network slow");
                self.say(|_| "FAULT the network is slow".to_owned());
            }
            3 => {
                self.chaos.lossy_until = self.now_ms + self.dice.between(200, 2_000);
                self.tally.note("network lossy");
            }
            4 => {
                self.chaos.doubling_until = self.now_ms + self.dice.between(500, 6_000);
                self.tally.note("network doubles");
            }
            5..=7 => {
                let before = self.dice.percent(50);
                self.chaos.deaths[h] = Some((self.dice.between(1, 25), before));
                self.tally.note("host agent is to die at a write");
            }
            8 => {
                self.say(|w| format!("FAULT kill -9 agent {}", w.agents[h].id));
                self.kill_agent(h);
                self.tally.note("host agent killed at any moment");
            }
            9 => {
                let before = self.dice.percent(50);
                self.chaos.commit_death = Some((self.dice.between(1, 30), before));
                self.tally.note("coordinator is to die at a commit");
            }
            10 => self.fault_coordinator(),
            11 => self.fault_deposed(),
            12 | 13 => self.fault_step(h),
            14 => self.fault_reboot(h),
            15 => self.fault_stopped_by_hand(),
            16 => self.fault_frozen(h),
            17 => self.fault_disk(h),
            18 => self.fault_ledger(h),
            19 => self.fault_restored(),
            20 => self.fault_clone(),
            21 => self.fault_blur(),
            22 => self.fault_node(h),
            _ => self.fault_rare(h),
        }
    }

    /// Chooses a host; more often the one that is being worked on.
    fn target(&mut self) -> usize {
        let held = (0..self.agents.len()).find(|h| self.hold(*h).is_some());
        match held {
            Some(h) if self.dice.percent(65) => h,
            Some(_) | None => self.dice.index(self.agents.len()),
        }
    }

    fn fault_coordinator(&mut self) {
        let r = self.dice.index(self.groups[0].replicas.len());
        let r = self.groups[0].leader.filter(|_| self.dice.percent(70)).unwrap_or(r);
        self.kill_replica(0, r);
        self.tally.note("coordinator killed");
    }

    fn fault_deposed(&mut self) {
        if self.groups[0].replicas.len() > 1 {
            self.tally.note("lead lost without a crash");
            self.elect_soon(0);
        }
    }

    fn fault_step(&mut self, h: usize) {
        let step = Step::ALL[self.dice.index(Step::ALL.len())];
        let undo = self.dice.percent(25);
        let fault = match self.dice.roll(3) {
            0 => StepFault::Fail,
            1 => StepFault::Hang,
            _ => StepFault::Lie,
        };
        self.say(|w| format!("FAULT {} {step} undo {undo} will {fault:?}", w.agents[h].id));
        self.agents[h].faults.push((step, undo, fault));
        if undo {
            // Something must go wrong for it to be undone at all.
            self.agents[h].faults.push((Step::Backup, false, StepFault::Fail));
        }
        self.tally.note("step is to go wrong");
    }

    fn fault_reboot(&mut self, h: usize) {
        if !self.cluster.hosts[h].on {
            return;
        }
        self.say(|w| format!("FAULT {} reboots", w.agents[h].id));
        self.kill_agent(h);
        self.cluster.power_off(h, self.now_ms);
        self.tally.note("machine restarted");
        let after = self.dice.between(100, 1_500);
        self.after(after, Happening::PowerOn { host: h });
    }

    fn fault_stopped_by_hand(&mut self) {
        if self.dice.percent(60) {
            self.chaos.strike = true;
            return;
        }
        self.stop_by_hand(None);
    }

    /// A node of another host is stopped by hand just before a down action, if that was drawn.
    pub(crate) fn strike(&mut self, h: usize) {
        let again = self.chaos.faults > 0 && self.chaos.side.percent(4);
        if (std::mem::take(&mut self.chaos.strike) || again) && !self.chaos.over {
            self.stop_by_hand(Some(h));
            self.tally.note("node of another host stopped just before a down action");
        }
    }

    fn stop_by_hand(&mut self, except: Option<usize>) {
        let node = self.dice.index(self.cluster.nodes.len());
        if Some(self.cluster.nodes[node].host) == except {
            return;
        }
        let alias = self.cluster.nodes[node].spec.alias.clone();
        self.say(|_| format!("FAULT somebody stops {alias}"));
        self.cluster.gone(node, self.now_ms);
        self.tally.note("node stopped by hand");
    }

    fn fault_frozen(&mut self, h: usize) {
        let until = self.now_ms + self.dice.between(200, 5_000);
        self.agents[h].frozen_until = until;
        self.chaos.thawed[h] = Some(until);
        self.say(|w| format!("FAULT {} stands still until {until}", w.agents[h].id));
        self.tally.note("host agent stood still");
        // Keepalive ends its session meanwhile.
        self.end_session(h);
    }

    fn fault_disk(&mut self, h: usize) {
        self.cluster.hosts[h].full = true;
        self.say(|w| format!("FAULT {} has no room", w.agents[h].id));
        self.tally.note("disk full");
    }

    fn fault_blur(&mut self) {
        let blur = match self.dice.roll(3) {
            0 => Blur::NoLeader,
            1 => Blur::NoChunks,
            _ => Blur::NoAnswers,
        };
        let until = self.now_ms + self.dice.between(200, 3_000);
        let blur = match self.chaos.side.roll(6) {
            0 => Blur::OneDissents,
            1 => Blur::AllDissent,
            2 => Blur::Ghosts,
            _ => blur,
        };
        if self.chaos.side.percent(30) {
            self.fault_stray(until);
        }
        for agent in &mut self.agents {
            agent.blur = blur;
            agent.blur_until = until;
        }
        self.say(|_| format!("FAULT looks are {blur:?} until {until}"));
        self.tally.note("facts unknown");
    }

    fn fault_node(&mut self, h: usize) {
        let of_host: Vec<usize> = self.cluster.of_host(h).collect();
        let node = of_host[self.dice.index(of_host.len())];
        if self.dice.percent(50) {
            self.cluster.nodes[node].dud_starts =
                u32::try_from(self.dice.between(1, 4)).unwrap_or(1);
            self.tally.note("node is to fail at start");
        } else {
            self.cluster.nodes[node].deaf = true;
            self.tally.note("node is to ignore a stop");
        }
    }

    fn fault_rare(&mut self, h: usize) {
        match self.dice.roll(7) {
            5 | 6 => self.fault_version(),
            0 => {
                self.chaos.skew[h] =
                    i64::try_from(self.dice.roll(14_400_000)).unwrap_or(0) - 7_200_000;
                self.tally.note("clock jumped");
            }
            1 => {
                self.cluster.hosts[h].forgets_memory = true;
                self.tally.note("startup script fails");
            }
            2 => {
                self.cluster.lost_rows = 3;
                self.chaos.rows_lost_ms = self.now_ms;
                self.tally.note("rows lost by the cluster");
            }
            3 => {
                // A colleague starts a node of a host that is being worked on.
                for node in self.cluster.of_host(h).collect::<Vec<_>>() {
                    if self.cluster.nodes[node].spec.role == NodeRole::DataNode
                        && self.cluster.start(node, self.now_ms + 10)
                    {
                        self.tally.note("node started by hand");
                    }
                }
            }
            _ => {
                if self.cluster.hosts.iter().any(|host| host.dead) {
                    return;
                }
                self.say(|w| format!("FAULT {} dies for good", w.agents[h].id));
                self.kill_agent(h);
                self.cluster.power_off(h, self.now_ms);
                self.cluster.hosts[h].dead = true;
                self.tally.note("host died for good");
            }
        }
    }

    /// A node of a host that is up again answers with the old version.
    fn fault_version(&mut self) {
        let up = |h: &usize| {
            self.cluster.hosts[*h].tree == Tree::New
                && self.truth.hosts[*h].disturbed.is_some()
                && self.cluster.all_up(*h)
        };
        let Some(h) = (0..self.agents.len()).find(up) else {
            // Its time comes.
            self.after(150, Happening::Fault);
            return;
        };
        let first = self.cluster.of_host(h).next();
        if let Some(node) = first {
            self.cluster.nodes[node].version = version(OLD);
            self.chaos.old_version_ms = self.now_ms;
            self.tally.note("node answers with the old version");
        }
    }

    /// The last fault clears.
    pub(crate) fn calm(&mut self) {
        if self.chaos.over || self.now_ms < self.chaos.until_ms + 200 {
            return;
        }
        self.chaos.over = true;
        self.say(|_| "the last fault clears".to_owned());
        self.end_clone();
        self.chaos.deaths.iter_mut().for_each(|death| *death = None);
        self.chaos.commit_death = None;
        self.chaos.cut_until.iter_mut().for_each(|until| *until = 0);
        (self.chaos.slow_until, self.chaos.lossy_until, self.chaos.doubling_until) = (0, 0, 0);
        for agent in &mut self.agents {
            agent.faults.clear();
            agent.blur_until = 0;
            agent.frozen_until = agent.frozen_until.min(self.now_ms);
        }
        for host in &mut self.cluster.hosts {
            host.full = false;
            host.forgets_memory = false;
        }
        for node in &mut self.cluster.nodes {
            node.deaf = false;
            node.dud_starts = 0;
            if node.up && self.cluster.hosts[node.host].tree == Tree::New {
                node.version = version(NEW);
            }
        }
    }
}

fn counts_down(death: &mut Death) -> Option<bool> {
    let (left, before) = (*death)?;
    if left > 0 {
        *death = Some((left - 1, before));
        return None;
    }
    *death = None;
    Some(before)
}
