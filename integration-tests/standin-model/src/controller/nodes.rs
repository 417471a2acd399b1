//! Who lives, and starting and stopping nodes through the DolphinDB agents.

use super::{Action, Controller, Notice};
use crate::ids::{Alias, Millis, NodeRole, RequestId};
use crate::message::{Alive, Answer, Heartbeat, NodeStats, Order, Start};
use crate::meta::NodeInfo;

/// What the leader knows about a node that is not a controller.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) incarnation: u64,
    pub(super) heard_at: Millis,
    pub(super) online: bool,
    pub(super) reported: bool,
    pub(super) ready: bool,
    pub(super) down_since: Millis,
    pub(super) stopped_by_order: bool,
    pub(super) start_ordered_at: Option<Millis>,
    pub(super) stats: NodeStats,
}

/// Orders whose outcomes make one answer.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) request: Option<RequestId>,
    pub(super) left: usize,
    pub(super) errors: Vec<String>,
}

impl Controller {
    pub(super) fn on_heartbeat(&mut self, now: Millis, request: RequestId, beat: Heartbeat) {
        if self.meta.node(&beat.alias).is_none_or(|node| node.role != beat.role) {
            let text = format!("`{}` is not a node of this cluster", beat.alias);
            return self.reply(request, Answer::Failed(text));
        }
        let returned = self.node(&beat.alias).is_some_and(|k| k.incarnation != beat.incarnation);
        if returned {
            self.node_is_gone(now, &beat.alias);
        }
        let applied = self.meta.applied;
        let Some(leading) = &mut self.leading else { return };
        let known = leading.nodes.entry(beat.alias.clone()).or_default();
        let came = !known.online;
        if known.incarnation != beat.incarnation {
            known.stopped_by_order = false;
            known.start_ordered_at = None;
        }
        known.incarnation = beat.incarnation;
        known.heard_at = now;
        known.online = true;
        known.ready = beat.ready;
        known.stats = beat.stats;
        let keeps_chunks = beat.role == NodeRole::DataNode;
        let report = (keeps_chunks && !known.reported).then_some(applied);
        if came {
            leading.tasks.dirty = true;
            self.out.push(Action::Notice(Notice::Online(beat.alias)));
        }
        let users = (beat.users_revision != self.meta.users_revision)
            .then(|| (self.meta.users_revision, self.meta.users.clone()));
        let config = (beat.config_revision != self.meta.config_revision)
            .then(|| (self.meta.config_revision, self.meta.config.clone()));
        self.reply(request, Answer::Alive(Box::new(Alive { report, users, config })));
    }

    pub(super) fn on_goodbye(&mut self, now: Millis, alias: &Alias, incarnation: u64) {
        if self.node(alias).is_some_and(|known| known.incarnation == incarnation) {
            self.node_is_gone(now, alias);
        }
    }

    /// Takes a node for gone until it is heard again: its transactions are rolled back, its
    /// replicas no longer count.
    pub(super) fn node_is_gone(&mut self, now: Millis, alias: &Alias) {
        let Some(leading) = &mut self.leading else { return };
        let Some(known) = leading.nodes.get_mut(alias) else { return };
        if !known.online {
            return;
        }
        known.online = false;
        known.reported = false;
        known.ready = false;
        known.down_since = now;
        leading.tasks.dirty = true;
        let theirs: Vec<_> = leading
            .txns
            .iter()
            .filter(|(_, txn)| txn.coordinator == *alias && !txn.is_proposed())
            .map(|(tid, _)| *tid)
            .collect();
        for tid in theirs {
            self.abort(tid);
        }
        self.tasks_lost_node(now, alias);
        self.out.push(Action::Notice(Notice::Offline(alias.clone())));
    }

    /// Finds the nodes that have been silent for too long.
    pub(super) fn watch_nodes(&mut self, now: Millis) {
        let timeout = self.settings.timing.heartbeat_timeout_ms;
        let Some(leading) = &self.leading else { return };
        let silent: Vec<Alias> = leading
            .nodes
            .iter()
            .filter(|(_, k)| k.online && now.saturating_sub(k.heard_at) >= timeout)
            .map(|(alias, _)| alias.clone())
            .collect();
        for alias in silent {
            self.node_is_gone(now, &alias);
        }
    }

    pub(super) fn node(&self, alias: &str) -> Option<&Known> {
        self.leading.as_ref()?.nodes.get(alias)
    }

    pub(super) fn is_online(&self, alias: &str) -> bool {
        self.node(alias).is_some_and(|known| known.online)
    }

    /// Is its disk's content known to this leader?
    pub(super) fn has_reported(&self, alias: &str) -> bool {
        self.node(alias).is_some_and(|known| known.online && known.reported)
    }

    /// Has this leader only just begun to hear from the nodes?
    pub(super) fn is_settling(&self, now: Millis) -> bool {
        // Two heartbeats and a half: every living node has found the leader by then.
        let settle = self.settings.timing.heartbeat_timeout_ms / 2;
        self.leading.as_ref().is_some_and(|l| now.saturating_sub(l.since) < settle)
    }

    /// Will this node's disk be known in a moment? Writing without it would only make its
    /// replicas old.
    pub(super) fn may_yet_report(&self, now: Millis, alias: &str) -> bool {
        match self.node(alias) {
            Some(known) => known.online && !known.reported,
            None => self.is_settling(now),
        }
    }

    /// Since when a node is away; a node this leader never heard of is away since it leads.
    pub(super) fn down_since(&self, alias: &str) -> Option<Millis> {
        let leading = self.leading.as_ref()?;
        match leading.nodes.get(alias) {
            Some(known) if known.online => None,
            Some(known) => Some(known.down_since),
            None => Some(leading.since),
        }
    }

