//! Changes to the metadata that a client asks for, and looking things up.

use std::collections::BTreeMap;

use super::txn::place_of;
use super::{Controller, Waiting};
use crate::ids::{Alias, ChunkId, Millis, NodeRole, RequestId};
use crate::message::{Answer, Ask, Readable, TableView};
use crate::meta::{Chunk, Command};

impl Controller {
    pub(super) fn on_change(&mut self, now: Millis, request: RequestId, command: Command) {
        if let Err(refusal) = self.may_change(&command) {
            return self.reply(request, refusal);
        }
        let mut victims: BTreeMap<Alias, Vec<ChunkId>> = BTreeMap::new();
        for id in self.meta.chunks_dropped_by(&command) {
            for alias in self.meta.chunks.get(&id).into_iter().flat_map(|c| c.replicas.keys()) {
                victims.entry(alias.clone()).or_default().push(id);
            }
        }
        match self.raft.propose(now, command) {
            Some(index) => {
                self.waiting.insert(index, Waiting::Change { request, victims });
            }
            None => self.reply(request, Answer::NotLeader { leader: None }),
        }
    }

    /// A table or a database goes only while all data nodes are there, a partition only while all
    /// its replicas are, and none of them while a transaction writes to it.
    fn may_change(&self, command: &Command) -> Result<(), Answer> {
        let chunks = self.meta.chunks_dropped_by(command);
        let mut needed: Vec<&Alias> = chunks
            .iter()
            .filter_map(|id| self.meta.chunks.get(id))
            .flat_map(|chunk| chunk.replicas.keys())
            .collect();
        if matches!(command, Command::DropTable { .. } | Command::DropDatabase { .. }) {
            let nodes = self.meta.config.nodes.iter();
            needed.extend(nodes.filter(|n| n.role == NodeRole::DataNode).map(|n| &n.alias));
        }
        if let Some(away) = needed.into_iter().find(|alias| !self.is_online(alias)) {
            let text = format!("The data node {away} is not available. RefId: S01013");
            return Err(Answer::Failed(text));
        }
        let leading = self.leading.as_ref();
        let held = chunks
            .iter()
            .filter_map(|id| self.meta.chunks.get(id))
            .find(|chunk| leading.is_some_and(|l| l.locks.contains_key(&place_of(&chunk.place))));
        match held {
            Some(chunk) => Err(Answer::Busy { path: chunk.place.path.clone() }),
            None => Ok(()),
        }
    }

    pub(super) fn look_up(&self, now: Millis, ask: &Ask) -> Answer {
        match ask {
            Ask::Nodes => Answer::Nodes(self.node_statuses(now)),
            Ask::Databases => Answer::Databases(self.meta.databases.values().cloned().collect()),
            Ask::Database { path } => {
                let found = self.meta.databases.get(path).map(|database| {
                    let tables = self.meta.tables.get(path).into_iter();
                    (database.clone(), tables.flat_map(|t| t.values().cloned()).collect())
                });
                Answer::Database(found)
            }
            Ask::Table { db, name } => Answer::Table(self.table_view(db, name).map(Box::new)),
            Ask::Heartbeat(_)
            | Ask::Report(_)
            | Ask::Goodbye { .. }
            | Ask::Begin(_)
            | Ask::Commit { .. }
            | Ask::Abort { .. }
            | Ask::Outcome { .. }
            | Ask::Unreachable { .. }
            | Ask::Change(_)
            | Ask::Recovered { .. }
            | Ask::StartNodes { .. }
            | Ask::StopNodes { .. } => Answer::Failed("not a question".to_owned()),
        }
    }

    fn table_view(&self, db: &str, name: &str) -> Option<TableView> {
        let table = self.meta.table(db, name)?;
        let chunks = table.chunks.values().filter_map(|id| self.meta.chunks.get(id));
        Some(TableView {
            database: self.meta.databases.get(db)?.clone(),
            table: table.clone(),
            chunks: chunks.map(|chunk| self.readable(chunk)).collect(),
        })
    }

    fn readable(&self, chunk: &Chunk) -> Readable {
        Readable {
            place: chunk.place.clone(),
            version: chunk.version,
            rows: chunk.rows,
            replicas: self.current_replicas(chunk),
        }
    }
}
