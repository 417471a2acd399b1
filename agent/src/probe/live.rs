//! The cluster as its leading controller sees it.

use grayfin_types::NodeAlias;
use grayfin_types::facts::{NodeRole, NodeSpec, Probe, RaftGroup};

use super::files::{Nodes, Properties};
use super::pool::{Lease, words};
use crate::ddb::{Call, Table, Value};

/// A node's line in `getClusterPerf`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PerfRow {
    pub(super) spec: NodeSpec,
    /// The leader counts it as alive.
    pub(super) up: bool,
    /// Bytes.
    pub(super) memory_used: Option<f64>,
    /// Bytes.
    pub(super) memory_max: Option<f64>,
}

/// Asks for the nodes of the live configuration.
pub(super) async fn nodes(lease: &mut Lease<'_>, call: &Call) -> Result<Nodes, String> {
    let answer = lease.function("getClusterNodesCfg", &[], call).await.map_err(|e| words(&e))?;
    let lines = answer.vector().map(crate::ddb::Vector::words).unwrap_or_default();
    let lines = lines.iter().map(String::as_str);
    Nodes::from_lines("getClusterNodesCfg()", lines).map_err(|bad| bad.to_string())
}

/// Asks for the live `cluster.cfg`.
pub(super) async fn cluster_cfg(lease: &mut Lease<'_>, call: &Call) -> Result<Properties, String> {
    let name = "loadClusterNodesConfigs";
    let answer = lease.function(name, &[], call).await.map_err(|e| words(&e))?;
    let lines = answer.vector().map(crate::ddb::Vector::words).unwrap_or_default();
    let text: Vec<&str> =
        lines.iter().map(String::as_str).filter(|line| !line.trim().is_empty()).collect();
    Properties::parse("loadClusterNodesConfigs()", &text.join("\n")).map_err(|bad| bad.to_string())
}

/// Asks for every node's state. To be called on the leader alone, never on several controllers at
/// the same time: versions before 3.00.3.3 can hang then.
pub(super) async fn perf(lease: &mut Lease<'_>, call: &Call) -> Result<Vec<PerfRow>, String> {
    let arguments = [Value::bool(true)];
    let answer = lease.function("getClusterPerf", &arguments, call).await.map_err(|e| words(&e))?;
    let table = answer.table().ok_or("`getClusterPerf` answered no table")?;
    (0..table.rows).map(|at| perf_row(table, at)).collect()
}

fn perf_row(table: &Table, at: usize) -> Result<PerfRow, String> {
    let column = |name: &str| table.column(name);
    let missing = |name: &str| format!("row {at} of `getClusterPerf` has no good `{name}`");
    let text = |name: &str| {
        let found = column(name).and_then(|c| c.word(at)).map(std::borrow::Cow::into_owned);
        found.filter(|text| !text.is_empty())
    };
    let integer = |name: &str| column(name).and_then(|c| c.integer(at));
    let role = match integer("mode") {
        Some(0) => NodeRole::DataNode,
        Some(1) => NodeRole::DdbAgent,
        Some(2) => NodeRole::Controller,
        Some(4) => NodeRole::ComputeNode,
        Some(_) | None => return Err(missing("mode")),
    };
    let alias = text("name").ok_or_else(|| missing("name"))?;
    Ok(PerfRow {
        spec: NodeSpec {
            alias: NodeAlias::new(alias).map_err(|_| missing("name"))?,
            role,
            address: text("host").ok_or_else(|| missing("host"))?,
            port: integer("port").and_then(|p| p.try_into().ok()).ok_or_else(|| missing("port"))?,
            compute_group: text("computeGroup").unwrap_or_default(),
        },
        up: column("state").and_then(|c| c.boolean(at)) == Some(true),
        memory_used: column("memoryUsed").and_then(|c| c.number(at)),
        // In GB, unlike the other.
        memory_max: column("maxMemSize").and_then(|c| c.number(at)).map(|gb| gb * 1e9),
    })
}

/// Asks the leader for a running value. Null means that the key is not set, or that the account may
/// not see it: if the file on this host sets it, that is the second.
pub(super) async fn setting(
    lease: &mut Lease<'_>,
    call: &Call,
    key: &str,
    file: &Properties,
    default: u64,
) -> Probe<u64> {
    match lease.function("getConfig", &[Value::text(key)], call).await {
        Ok(value) if value.is_null() => match file.get(key) {
            None => Probe::Known(default),
            Some(text) => Probe::Unknown(format!(
                "`controller.cfg` has `{key}={text}`, but the leading controller does not tell the running value"
            )),
        },
        Ok(value) => {
            let number = value.vector().and_then(|v| v.integer(0));
            number.and_then(|n| u64::try_from(n).ok()).map_or_else(
                || Probe::Unknown(format!("the leading controller's `{key}` is not a number")),
                Probe::Known,
            )
        }
        Err(error) => Probe::Unknown(words(&error)),
    }
}

