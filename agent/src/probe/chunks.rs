//! Where the cluster's chunks lie: counted on the server, rationed, bounded.
//!
//! The leading controller builds its whole chunk table for a scan (10 million chunks are
//! gigabytes), so a scan runs only there, on a connection of its own that is closed afterwards, one
//! at a time, and not sooner again than twenty times what the last one took.
//!
//! The table is built once and grouped by plain string functions. A chunk whose replicas all have
//! its version and are not corrupt is counted by its placement; the few others come one by one, and
//! beyond a bound they are counted as if none of their replicas were current. A controller writes
//! replicas as `alias:version:corrupt`, newer ones add `:inResolution:time:volume`; how many fields
//! there are is learnt from the table itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use grayfin_types::{
    NodeAlias,
    facts::{ChunkFacts, NodeSpec, Placement, Probe, UnsettledChunk},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::credentials::Account;
use super::pool::Pool;
use crate::ddb::{Call, Table, Value};

/// After a scan that took a second the next one waits twenty.
const RATION: u32 = 20;
/// Chunks with outdated or corrupt replicas that are fetched one by one.
const UNEVEN_MAX: usize = 2000;
/// Unsettled chunks that are listed.
const UNSETTLED_MAX: usize = 100;
/// Replicas per chunk that the grouping knows as "all current"; more are fetched one by one.
const REPLICAS_MAX: usize = 6;
/// Memory for one answer: 200,000 groups.
const REPLY_BYTES: usize = 64 << 20;

/// The chunk table, in a variable of the session. It lives as long as the connection.
const FETCH: &str = "grayfin_c = select chunkId, file, version, state, replicaCount, replicas, \
    regexReplace(replicas, \":[^,]*\", \"\") as place from getClusterChunksStatus()";
/// One replica text, to count its fields.
const SAMPLE: &str = "exec top 1 replicas from grayfin_c where replicas != \"\"";

/// Scans of one cluster, seen from this host agent.
#[derive(Debug)]
pub(super) struct Scanner {
    last: Mutex<Last>,
    /// Taken while a scan runs.
    turn: Arc<Semaphore>,
    /// How many scans have ended.
    ended: watch::Sender<u64>,
}

impl Default for Scanner {
    fn default() -> Self {
        let turn = Arc::new(Semaphore::new(1));
        Self { last: Mutex::default(), turn, ended: watch::Sender::new(0) }
    }
}

#[derive(Debug, Default)]
struct Last {
    facts: Option<Result<ChunkFacts, String>>,
    ended: Option<Instant>,
    took: Duration,
}

impl Last {
    /// The last result with its age as of now.
    fn answer(&self) -> Probe<ChunkFacts> {
        match (&self.facts, self.ended) {
            (Some(Ok(facts)), Some(ended)) => {
                let age_ms = u64::try_from(ended.elapsed().as_millis()).unwrap_or(u64::MAX);
                Probe::Known(ChunkFacts { age_ms, ..facts.clone() })
            }
            (Some(Err(why)), _) => Probe::Unknown(why.clone()),
            (None, _) | (_, None) => Probe::Unknown("no scan has ended yet".to_owned()),
        }
    }
}

/// What a scan needs to know.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// The leading controller.
    pub(super) leader: NodeSpec,
    /// `dfsReplicationFactor`, if known.
    pub(super) factor: Option<u32>,
    /// The nodes of the cluster.
    pub(super) nodes: Vec<NodeSpec>,
    /// Why the leader must be spared, if so.
    pub(super) spare: Option<String>,
    /// The limit of each single call.
    pub(super) deadline: Duration,
}

