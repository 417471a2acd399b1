//! Reads acknowledged rows back.

use std::collections::HashMap;
use std::time::Instant;

use grayfin_types::{
    facts::{NodeRole, NodeSpec},
    status::CanaryStatus,
};

use super::Site;
use super::table::Target;
use super::tally::Tally;
use crate::ddb::{Call, Table};
use crate::probe::{Account, words};

/// Row numbers per question: the answer has at most this many rows of 16 bytes.
const WINDOW: u64 = 20_000;
/// Missing ranges that are named.
const EXAMPLES_MAX: usize = 10;
/// Between two rounds over all nodes.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(200);

/// What reading one epoch back has shown.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Found {
    verified: u64,
    lost: u64,
    duplicates: u64,
    examples: Vec<String>,
    /// Why not everything could be read.
    pub(super) problem: Option<String>,
}

impl Found {
    /// Puts the result into a status.
    pub(super) fn into_status(self, status: &mut CanaryStatus) {
        status.verified = self.verified;
        status.lost = self.lost;
        status.duplicates = self.duplicates;
        status.lost_examples = self.examples;
        if self.problem.is_some() {
            status.problem = self.problem;
        }
    }
}

/// Compares all acknowledged rows of one epoch with what is in the table. Tries every data node
/// until `until`; what could not be read by then is said.
pub(super) async fn read_back(
    site: &Site,
    target: &Target,
    epoch: u64,
    column: i64,
    tally: &Tally,
    until: Instant,
) -> Found {
    let mut found = Found::default();
    let end = tally.acked.iter().last().map_or(0, |(_, to)| to).max(tally.planned);
    let mut from = 0;
    let mut turn = 0;
    while from < end {
        let to = end.min(from.saturating_add(WINDOW));
        if tally.acked.within(from, to).next().is_some() {
            match counts(site, &target.count_query(column, from, to), &mut turn, until).await {
                Ok(counts) => compare(&mut found, epoch, tally, from, to, &counts),
                Err(why) => {
                    let unread = tally.acked.count() - found.verified - found.lost;
                    found.problem =
                        Some(format!("{unread} acknowledged rows could not be read back: {why}"));
                    return found;
                }
            }
        }
        from = to;
    }
    found
}

/// Asks one data node after the other until one answers.
async fn counts(
    site: &Site,
    query: &str,
    turn: &mut usize,
    until: Instant,
) -> Result<HashMap<u64, u64>, String> {
    let mut failures = 0_usize;
    loop {
        let nodes = nodes(site).await;
        let node = nodes.get(*turn % nodes.len().max(1));
        let why = match node {
            Some(node) => match ask(site, node, query).await {
                Ok(counts) => return Ok(counts),
                Err(why) => format!("`{}`: {why}", node.alias),
            },
            None => "no data node is known".to_owned(),
        };
        *turn = turn.wrapping_add(1);
        failures += 1;
        if Instant::now() >= until {
            return Err(why);
        }
        if failures.is_multiple_of(nodes.len().max(1)) {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Every data node; those of a held host are left out.
async fn nodes(site: &Site) -> Vec<NodeSpec> {
    let own = if (site.held)() { site.prober.own_nodes().await } else { vec![] };
    let all = site.prober.nodes().await;
    let kept = |spec: &NodeSpec| {
        spec.role == NodeRole::DataNode && !own.iter().any(|node| node.alias == spec.alias)
    };
    all.into_iter().filter(kept).collect()
}

async fn ask(site: &Site, node: &NodeSpec, query: &str) -> Result<HashMap<u64, u64>, String> {
    let pool = site.prober.pool();
    let lease = pool.take(node, Account::Operate, site.limits.connect).await;
    let mut lease = lease.map_err(|error| error.words())?;
    let call = Call::plain(site.limits.read);
    let answer = lease.script("loadTable", query, &call).await.map_err(|error| words(&error))?;
    let table = answer.table().ok_or("it answered no table")?;
    rows(table)
}

/// Reads how often each row is there.
fn rows(table: &Table) -> Result<HashMap<u64, u64>, String> {
    let number = |name: &str, at: usize| {
        let value = table.column(name).and_then(|column| column.integer(at));
        value
            .and_then(|number| u64::try_from(number).ok())
            .ok_or_else(|| format!("a row of its answer has no good `{name}`"))
    };
    (0..table.rows).map(|at| Ok((number("seq", at)?, number("n", at)?))).collect()
}

fn compare(
    found: &mut Found,
    epoch: u64,
    tally: &Tally,
    from: u64,
    to: u64,
    counts: &HashMap<u64, u64>,
) {
    found.duplicates += counts.values().map(|count| count.saturating_sub(1)).sum::<u64>();
    let mut missing: Option<(u64, u64)> = None;
    for seq in tally.acked.within(from, to).flat_map(|(from, to)| from..to) {
        if counts.get(&seq).is_some_and(|count| *count > 0) {
            found.verified += 1;
            continue;
        }
        found.lost += 1;
        match &mut missing {
            Some((_, end)) if *end == seq => *end = seq + 1,
            Some(range) => {
                example(&mut found.examples, epoch, *range);
                *range = (seq, seq + 1);
            }
            None => missing = Some((seq, seq + 1)),
        }
    }
    if let Some(range) = missing {
        example(&mut found.examples, epoch, range);
    }
}

fn example(examples: &mut Vec<String>, epoch: u64, (from, to): (u64, u64)) {
    if examples.len() < EXAMPLES_MAX {
        examples.push(match to - from {
            1 => format!("epoch {epoch} row {from}"),
            _ => format!("epoch {epoch} rows {from} to {}", to - 1),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_and_repeated_rows_are_counted_and_named() {
        let mut tally = Tally { planned: 30, ..Tally::default() };
        tally.acked.add(0, 20);
        // 20 was sent and its outcome is unknown.
        let mut counts: HashMap<u64, u64> = (0..21).map(|seq| (seq, 1)).collect();
        for lost in [3, 7, 8, 9] {
            counts.remove(&lost);
        }
        counts.insert(5, 3);
        counts.insert(20, 2);
        let mut found = Found::default();
        compare(&mut found, 2, &tally, 0, 30, &counts);
        assert_eq!((found.verified, found.lost, found.duplicates), (16, 4, 3));
        assert_eq!(found.examples, ["epoch 2 row 3", "epoch 2 rows 7 to 9"]);
    }
}