    /// `datanodeRestartInterval`: starts what has been away for too long.
    pub(super) fn restart_nodes(&mut self, now: Millis) {
        let Some(interval) = self.settings.timing.restart_ms else { return };
        // A node needs time to come up before it is started again.
        let patience = interval.max(self.settings.timing.heartbeat_timeout_ms);
        let due: Vec<NodeInfo> = self
            .meta
            .config
            .nodes
            .iter()
            .filter(|node| node.role.is_worker())
            .filter(|node| {
                let away = self.down_since(&node.alias);
                let known = self.node(&node.alias);
                let stopped = known.is_some_and(|k| k.stopped_by_order);
                let ordered = known.and_then(|k| k.start_ordered_at);
                away.is_some_and(|since| now.saturating_sub(since) >= interval)
                    && (!stopped || self.settings.restart_always)
                    && ordered.is_none_or(|at| now.saturating_sub(at) >= patience)
            })
            .cloned()
            .collect();
        for node in due {
            if let Some(agent) = self.agent_of(&node).filter(|agent| self.is_online(agent)) {
                self.order_start(now, None, agent, &node);
            }
        }
    }

    fn agent_of(&self, node: &NodeInfo) -> Option<Alias> {
        self.meta
            .config
            .nodes
            .iter()
            .find(|n| n.role == NodeRole::DdbAgent && n.host == node.host)
            .map(|n| n.alias.clone())
    }

    fn order_start(&mut self, now: Millis, token: Option<u64>, agent: Alias, node: &NodeInfo) {
        let since = self.down_since(&node.alias).unwrap_or(now);
        if let Some(leading) = &mut self.leading {
            let known = leading.nodes.entry(node.alias.clone()).or_default();
            known.stopped_by_order = false;
            known.start_ordered_at = Some(now);
            if !known.online {
                known.down_since = since;
            }
        }
        let order = Order::Start(Box::new(Start {
            alias: node.alias.clone(),
            site: node.site.clone(),
            role: node.role,
            cluster_lines: self.meta.config.cluster_lines.clone(),
            settings: self.settings.worker_settings.clone(),
        }));
        self.out.push(Action::Order { token, to: agent, order });
    }

    /// The nodes that these names mean, with their agents.
    fn resolve(&self, names: &[String]) -> Result<Vec<(NodeInfo, Alias)>, String> {
        names
            .iter()
            .map(|name| {
                let node = self
                    .meta
                    .config
                    .nodes
                    .iter()
                    .find(|n| (n.alias == *name || n.site == *name) && n.role.is_worker())
                    .ok_or_else(|| format!("Can't find the data node {name}."))?;
                let agent = self
                    .agent_of(node)
                    .filter(|agent| self.is_online(agent))
                    .ok_or_else(|| format!("The agent of {} is not online.", node.host))?;
                Ok((node.clone(), agent))
            })
            .collect()
    }

    pub(super) fn on_start_nodes(&mut self, now: Millis, request: RequestId, names: &[String]) {
        let nodes = match self.resolve(names) {
            Ok(nodes) => nodes,
            Err(text) => return self.reply(request, Answer::Failed(text)),
        };
        // Also those that seem to be there: a node that has just died is not known to be away. The
        // agent looks before it starts anything.
        let tokens = self.open_batch(Some(request), nodes.len());
        for ((node, agent), token) in nodes.into_iter().zip(tokens) {
            self.order_start(now, Some(token), agent, &node);
        }
    }

    pub(super) fn on_stop_nodes(&mut self, request: RequestId, names: &[String], wait: bool) {
        let nodes = match self.resolve(names) {
            Ok(nodes) => nodes,
            Err(text) => return self.reply(request, Answer::Failed(text)),
        };
        let tokens = self.open_batch(wait.then_some(request), nodes.len());
        for ((node, agent), token) in nodes.into_iter().zip(tokens) {
            if let Some(leading) = &mut self.leading {
                leading.nodes.entry(node.alias.clone()).or_default().stopped_by_order = true;
            }
            let order = Order::Stop { alias: node.alias, site: node.site, wait };
            self.out.push(Action::Order { token: Some(token), to: agent, order });
        }
        if !wait {
            self.reply(request, Answer::Done);
        }
    }

    fn open_batch(&mut self, request: Option<RequestId>, size: usize) -> Vec<u64> {
        if size == 0 {
            if let Some(request) = request {
                self.reply(request, Answer::Done);
            }
            return Vec::new();
        }
        let batch = self.number();
        let tokens: Vec<u64> = (0..size).map(|_| self.number()).collect();
        if let Some(leading) = &mut self.leading {
            leading.batches.insert(batch, Batch { request, left: size, errors: Vec::new() });
            leading.tokens.extend(tokens.iter().map(|token| (*token, batch)));
        }
        tokens
    }

    pub(super) fn on_ordered(&mut self, now: Millis, token: u64, result: Result<Answer, String>) {
        if self.task_ordered(now, token, &result) {
            return;
        }
        let Some(leading) = &mut self.leading else { return };
        let Some(number) = leading.tokens.remove(&token) else { return };
        let Some(batch) = leading.batches.get_mut(&number) else { return };
        batch.left -= 1;
        match result {
            Ok(Answer::Failed(text)) | Err(text) => batch.errors.push(text),
            Ok(_) => {}
        }
        if batch.left > 0 {
            return;
        }
        let Some(batch) = leading.batches.remove(&number) else { return };
        if let Some(request) = batch.request {
            let answer = if batch.errors.is_empty() {
                Answer::Done
            } else {
                Answer::Failed(batch.errors.join("; "))
            };
            self.reply(request, answer);
        }
    }
}