impl Scanner {
    fn last_scan(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the last scan with its age, without a new one.
    pub(super) fn last(&self) -> Probe<ChunkFacts> {
        self.last_scan().answer()
    }

    /// Takes the turn for a scan; none if one runs, or if the ration does not allow one yet.
    pub(super) fn begin(&self) -> Option<OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.turn).try_acquire_owned().ok()?;
        let last = self.last_scan();
        let early = last.ended.is_some_and(|ended| ended.elapsed() < last.took * RATION);
        (!early).then_some(permit)
    }

    /// Scans. To be run to its end whoever still waits for it: a scan that is broken off has cost
    /// the controller as much as one that ended, and would be begun again at once.
    pub(super) async fn run(&self, turn: OwnedSemaphorePermit, pool: &Pool, wanted: &Wanted) {
        let began = Instant::now();
        let facts = match &wanted.spare {
            Some(why) => Err(why.clone()),
            None => scan(pool, wanted).await,
        };
        {
            let mut last = self.last_scan();
            last.took = began.elapsed();
            last.ended = Some(Instant::now());
            let scan_ms = u64::try_from(last.took.as_millis()).unwrap_or(u64::MAX);
            last.facts = Some(facts.map(|facts| ChunkFacts { scan_ms, ..facts }));
        }
        drop(turn);
        self.ended.send_modify(|count| *count += 1);
    }

    /// Waits, at most this long, until the scan that runs has ended.
    pub(super) async fn wait(&self, limit: Duration) {
        let mut ended = self.ended.subscribe();
        if self.turn.available_permits() == 0 {
            // The sender lives in `self`; too late means that the last scan is told with its age.
            drop(tokio::time::timeout(limit, ended.changed()).await);
        }
    }
}

/// One scan.
async fn scan(pool: &Pool, wanted: &Wanted) -> Result<ChunkFacts, String> {
    let mut call = Call::plain(wanted.deadline);
    call.limits.reply_bytes = REPLY_BYTES;
    let opened = pool.open(&wanted.leader, Account::Probe, wanted.deadline).await;
    let mut lease = opened.map_err(|error| error.words())?;
    let mut run = async |source: &str| {
        let answer = lease.script("getClusterChunksStatus", source, &call).await;
        answer.map_err(|error| format!("the chunk scan failed: {}", super::pool::words(&error)))
    };
    run(FETCH).await?;
    let sample = run(SAMPLE).await?;
    let sample = sample.vector().and_then(|v| v.str(0)).unwrap_or_default().to_owned();
    run(&split(&sample)).await?;

    let mut found = Placements::new(&wanted.nodes);
    let even = even();
    let groups = run(&format!(
        "select count(*) as n, first(file) as example from grayfin_s where {even} group by state, replicaCount, place"
    ))
    .await?;
    found.add_groups(table(&groups)?, true)?;
    let uneven = run(&format!(
        "select top {} file, state, version, replicaCount, replicas from grayfin_s where not({even})",
        UNEVEN_MAX + 1
    ))
    .await?;
    let uneven = table(&uneven)?;
    if uneven.rows <= UNEVEN_MAX {
        found.add_rows(uneven)?;
    } else {
        let groups = run(&format!(
            "select count(*) as n, first(file) as example from grayfin_s where not({even}) group by state, replicaCount, place"
        ))
        .await?;
        found.add_groups(table(&groups)?, false)?;
    }

    let mut unsettled = Vec::new();
    let other = wanted.factor.map_or_else(
        || "state != \"COMPLETE\"".to_owned(),
        |factor| format!("(state != \"COMPLETE\" or replicaCount != {factor})"),
    );
    // Under load many chunks are CONSTRUCTING; the ones that recover must not be cut off for them.
    for condition in
        ["state == \"RECOVERING\"".to_owned(), format!("state != \"RECOVERING\" and {other}")]
    {
        let rows = run(&format!(
            "select top {} string(chunkId) as id, file, state, version, replicaCount from grayfin_s where {condition}",
            UNSETTLED_MAX + 1
        ))
        .await?;
        unsettled.extend(unsettled_rows(table(&rows)?)?);
    }
    lease.close();
    let truncated = unsettled.len() > UNSETTLED_MAX;
    unsettled.truncate(UNSETTLED_MAX);
    Ok(ChunkFacts {
        total: found.total,
        placements: found.finish(),
        unsettled,
        truncated,
        scan_ms: 0,
        age_ms: 0,
    })
}

/// The script that brings each chunk's replicas into the form `|version:corrupt|version:corrupt;`
/// and puts what one current replica looks like beside it.
fn split(sample: &str) -> String {
    let first = sample.split(',').next().unwrap_or_default();
    let more = first.split(':').count().saturating_sub(3);
    // What follows the third field of an entry, up to the comma.
    let tail = format!("(:[^:,]*){{{more}}}(,|$)");
    format!(
        "grayfin_s = select chunkId, file, version, state, replicaCount, replicas, place, \
         regexReplace(regexReplace(replicas, \"{tail}\", \";\"), \"(^|;)[^:;]*:\", \"|\") as held, \
         \"|\" + string(version) + \":0\" as one from grayfin_c"
    )
}

