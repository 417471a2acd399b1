//! The store on the Raft engine.

use std::{collections::BTreeMap, fmt, path::Path, sync::Arc, time::Duration};

use grayfin_coordinator_core::{Cmd, Response, State, invariant::Violation};
use grayfin_types::{RolloutId, Seq, Term, event::Event};
use openraft::{
    Config, ServerState, SnapshotPolicy,
    error::{CheckIsLeaderError, RaftError},
};
use tokio::sync::watch;

use super::{
    Change, Error, Leadership, Member, Refused, Store,
    file::File,
    log::LogStore,
    machine::Machine,
    proposer::Proposer,
    types::{NodeInfo, Raft},
};
use crate::group::Network;

/// Entries between two snapshots. A rollout of 100 hosts makes some 5,000, a snapshot of it a few
/// megabytes.
const SNAPSHOT_EVERY: u64 = 5_000;

/// Entries that stay after a snapshot, for a peer that was away for a moment.
const KEPT_AFTER_SNAPSHOT: u64 = 1_000;

/// For the confirmation of the lead: a heartbeat to a majority and back.
const CONFIRM_MAX: Duration = Duration::from_secs(2);

/// Between two heartbeats that confirm the lead.
const CONFIRM_AGAIN: Duration = Duration::from_millis(50);

/// For a group of one to elect itself at the start; measured 3 to 95 ms.
const FORM_MAX: Duration = Duration::from_secs(10);

/// For another coordinator to be elected, besides the time that the timers take.
const ASIDE_MIN: Duration = Duration::from_secs(1);

/// What the store needs to know to open.
#[derive(Debug, Clone)]
pub struct Options {
    /// This coordinator's id.
    pub id: u64,
    /// Where others reach it.
    pub address: String,
    /// Certificate files for calls to the others.
    pub tls: grayfin_proto::tls::Files,
    /// Timing.
    pub timing: crate::config::Raft,
    /// An empty folder becomes a group of one. Otherwise it waits until a group takes it in.
    pub form: bool,
}

/// The store of one coordinator. Clones are handles to the same one.
#[derive(Clone)]
pub struct Replicated {
    pub(super) id: u64,
    instance: String,
    pub(super) raft: Raft,
    machine: Machine,
    proposer: Proposer,
    leadership: watch::Receiver<Leadership>,
    /// It steps aside: it takes nothing more, so that the others elect one of them.
    pub(super) aside: watch::Sender<bool>,
    /// For another one to be elected, when this one steps aside.
    pub(super) aside_max: Duration,
}

impl fmt::Debug for Replicated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replicated")
            .field("id", &self.id)
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

impl Replicated {
    /// Opens log and state in a folder. Everything in it is checked; nothing is started.
    pub fn open_files(dir: &Path) -> Result<(LogStore, Machine, String), Error> {
        let file = Arc::new(File::open(dir)?);
        let machine = Machine::load(Arc::clone(&file))?;
        let log = LogStore::open(dir, Arc::clone(&file), machine.clone())?;
        Ok((log, machine, file.instance().to_owned()))
    }

    /// Opens the store and starts the engine.
    pub async fn open(dir: &Path, options: &Options) -> Result<Self, Error> {
        let (log, machine, instance) = Self::open_files(dir)?;
        let network = Network::new(options.tls.clone(), instance.clone());
        let engine = |e: &dyn fmt::Display| Error::Engine(e.to_string());
        let config = engine_config(options.timing)?;
        let raft = Raft::new(options.id, Arc::new(config), network, log, machine.clone())
            .await
            .map_err(|e| engine(&e))?;
        if options.form && !raft.is_initialized().await.map_err(|e| engine(&e))? {
            let own = NodeInfo { address: options.address.clone(), instance: instance.clone() };
            raft.initialize(BTreeMap::from([(options.id, own)])).await.map_err(|e| engine(&e))?;
            tracing::info!(coordinator = options.id, "formed a group of one");
        }
        let aside = watch::channel(false).0;
        let leadership = follow_leadership(options.id, &raft, aside.subscribe());
        let store = Self {
            id: options.id,
            instance,
            proposer: Proposer::start(raft.clone()),
            raft,
            machine,
            leadership,
            aside,
            aside_max: ASIDE_MIN + Duration::from_millis(options.timing.election_max_ms) * 4,
        };
        store.await_own_lead().await?;
        Ok(store)
    }

    /// A group of one leads itself before anything is served, so that its first caller is not
    /// sent away; in a larger group the others may be down, and it serves what it has.
    async fn await_own_lead(&self) -> Result<(), Error> {
        let voters = self
            .raft
            .with_raft_state(|state| state.membership_state.effective().voter_ids().count())
            .await
            .map_err(|e| Error::Engine(e.to_string()))?;
        if voters != 1 {
            return Ok(());
        }
        let mut leadership = self.leadership.clone();
        let led = leadership.wait_for(|l| l.leads || l.fatal.is_some());
        match tokio::time::timeout(FORM_MAX, led).await {
            Ok(Ok(now)) => match &now.fatal {
                Some(why) => Err(Error::Engine(why.clone())),
                None => Ok(()),
            },
            Ok(Err(_)) => Err(Error::Engine("it ended at once".to_owned())),
            Err(_) => Err(Error::Engine("a group of one did not elect itself".to_owned())),
        }
    }

