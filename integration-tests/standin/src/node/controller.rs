//! A controller's machine with its disk and its connections.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use standin_model::controller::{Action, Controller, Input, Notice};
use standin_model::message::{Answer, Order};
use standin_model::{Alias, Millis, raft};
use tokio::sync::mpsc;

use super::engine::{Engine, Machine};
use super::shared::Shared;
use crate::faults::Kind;
use crate::net::{Question, Response};
use crate::store::{self, raft::RaftStore};

/// Messages to one controller that wait to be sent; a network drops more.
const QUEUE: usize = 256;
/// For an order to stop a node that is to be answered when the node is gone.
const STOP_LIMIT: Duration = Duration::from_secs(600);
/// For an order to start a node: the process is only spawned.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A controller.
#[derive(Debug)]
pub(crate) struct ControllerMachine {
    pub(crate) controller: Controller,
    store: RaftStore,
    shared: Arc<Shared>,
    engine: Engine<Self>,
    queues: BTreeMap<Alias, mpsc::Sender<raft::Message>>,
    announced: bool,
    flapped_at: Millis,
}

impl ControllerMachine {
    pub(crate) fn new(
        controller: Controller,
        store: RaftStore,
        shared: Arc<Shared>,
        engine: Engine<Self>,
    ) -> Self {
        let mut queues = BTreeMap::new();
        for site in shared.controllers.iter().filter(|site| **site != shared.site) {
            let (sender, mut messages) = mpsc::channel(QUEUE);
            queues.insert(site.alias.clone(), sender);
            let (shared, address) = (Arc::clone(&shared), site.address());
            // One task per controller keeps the messages in order.
            shared.clone().runtime.spawn(async move {
                while let Some(message) = messages.recv().await {
                    shared.peers.tell(&address, shared.alias().to_owned(), message).await;
                }
            });
        }
        let tick = shared.setting("raftElectionTick").unwrap_or("800");
        if shared.ha {
            shared.log.info(&format!("DFSMaster ElectionTick is set to {tick}"));
        }
        Self { controller, store, shared, engine, queues, announced: false, flapped_at: 0 }
    }

    /// Writes the metadata as a whole, at a graceful end.
    pub(crate) fn checkpoint(&mut self) -> Result<(), store::Error> {
        for action in self.controller.checkpoint() {
            if let Action::Persist(persist) = action {
                self.store.persist(&persist)?;
            }
        }
        Ok(())
    }

    fn act(&mut self, action: Action) -> Result<(), store::Error> {
        match action {
            Action::Persist(persist) => self.store.persist(&persist)?,
            Action::SendRaft { to, message } => {
                if let Some(queue) = self.queues.get(&to)
                    && !self.shared.faults.is_hanging()
                {
                    drop(queue.try_send(message));
                }
            }
            Action::Reply { request, answer } => self.engine.waiters.answer(request, answer),
            Action::Order { token, to, order } => self.order(token, &to, order),
            Action::Notice(notice) => self.notice(&notice),
        }
        Ok(())
    }

    fn order(&self, token: Option<u64>, to: &Alias, order: Order) {
        let address = self.controller.meta().node(to).map(|node| node.site.clone());
        let (shared, engine) = (Arc::clone(&self.shared), self.engine.clone());
        let to = to.clone();
        shared.clone().runtime.spawn(async move {
            let result = match address {
                Some(address) => send_order(&shared, &address, order).await,
                None => Err(format!("`{to}` is not a node of this cluster")),
            };
            if let Some(token) = token {
                engine.input(Input::Ordered { token, result });
            }
        });
    }

    fn notice(&mut self, notice: &Notice) {
        let (log, alias) = (&self.shared.log, self.shared.alias().to_owned());
        match notice {
            Notice::Following { .. } | Notice::Leading { .. } if !self.shared.ha => {}
            Notice::Following { term, leader } => {
                let leader = leader.as_deref().unwrap_or("unknown");
                log.info(&format!(
                    "<Raft> Group DFSMaster {alias} became follower at term {term}, leader is \
                     {leader}"
                ));
                if leader != "unknown" {
                    self.announce();
                }
            }
            Notice::Leading { term } => {
                log.info(&format!("<Raft> Group DFSMaster {alias} became leader at term {term}"));
            }
            Notice::Initialized => self.announce(),
            Notice::Online(node) => log.info(&format!("The node [{node}] is online.")),
            Notice::Offline(node) => log.warning(&format!("The node [{node}] has gone offline.")),
            Notice::RecoveryFailed { path, reason } => {
                log.warning(&format!("The recovery of the chunk [{path}] failed: {reason}"));
            }
        }
    }

    /// The markers of a complete start, once.
    fn announce(&mut self) {
        if std::mem::replace(&mut self.announced, true) {
            return;
        }
        let (log, new) = (&self.shared.log, self.shared.version.has_new_markers());
        if self.shared.ha {
            log.info("<Raft> Group DFSMaster initialized successfully.");
            log.info("DFSRaftReplayWorker started.");
        } else if new {
            log.info("Controller initialization completed.");
        } else {
            log.info("DFS master is ready.");
        }
        super::start::log_complete(&self.shared);
    }

    /// The fault that makes leadership wander.
    fn flap(&mut self, now: Millis) -> Vec<Action> {
        let Some(every) = self.shared.faults.millis(Kind::FlapLeader) else {
            return Vec::new();
        };
        let every = every.max(self.shared.timing.election_ms);
        if !self.controller.is_leader(now) || now.saturating_sub(self.flapped_at) < every {
            return Vec::new();
        }
        self.flapped_at = now;
        self.shared.log.warning("The fault flap_leader makes this controller step down.");
        self.controller.step(now, Input::StepDown { quiet_ms: self.shared.timing.election_ms })
    }
}

impl Machine for ControllerMachine {
    type Input = Input;

    fn turn(&mut self, now: Millis, input: Option<Input>) -> Result<(), store::Error> {
        let mut actions = Vec::new();
        if input.is_none() && self.controller.is_leader(now) {
            actions.extend(self.flap(now));
        }
        actions.extend(self.controller.step(now, input.unwrap_or(Input::Tick)));
        for action in actions {
            self.act(action)?;
        }
        Ok(())
    }

    fn wakeup(&self) -> Millis {
        self.controller.wakeup()
    }
}

async fn send_order(shared: &Shared, address: &str, order: Order) -> Result<Answer, String> {
    let limit = match &order {
        Order::Stop { wait: true, .. } => STOP_LIMIT,
        Order::Stop { .. } | Order::Start(_) => START_LIMIT,
        Order::Prepare { .. }
        | Order::Finish { .. }
        | Order::Read { .. }
        | Order::Recover { .. }
        | Order::Delete { .. } => Duration::from_millis(shared.timing.heartbeat_timeout_ms),
    };
    if matches!(order, Order::Stop { .. })
        && let Some(late) = shared.faults.millis(Kind::LateStop)
    {
        tokio::time::sleep(Duration::from_millis(late)).await;
    }
    match shared.peers.ask(address, Question::Order(order), limit).await {
        Ok(Response::Answer(answer)) => Ok(answer),
        Ok(Response::Yes | Response::Value(_)) => Err("an answer to something else".to_owned()),
        Err(error) => Err(format!("{address}: {error:?}")),
    }
}