/// The condition that all replicas of a chunk are current: one, two, … of them.
fn even() -> String {
    let mut terms = Vec::new();
    let mut sum = "one".to_owned();
    for _ in 0..REPLICAS_MAX {
        terms.push(format!("(held == ({sum} + \";\"))"));
        sum.push_str(" + one");
    }
    terms.join(" or ")
}

fn table(value: &Value) -> Result<&Table, String> {
    value.table().ok_or_else(|| "the chunk scan answered no table".to_owned())
}

/// Reads a whole number of a row.
fn number<T: TryFrom<i64>>(table: &Table, column: &str, at: usize) -> Result<T, String> {
    let value = table.column(column).and_then(|column| column.integer(at));
    let value = value.and_then(|number| T::try_from(number).ok());
    value.ok_or_else(|| format!("row {at} of the chunk scan has no good `{column}`"))
}

/// Reads a text of a row.
fn text(table: &Table, column: &str, at: usize) -> Result<String, String> {
    let value = table.column(column).and_then(|column| column.word(at));
    value
        .map(std::borrow::Cow::into_owned)
        .ok_or_else(|| format!("row {at} of the chunk scan has no `{column}`"))
}

/// Reads unsettled chunks.
fn unsettled_rows(table: &Table) -> Result<Vec<UnsettledChunk>, String> {
    (0..table.rows)
        .map(|at| {
            Ok(UnsettledChunk {
                id: text(table, "id", at)?,
                path: text(table, "file", at)?,
                state: text(table, "state", at)?,
                version: number(table, "version", at)?,
                replica_count: number(table, "replicaCount", at)?,
            })
        })
        .collect()
}

type Key = (Vec<NodeAlias>, Vec<NodeAlias>, String, u32);

/// Adds placements up.
struct Placements<'a> {
    nodes: &'a [NodeSpec],
    total: u64,
    groups: BTreeMap<Key, (u64, String)>,
}

impl<'a> Placements<'a> {
    fn new(nodes: &'a [NodeSpec]) -> Self {
        Self { nodes, total: 0, groups: BTreeMap::new() }
    }

    /// Finds the alias that a replica's text means. Some versions put a volume's number in front
    /// (`P1-node1`), which may be part of an alias as well: the cluster's nodes tell.
    fn alias(&self, text: &str) -> Result<NodeAlias, String> {
        let known = |name: &str| self.nodes.iter().find(|node| node.alias.as_str() == name);
        let bare = || {
            let (front, rest) = text.split_once('-')?;
            let digits = front.strip_prefix('P')?;
            (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then_some(rest)
        };
        if let Some(node) = known(text).or_else(|| bare().and_then(known)) {
            return Ok(node.alias.clone());
        }
        NodeAlias::new(text).map_err(|error| format!("a replica's node: {error}"))
    }

    fn add(
        &mut self,
        mut current: Vec<NodeAlias>,
        mut stale: Vec<NodeAlias>,
        state: String,
        replicas: u32,
        chunks: u64,
        example: String,
    ) {
        current.sort();
        stale.sort();
        self.total = self.total.saturating_add(chunks);
        let group = self.groups.entry((current, stale, state, replicas));
        let (count, _) = group.or_insert_with(|| (0, example));
        *count = count.saturating_add(chunks);
    }

    /// Adds rows that were grouped on the server: all replicas current, or none counted so.
    fn add_groups(&mut self, table: &Table, current: bool) -> Result<(), String> {
        for at in 0..table.rows {
            let place = text(table, "place", at)?;
            let aliases = place.split(',').filter(|alias| !alias.is_empty());
            let aliases = aliases.map(|alias| self.alias(alias)).collect::<Result<Vec<_>, _>>()?;
            let (on, off) = if current { (aliases, vec![]) } else { (vec![], aliases) };
            let (state, replicas) = (text(table, "state", at)?, number(table, "replicaCount", at)?);
            let (chunks, example) = (number(table, "n", at)?, text(table, "example", at)?);
            self.add(on, off, state, replicas, chunks, example);
        }
        Ok(())
    }

    /// Adds chunks one by one.
    fn add_rows(&mut self, table: &Table) -> Result<(), String> {
        for at in 0..table.rows {
            let version: i64 = number(table, "version", at)?;
            let (mut on, mut off) = (Vec::new(), Vec::new());
            let replicas = text(table, "replicas", at)?;
            for replica in replicas.split(',').map(str::trim).filter(|r| !r.is_empty()) {
                let mut fields = replica.split(':');
                let alias = self.alias(fields.next().unwrap_or_default())?;
                let same = fields.next().and_then(|text| text.parse().ok()) == Some(version);
                let sound = matches!(fields.next(), Some("0" | "false"));
                if same && sound { on.push(alias) } else { off.push(alias) }
            }
            let (state, count) = (text(table, "state", at)?, number(table, "replicaCount", at)?);
            self.add(on, off, state, count, 1, text(table, "file", at)?);
        }
        Ok(())
    }

    fn finish(self) -> Vec<Placement> {
        let group = |((current_on, stale_on, state, replica_count), (chunks, example))| Placement {
            current_on,
            stale_on,
            state,
            replica_count,
            chunks,
            example,
        };
        self.groups.into_iter().map(group).collect()
    }
}

#[cfg(test)]
mod tests {
    use grayfin_types::facts::NodeRole;

