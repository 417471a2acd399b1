//! The table that is written: our own, made on first use, or one that the site provides.
//!
//! Our own database has one partition per value of `part`, thousands of them declared at once and
//! each made by its first row: so there are new partitions whenever the writer wants one, without
//! `newValuePartitionPolicy=add`, which is off by default and without which rows of an undeclared
//! partition vanish silently.

use std::time::Duration;

use grayfin_types::{RolloutId, plan::CanarySpec};

use crate::ddb::{Call, Table, Value, Vector};
use crate::files::Hasher;
use crate::probe::Lease;

/// Our own database.
const DATABASE: &str = "dfs://grayfin_canary";
/// Our own table.
const TABLE: &str = "rows";
/// Declared partitions: with a new one every ten seconds they last eleven hours before the first is
/// used again.
pub(super) const PARTS: u32 = 4000;

/// What is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    database: String,
    table: String,
    /// It is ours: made if it is not there, and new partitions are used now and then.
    pub(super) own: bool,
    pub(super) rows_per_second: u32,
}

impl Target {
    /// Reads what an order wants; none for no canary. Names of the site are checked, because they
    /// become part of scripts.
    pub(super) fn of(spec: &CanarySpec) -> Result<Option<Self>, String> {
        match spec {
            CanarySpec::Off => Ok(None),
            CanarySpec::New { rows_per_second } => Ok(Some(Self {
                database: DATABASE.to_owned(),
                table: TABLE.to_owned(),
                own: true,
                rows_per_second: (*rows_per_second).max(1),
            })),
            CanarySpec::Table { database, table, rows_per_second } => {
                let good = |text: &str, others: &str| {
                    !text.is_empty()
                        && text.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
                };
                let path = database.strip_prefix("dfs://").unwrap_or_default();
                if !good(path, "_-./") || !good(table, "_") {
                    return Err(format!(
                        "`{database}` and `{table}` are not a database `dfs://…` and a table whose names are letters, digits and `_`"
                    ));
                }
                Ok(Some(Self {
                    database: database.clone(),
                    table: table.clone(),
                    own: false,
                    rows_per_second: (*rows_per_second).max(1),
                }))
            }
        }
    }

    /// Makes the database and the table if they are ours and not there.
    pub(super) async fn ensure(
        &self,
        lease: &mut Lease<'_>,
        deadline: Duration,
    ) -> Result<(), String> {
        if !self.own {
            return Ok(());
        }
        let call = Call::plain(deadline);
        let names = [Value::text(self.database.as_str()), Value::text(self.table.as_str())];
        let there = lease.function("existsTable", &names, &call).await;
        match there.map(|value| value.boolean()) {
            Ok(Some(true)) => return Ok(()),
            Ok(Some(false)) => {}
            Ok(None) => return Err("`existsTable` answered neither true nor false".to_owned()),
            Err(error) => return Err(crate::probe::words(&error)),
        }
        let script = format!(
            "grayfin_db = database(\"{}\", VALUE, 0..{})\n\
             grayfin_t = table(1:0, `epoch`seq`attempt`part`sent, [LONG, LONG, INT, INT, TIMESTAMP])\n\
             grayfin_db.createPartitionedTable(grayfin_t, `{}, `part)",
            self.database,
            PARTS - 1,
            self.table
        );
        let made = lease.script("createPartitionedTable", &script, &call).await;
        let Err(error) = made else { return Ok(()) };
        // Another writer may have made it at the same time.
        match lease.function("existsTable", &names, &call).await.map(|value| value.boolean()) {
            Ok(Some(true)) => Ok(()),
            Ok(_) | Err(_) => {
                Err(format!("make the canary's table: {}", crate::probe::words(&error)))
            }
        }
    }

    /// The function request that inserts: the form that official clients use.
    pub(super) fn insert_function(&self) -> String {
        format!("tableInsert{{loadTable('{}', '{}')}}", self.database, self.table)
    }

    /// The query for how often each row of an epoch is there. Numbers are LONG by their suffix: the
    /// epoch does not fit into an INT.
    pub(super) fn count_query(&self, epoch: i64, from: u64, to: u64) -> String {
        format!(
            "select count(*) as n from loadTable(\"{}\", \"{}\") where epoch == {epoch}l and seq >= {from}l and seq < {to}l group by seq",
            self.database, self.table
        )
    }
}

/// Some rows with following numbers, of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) part: u32,
    pub(super) attempt: u32,
}

impl Batch {
    pub(super) const fn rows(&self) -> u64 {
        self.to - self.from
    }

    /// The rows as a table.
    pub(super) fn table(&self, epoch: i64, sent_ms: u64) -> Table {
        let count = usize::try_from(self.rows()).unwrap_or(0);
        let seqs = (self.from..self.to).map(|seq| i64::try_from(seq).unwrap_or(i64::MAX)).collect();
        let small = |number: u32| vec![i32::try_from(number).unwrap_or(i32::MAX); count];
        let sent = i64::try_from(sent_ms).unwrap_or(0);
        let columns = vec![
            ("epoch".to_owned(), Vector::long(vec![epoch; count])),
            ("seq".to_owned(), Vector::long(seqs)),
            ("attempt".to_owned(), Vector::int(small(self.attempt))),
            ("part".to_owned(), Vector::int(small(self.part))),
            ("sent".to_owned(), Vector::timestamp(vec![sent; count])),
        ];
        Table { rows: count, columns }
    }
}

/// The number that stands in the column `epoch`: rows of different rollouts lie in one table, so the
/// rollout's id is part of it.
pub(super) fn column_epoch(rollout: &RolloutId, epoch: u64) -> i64 {
    let mut hasher = Hasher::default();
    hasher.update(rollout.as_str().as_bytes());
    let digest = hasher.finish();
    // 47 bits of the digest above 16 bits of the epoch: always positive, never null.
    let front = digest.get(..12).and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or(1);
    let number = ((front >> 1) << 16) | (epoch & 0xffff);
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_site_cannot_break_out_of_a_script() {
        let spec = |database: &str, table: &str| CanarySpec::Table {
            database: database.to_owned(),
            table: table.to_owned(),
            rows_per_second: 5,
        };
        assert!(Target::of(&spec("dfs://a/b-c.d", "rows_1")).unwrap().is_some());
        for (database, table) in [
            ("dfs://a\"); x(", "t"),
            ("dfs://a", "t`"),
            ("a", "t"),
            ("dfs://a", ""),
            ("dfs://", "t"),
        ] {
            assert!(Target::of(&spec(database, table)).is_err(), "{database} {table}");
        }
        assert_eq!(Target::of(&CanarySpec::Off), Ok(None));
    }

    #[test]
    fn epochs_of_rollouts_never_meet() {
        let id = |text: &str| RolloutId::new(text).unwrap();
        let one = column_epoch(&id("r1"), 1);
        assert!(one > 0);
        assert_eq!(one + 1, column_epoch(&id("r1"), 2));
        assert_ne!(one >> 16, column_epoch(&id("r2"), 1) >> 16);
    }

    #[test]
    fn a_batch_is_a_table_of_its_rows() {
        let table = Batch { from: 5, to: 8, part: 2, attempt: 1 }.table(9, 1000);
        assert_eq!(table.rows, 3);
        assert_eq!(table.column("seq").unwrap().integer(2), Some(7));
        assert!(table.columns.iter().all(|(_, column)| column.len() == 3));
    }
}
