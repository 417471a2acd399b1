//! One node: a process with a role, a machine, a port and a log.

pub(crate) mod agent;
pub(crate) mod controller;
pub(crate) mod engine;
pub(crate) mod housekeeping;
pub(crate) mod inserts;
pub(crate) mod log;
pub(crate) mod member;
pub(crate) mod server;
pub(crate) mod session;
pub(crate) mod shared;
pub(crate) mod start;
pub(crate) mod stop;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use standin_lang::eval::CallError;
use standin_model::message::{Answer, Ask};
use standin_model::meta::{ClusterConfig, User};
use standin_model::{Alias, controller as model_controller, member as model_member};

use self::controller::ControllerMachine;
use self::engine::Engine;
use self::member::MemberMachine;
use self::session::Sessions;
use self::shared::Shared;
use crate::functions::memory::Memory;

/// The machine of a node.
#[derive(Debug, Clone)]
pub(crate) enum Brain {
    Controller(Engine<ControllerMachine>),
    Member(Engine<MemberMachine>),
}

/// A running node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) shared: Arc<Shared>,
    pub(crate) brain: Brain,
    pub(crate) sessions: Sessions,
    pub(crate) memory: Memory,
    pub(crate) ready: Arc<AtomicBool>,
}

/// Said while there is no leader.
const NO_LEADER: &str = "<ControllerNotAvail>The leader of the controllers is not available.";

impl Node {
    /// Asks the leading controller; on a controller that does not lead, says who does.
    pub(crate) async fn ask_leader(&self, ask: Ask) -> Result<Answer, CallError> {
        let answer = match &self.brain {
            Brain::Controller(engine) => {
                engine.request(|request| model_controller::Input::Ask { request, ask }).await
            }
            Brain::Member(engine) => {
                engine.request(|request| model_member::Input::Ask { request, ask }).await
            }
        };
        if let Answer::NotLeader { leader } = &answer {
            return Err(self.not_leader(leader.as_deref()));
        }
        if answer == Answer::NotReady {
            return Err(CallError::text(
                "<ControllerNotReady>The controller isn't initialized yet.",
            ));
        }
        if let Answer::Busy { path } = &answer {
            let text = format!("<ChunkInTransaction>The chunk {path} is in another transaction.");
            return Err(CallError::Error(text));
        }
        if let Answer::Failed(text) | Answer::Refused(text) = answer {
            return Err(CallError::Error(text));
        }
        Ok(answer)
    }

    /// The tag that sends a client to the leader.
    pub(crate) fn not_leader(&self, leader: Option<&str>) -> CallError {
        match leader.and_then(|alias| self.shared.controller(alias)) {
            Some(site) => CallError::Error(format!("<NotLeader>{site}")),
            None => CallError::text(NO_LEADER),
        }
    }

    /// The cluster's configuration, as this node knows it.
    pub(crate) async fn cluster(&self) -> Result<ClusterConfig, CallError> {
        let found = match &self.brain {
            Brain::Controller(engine) => {
                engine.look(|m, _| m.controller.meta().config.clone()).await
            }
            Brain::Member(engine) => engine.look(|m, _| m.member.config().clone()).await,
        };
        found.map_err(CallError::Error)
    }

    /// A user, as this node knows it; `None` in the second place while it knows no users at all.
    pub(crate) async fn user(&self, name: &str) -> Result<Option<User>, CallError> {
        let name = name.to_owned();
        let found = match &self.brain {
            Brain::Controller(engine) => {
                let find = move |m: &mut ControllerMachine, _| {
                    let users = &m.controller.meta().users;
                    (!users.is_empty()).then(|| users.get(&name).cloned())
                };
                engine.look(find).await
            }
            Brain::Member(engine) => {
                let find = move |m: &mut MemberMachine, _| {
                    let users = m.member.users();
                    (!users.is_empty()).then(|| users.get(&name).cloned())
                };
                engine.look(find).await
            }
        };
        found.map_err(CallError::Error)?.ok_or_else(|| self.not_ready("login"))
    }

    /// The server's words for a node that is still starting.
    pub(crate) fn not_ready(&self, service: &str) -> CallError {
        let (alias, tag, kind) = match self.brain {
            Brain::Controller(_) => (self.shared.alias(), "ControllerNotReady", "controller"),
            Brain::Member(_) => (self.shared.alias(), "DataNodeNotReady", "data node"),
        };
        CallError::Error(format!(
            "<{tag}>:The {kind} [{alias}] isn't ready for service [{service}] yet."
        ))
    }

    /// The alias of the leading controller.
    pub(crate) async fn leader(&self) -> Result<Alias, CallError> {
        let known = match &self.brain {
            Brain::Controller(engine) => {
                engine.look(|m, _| m.controller.raft().leader().cloned()).await
            }
            Brain::Member(engine) => engine.look(|m, _| m.member.leader().cloned()).await,
        };
        if let Some(leader) = known.map_err(CallError::Error)? {
            return Ok(leader);
        }
        if let Brain::Member(engine) = &self.brain {
            // Any question makes the node look for the leader.
            self.ask_leader(Ask::Database { path: String::new() }).await?;
            let leader = engine.look(|m, _| m.member.leader().cloned()).await;
            return leader.map_err(CallError::Error)?.ok_or_else(|| self.not_leader(None));
        }
        Err(self.not_leader(None))
    }

    /// The address of any node but DolphinDB agents.
    pub(crate) async fn address(&self, alias: &str) -> Result<String, CallError> {
        if let Some(site) = self.shared.controller(alias) {
            return Ok(site.address());
        }
        let cluster = self.cluster().await?;
        match cluster.nodes.iter().find(|node| node.alias == alias) {
            Some(node) if node.role == standin_model::NodeRole::DdbAgent => {
                Err(CallError::Error(format!("rpc can't connect to the agent {alias}.")))
            }
            Some(node) => Ok(node.site.clone()),
            None => Err(CallError::Error(format!("Can't find the node with alias {alias}."))),
        }
    }

    /// Has it done everything that a start needs? On a follower: does it know a leader?
    pub(crate) async fn is_ready(&self) -> bool {
        if self.shared.is_stopping() {
            return false;
        }
        match &self.brain {
            Brain::Controller(engine) => {
                let look = |m: &mut ControllerMachine, now| {
                    let led = m.controller.raft().leader().is_some();
                    m.controller.is_initialized(now) || (led && !m.controller.is_leader(now))
                };
                engine.look(look).await.unwrap_or(false)
            }
            Brain::Member(_) => self.ready.load(Ordering::Acquire),
        }
    }
}