    /// Returns the engine, for the group's service.
    pub const fn raft(&self) -> &Raft {
        &self.raft
    }

    /// Returns the random name of the state folder.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Returns the ids of the members as applied here: a change that is not yet committed is not seen.
    pub fn applied_members(&self) -> Vec<u64> {
        self.machine.members()
    }

    /// Stops the engine and stores the state as it is.
    pub async fn close(&self) -> Result<(), Error> {
        self.raft.shutdown().await.map_err(|e| Error::Engine(e.to_string()))?;
        self.machine.flush()
    }
}

#[tonic::async_trait]
impl Store for Replicated {
    fn id(&self) -> u64 {
        self.id
    }

    async fn propose_all(&self, commands: Vec<Cmd>) -> Result<Vec<Response>, Refused> {
        self.not_aside()?;
        self.proposer.propose_all(commands).await
    }

    async fn linearizable(&self) -> Result<(), Refused> {
        // It would also renew the followers' patience with this leader.
        self.not_aside()?;
        let confirmed = async {
            loop {
                match self.raft.ensure_linearizable().await {
                    // One late answer on a busy machine is no lost majority.
                    Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_))) => {
                        tokio::time::sleep(CONFIRM_AGAIN).await;
                    }
                    other => return other,
                }
            }
        };
        match tokio::time::timeout(CONFIRM_MAX, confirmed).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(forward)))) => {
                Err(Refused::NotLeader {
                    leader: forward.leader_id.zip(forward.leader_node.map(|n| n.address)),
                })
            }
            Ok(Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_)))) | Err(_) => {
                Err(Refused::NoQuorum)
            }
            Ok(Err(RaftError::Fatal(fatal))) => Err(Refused::Stopped(fatal.to_string())),
        }
    }

    fn state(&self) -> Arc<State> {
        self.machine.state()
    }

    fn events_from(&self, rollout: &RolloutId, from: Seq, max: usize) -> Result<Vec<Event>, Error> {
        self.machine.events_from(rollout, from, max)
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.machine.changes()
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    fn violations(&self) -> watch::Receiver<Vec<Violation>> {
        self.machine.violations()
    }

    fn members(&self) -> Vec<Member> {
        let metrics = self.raft.metrics().borrow().clone();
        let membership = metrics.membership_config.membership();
        let voters: Vec<u64> = membership.voter_ids().collect();
        let last = metrics.last_log_index.unwrap_or(0);
        let behind = |id: &u64| {
            let replication = metrics.replication.as_ref()?;
            if *id == self.id {
                return Some(0);
            }
            let matched = replication.get(id).copied().flatten().map_or(0, |at| at.index);
            Some(last.saturating_sub(matched))
        };
        membership
            .nodes()
            .map(|(id, node)| Member {
                id: *id,
                address: node.address.clone(),
                instance: node.instance.clone(),
                voter: voters.contains(id),
                behind: behind(id),
            })
            .collect()
    }

    fn membership(&self) -> u64 {
        self.machine.membership()
    }

    async fn change(&self, change: Change) -> Result<(), Refused> {
        self.run_change(change).await
    }
}

fn engine_config(timing: crate::config::Raft) -> Result<Config, Error> {
    Config {
        cluster_name: "grayfin".to_owned(),
        heartbeat_interval: timing.heartbeat_ms,
        election_timeout_min: timing.election_min_ms,
        election_timeout_max: timing.election_max_ms,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
        max_in_snapshot_log_to_keep: KEPT_AFTER_SNAPSHOT,
        purge_batch_size: 256,
        ..Config::default()
    }
    .validate()
    .map_err(|e| Error::Engine(e.to_string()))
}

/// Turns the engine's metrics into what the coordinator needs, without its many other changes.
fn follow_leadership(
    id: u64,
    raft: &Raft,
    mut aside: watch::Receiver<bool>,
) -> watch::Receiver<Leadership> {
    let mut metrics = raft.metrics();
    let (sender, receiver) = watch::channel(Leadership::default());
    tokio::spawn(async move {
        loop {
            let now = {
                let aside = *aside.borrow_and_update();
                let m = metrics.borrow_and_update();
                let address = |leader: u64| {
                    let node = m.membership_config.membership().get_node(&leader);
                    node.map_or_else(String::new, |node| node.address.clone())
                };
                let fatal = m.running_state.as_ref().err().map(ToString::to_string);
                Leadership {
                    leads: fatal.is_none()
                        && !aside
                        && m.state == ServerState::Leader
                        && m.current_leader == Some(id),
                    term: Term(m.current_term),
                    leader: m
                        .current_leader
                        .filter(|leader| !aside || *leader != id)
                        .map(|leader| (leader, address(leader))),
                    fatal,
                }
            };
            sender.send_if_modified(|last| {
                let changed = *last != now;
                *last = now;
                changed
            });
            let changed = tokio::select! {
                changed = metrics.changed() => changed,
                // Its sender lives as long as the store; without it the engine's end is waited for.
                Ok(()) = aside.changed() => Ok(()),
            };
            if changed.is_err() || sender.is_closed() {
                // The engine has ended without a word: nobody leads here.
                sender.send_if_modified(|last| {
                    let unsaid = last.fatal.is_none();
                    last.leads = false;
                    if unsaid {
                        last.fatal = Some("the Raft engine has ended".to_owned());
                    }
                    unsaid
                });
                return;
            }
        }
    });
    receiver
}