/// Counts recovery tasks that wait or run. Only the endings are known by name in all versions
/// (`Finished`, before 2.00.10 `Finish`; `Aborted`, before that `Abort`); all else is going on.
pub(super) async fn recovery_tasks(lease: &mut Lease<'_>, call: &Call) -> Result<u64, String> {
    const SCRIPT: &str = "select count(*) as n from getRecoveryTaskStatus() group by Status";
    let answer =
        lease.script("getRecoveryTaskStatus", SCRIPT, call).await.map_err(|e| words(&e))?;
    let table = answer.table().ok_or("`getRecoveryTaskStatus` answered no table")?;
    let mut open = 0_u64;
    for at in 0..table.rows {
        let status = table.column("Status").and_then(|c| c.word(at)).unwrap_or_default();
        if ["Finished", "Finish", "Aborted", "Abort"].iter().any(|end| status == *end) {
            continue;
        }
        let count = table.column("n").and_then(|c| c.integer(at));
        let count = count.and_then(|n| u64::try_from(n).ok());
        open += count.ok_or("a row of `getRecoveryTaskStatus` has no count")?;
    }
    Ok(open)
}

/// Reads the Raft groups of data nodes that a configuration names:
/// `streamingRaftGroups=2:n1:n2:n3,3:n2:n3:n4` and the same for MVCC tables.
pub(super) fn raft_groups(cfg: &Properties) -> Result<Vec<RaftGroup>, String> {
    let mut groups: Vec<RaftGroup> = Vec::new();
    for (kind, key) in [("streaming", "streamingRaftGroups"), ("mvcc", "mvccTableRaftGroups")] {
        for item in cfg.all(key).flat_map(|value| value.split(',')).map(str::trim) {
            if item.is_empty() {
                continue;
            }
            let mut parts = item.split(':').map(str::trim);
            let id = parts.next().unwrap_or_default().to_owned();
            let members = parts.map(NodeAlias::new).collect::<Result<Vec<_>, _>>();
            let members = members.map_err(|error| format!("`{key}={item}`: {error}"))?;
            if members.is_empty() {
                return Err(format!("`{key}={item}` names no member"));
            }
            let group = RaftGroup { kind: kind.to_owned(), id, members };
            if !groups.contains(&group) {
                groups.push(group);
            }
        }
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ddb::{Data, Kind, Vector};

    fn table(state: Vector) -> Table {
        let columns = vec![
            ("host".to_owned(), Vector::text(["10.0.0.1", "10.0.0.2"])),
            ("port".to_owned(), Vector::int(vec![8920, 8922])),
            ("mode".to_owned(), Vector::int(vec![2, 0])),
            ("state".to_owned(), state),
            ("name".to_owned(), Vector::text(["c1", "n2"])),
            ("memoryUsed".to_owned(), Vector::long(vec![500, 1])),
        ];
        Table { rows: 2, columns }
    }

    #[test]
    fn the_state_is_read_as_number_and_as_yes_or_no() {
        let yes = Vector { kind: Kind::Bool, scale: 0, data: Data::I8(vec![1, -128]) };
        for state in [Vector::int(vec![1, 0]), yes] {
            let table = table(state);
            let rows: Vec<PerfRow> = (0..2).map(|at| perf_row(&table, at).unwrap()).collect();
            assert_eq!(rows[0].spec.role, NodeRole::Controller);
            assert_eq!((rows[0].up, rows[1].up), (true, false));
            assert_eq!((rows[0].memory_used, rows[0].memory_max), (Some(500.0), None));
        }
        let mut odd = table(Vector::int(vec![1, 1]));
        odd.columns[2].1 = Vector::int(vec![9, 0]);
        assert!(perf_row(&odd, 0).unwrap_err().contains("`mode`"));
    }

    #[test]
    fn raft_groups_are_read_once_each() {
        let text = "streamingRaftGroups=2:n1:n2:n3,3:n2:n3:n4\nn1.streamingRaftGroups=2:n1:n2:n3\n\
            mvccTableRaftGroups=5:n1:n2:n3\n";
        let groups = raft_groups(&Properties::parse("c", text).unwrap()).unwrap();
        let shown: Vec<String> =
            groups.iter().map(|g| format!("{} {} {}", g.kind, g.id, g.members.len())).collect();
        assert_eq!(shown, ["streaming 2 3", "streaming 3 3", "mvcc 5 3"]);
        let bad = Properties::parse("c", "streamingRaftGroups=2\n").unwrap();
        assert!(raft_groups(&bad).unwrap_err().contains("names no member"));
    }
}
