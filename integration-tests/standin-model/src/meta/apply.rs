//! What each command does to the metadata.

use std::collections::BTreeMap;

use super::{
    CLIENTS_MAX, Chunk, ChunkCommit, ClientSeq, Database, Metadata, RECENT_TIDS, Refused, Table,
};
use crate::ids::{Alias, ChunkId, Tid};
use crate::raft::Index;

impl Metadata {
    pub(super) fn create_database(&mut self, database: &Database) -> Result<(), Refused> {
        if self.databases.contains_key(&database.path) {
            return Err(Refused::Exists(database.path.clone()));
        }
        self.databases.insert(database.path.clone(), database.clone());
        Ok(())
    }

    pub(super) fn change_database(&mut self, database: &Database) -> Result<(), Refused> {
        let known = self
            .databases
            .get_mut(&database.path)
            .ok_or_else(|| Refused::Missing(database.path.clone()))?;
        if known.revision + 1 != database.revision {
            return Err(Refused::Conflict(database.path.clone()));
        }
        *known = database.clone();
        Ok(())
    }

    pub(super) fn drop_database(&mut self, path: &str) -> Result<(), Refused> {
        self.databases.remove(path).ok_or_else(|| Refused::Missing(path.to_owned()))?;
        for table in self.tables.remove(path).into_iter().flat_map(BTreeMap::into_values) {
            self.forget(table.chunks.into_values());
        }
        Ok(())
    }

    pub(super) fn create_table(&mut self, db: &str, name: &str, spec: &str) -> Result<(), Refused> {
        if !self.databases.contains_key(db) {
            return Err(Refused::Missing(db.to_owned()));
        }
        let tables = self.tables.entry(db.to_owned()).or_default();
        if tables.contains_key(name) {
            return Err(Refused::Exists(format!("{db}/{name}")));
        }
        self.tables_made += 1;
        let table = Table {
            db: db.to_owned(),
            name: name.to_owned(),
            spec: spec.to_owned(),
            suffix: base36(self.tables_made),
            chunks: BTreeMap::new(),
        };
        tables.insert(name.to_owned(), table);
        Ok(())
    }

    pub(super) fn drop_table(&mut self, db: &str, name: &str) -> Result<(), Refused> {
        let table = self
            .tables
            .get_mut(db)
            .and_then(|tables| tables.remove(name))
            .ok_or_else(|| Refused::Missing(format!("{db}/{name}")))?;
        self.forget(table.chunks.into_values());
        Ok(())
    }

    pub(super) fn drop_partition(
        &mut self,
        db: &str,
        name: Option<&str>,
        keys: &[String],
    ) -> Result<(), Refused> {
        let tables = self.tables.get_mut(db).ok_or_else(|| Refused::Missing(db.to_owned()))?;
        let mut gone = Vec::new();
        for table in tables.values_mut().filter(|t| name.is_none_or(|n| n == t.name)) {
            gone.extend(keys.iter().filter_map(|key| table.chunks.remove(key)));
        }
        self.forget(gone);
        Ok(())
    }

    pub(super) fn forget(&mut self, chunks: impl IntoIterator<Item = ChunkId>) {
        for id in chunks {
            self.chunks.remove(&id);
        }
    }

    pub(super) fn commit(
        &mut self,
        index: Index,
        tid: Tid,
        at_ms: i64,
        client: Option<&(String, u64)>,
        commits: &[ChunkCommit],
    ) -> Result<(), Refused> {
        for commit in commits {
            let version = self.chunks.get(&commit.place.id).map_or(0, |c| c.version);
            let place = &commit.place;
            let fits = self.table(&place.db, &place.table).is_some_and(|table| {
                table.chunks.get(&place.key).is_none_or(|known| *known == place.id)
            });
            if version + 1 != commit.version || !fits {
                return Err(Refused::Conflict(place.path.clone()));
            }
        }
        for commit in commits {
            self.commit_chunk(index, at_ms, commit);
        }
        self.recent.push_back(tid);
        if self.recent.len() > RECENT_TIDS {
            self.recent.pop_front();
        }
        if let Some((name, seq)) = client {
            let rows = commits.iter().map(|c| c.rows).sum();
            self.remember(name, ClientSeq { seq: *seq, rows, at: index });
        }
        Ok(())
    }

    pub(super) fn commit_chunk(&mut self, index: Index, at_ms: i64, commit: &ChunkCommit) {
        let place = &commit.place;
        let chunk = self.chunks.entry(place.id).or_insert_with(|| Chunk {
            place: place.clone(),
            version: 0,
            changed_at: index,
            rows: 0,
            bytes: 0,
            updated_ms: at_ms,
            replicas: BTreeMap::new(),
        });
        chunk.version = commit.version;
        chunk.changed_at = index;
        chunk.rows += commit.rows;
        chunk.bytes += commit.bytes;
        chunk.updated_ms = at_ms;
        for alias in &commit.replicas {
            chunk.replicas.insert(alias.clone(), commit.version);
        }
        let table = self.tables.get_mut(&place.db).and_then(|t| t.get_mut(&place.table));
        if let Some(table) = table {
            table.chunks.insert(place.key.clone(), place.id);
        }
    }

    pub(super) fn remember(&mut self, client: &str, seq: ClientSeq) {
        self.clients.insert(client.to_owned(), seq);
        if self.clients.len() > CLIENTS_MAX {
            let oldest =
                self.clients.iter().min_by_key(|(_, c)| c.at).map(|(name, _)| name.clone());
            if let Some(name) = oldest {
                self.clients.remove(&name);
            }
        }
    }

    pub(super) fn set_replica(
        &mut self,
        id: ChunkId,
        alias: &Alias,
        version: Option<u64>,
        replaces: Option<&Alias>,
    ) -> Result<(), Refused> {
        let chunk = self.chunks.get_mut(&id).ok_or_else(|| Refused::Missing(id.to_string()))?;
        match version {
            Some(version) => {
                chunk.replicas.insert(alias.clone(), version.min(chunk.version));
            }
            None => {
                chunk.replicas.remove(alias);
            }
        }
        if let Some(old) = replaces {
            chunk.replicas.remove(old);
        }
        Ok(())
    }
}

/// DolphinDB names a table's chunks with short words of digits and letters.
fn base36(mut number: u64) -> String {
    let mut digits = Vec::new();
    while number > 0 {
        let digit = u32::try_from(number % 36).unwrap_or(0);
        digits.push(char::from_digit(digit, 36).unwrap_or('0'));
        number /= 36;
    }
    digits.iter().rev().collect()
}