    use super::*;
    use crate::ddb::Vector;
    use crate::probe::files::Site;

    fn nodes(aliases: &[&str]) -> Vec<NodeSpec> {
        let spec =
            |alias: &&str| Site::parse(&format!("h:1:{alias}")).unwrap().spec(NodeRole::DataNode);
        aliases.iter().map(spec).collect()
    }

    fn rows(rows: &[(&str, i64, &str)]) -> Table {
        let column = |texts: Vec<&str>| Vector::text(texts);
        let count = rows.len();
        Table {
            rows: count,
            columns: vec![
                ("file".into(), column(rows.iter().map(|_| "/db/1").collect())),
                ("state".into(), column(rows.iter().map(|r| r.0).collect())),
                ("version".into(), Vector::long(rows.iter().map(|r| r.1).collect())),
                ("replicaCount".into(), Vector::int(vec![2; count])),
                ("replicas".into(), column(rows.iter().map(|r| r.2).collect())),
            ],
        }
    }

    #[test]
    fn replicas_of_both_generations_are_judged_by_version_and_corruption() {
        let nodes = nodes(&["node1", "P2-node2", "node3"]);
        let mut found = Placements::new(&nodes);
        found
            .add_rows(&rows(&[
                ("COMPLETE", 3, "P1-node1:3:0,P2-node2:3:0"),
                ("COMPLETE", 4, "P2-node2:4:0:false:7494976728710525:52,node1:4:false:false:74:1"),
                ("RECOVERING", 5, "node1:4:0:false:1:1,node3:5:0:false:1:1"),
                ("COMPLETE", 5, "node1:5:1:false:1:1,node3:5:0:false:1:1"),
                ("COMPLETE", 5, ""),
                ("COMPLETE", 5, "gone7:5:0"),
            ]))
            .unwrap();
        assert_eq!(found.total, 6);
        let shown: Vec<String> = found
            .finish()
            .iter()
            .map(|p| {
                let words = |list: &[NodeAlias]| {
                    list.iter().map(NodeAlias::as_str).collect::<Vec<_>>().join("+")
                };
                format!("{}/{} {} {}", words(&p.current_on), words(&p.stale_on), p.state, p.chunks)
            })
            .collect();
        assert_eq!(
            shown,
            [
                "/ COMPLETE 1",
                "P2-node2+node1/ COMPLETE 2",
                "gone7/ COMPLETE 1",
                "node3/node1 COMPLETE 1",
                "node3/node1 RECOVERING 1",
            ]
        );
    }

    #[test]
    fn a_strange_row_is_an_error_and_not_left_out() {
        let nodes = nodes(&["node1"]);
        assert!(
            Placements::new(&nodes).add_rows(&rows(&[("COMPLETE", 3, "no alias:3:0")])).is_err()
        );
        let mut table = rows(&[("COMPLETE", 3, "node1:3:0")]);
        table.columns.remove(2);
        assert!(Placements::new(&nodes).add_rows(&table).is_err());
        assert!(table_of_nothing().is_err());
    }

    fn table_of_nothing() -> Result<usize, String> {
        table(&Value::Nothing).map(|table| table.rows)
    }

    #[test]
    fn the_grouping_follows_the_number_of_fields() {
        assert!(split("node1:1:0,node2:1:0").contains("\"(:[^:,]*){0}(,|$)\""));
        assert!(split("node1:2:0:false:7494976728710525:52").contains("\"(:[^:,]*){3}(,|$)\""));
        assert!(split("").contains("{0}"));
        assert!(even().starts_with("(held == (one + \";\")) or (held == (one + one + \";\"))"));
    }
}
