//! Clusters of stand-in processes do what the documents say. Needs the stand-in.

#![expect(clippy::panic, clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod cluster;
mod refusals;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cluster::{Client, Cluster, Options, until};
use standin::faults::applied_not_answered;
use standin_lang::value::{Table, Value, Vector};

/// The statements of the mission's document, with a range that covers the test's own dates.
const MAKE: &str = "db = database(\"dfs://stock\",VALUE,2023.01.01..2023.01.10,,'TSDB')\n\
    tmp = table(1:0,[`time,`name,`id],[TIMESTAMP,SYMBOL,INT])\n\
    pt = db.createPartitionedTable(tmp,`stock,`time,,`name,ALL)";
const COUNT: &str = "exec count(*) from loadTable(\"dfs://stock\", \"stock\")";

fn row(id: i32, day: &str) -> Value {
    let time = Value::string(format!("{day}T10:00:00.000")).to_vector().unwrap();
    Table::new([
        ("time", time.cast(standin_lang::value::Type::Timestamp).unwrap()),
        ("name", Vector::symbols(["Apple"])),
        ("id", Vector::ints([id])),
    ])
    .unwrap()
    .into()
}

const INSERT: &str = "tableInsert{loadTable('dfs://stock', 'stock')}";

async fn insert(client: &mut Client, id: i32, day: &str) -> Result<i64, String> {
    let answer = client.call(INSERT, vec![row(id, day)]).await?;
    Ok(answer.and_then(|value| value.as_i64()).unwrap_or(-1))
}

async fn client(cluster: &Cluster, alias: &str) -> Client {
    let mut client = Client::connect(&cluster.site(alias)).await.unwrap();
    client.login("admin", "123456").await.unwrap();
    client
}

async fn ids(cluster: &Cluster, alias: &str) -> Vec<i64> {
    let script = "exec id from loadTable(\"dfs://stock\", \"stock\") order by id";
    let value = cluster.eval(alias, script).await.unwrap();
    value.as_vector().unwrap().values().filter_map(|v| v.as_i64()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_missions_document_works_as_written() {
    let options = Options { compute_nodes: true, ..Options::default() };
    let cluster = Cluster::up(&options).await;
    let leader = cluster.leader().await.unwrap();
    let text = async |alias: &str, script: &str| {
        let value = cluster.eval(alias, script).await.unwrap();
        value.as_str().unwrap_or_else(|| panic!("{script}: {value:?}")).to_owned()
    };
    assert_eq!(text("node1", "version()").await, "2.00.8.10 2022.12.28");
    assert_eq!(text("node2", "getControllerAlias()").await, leader);
    let versions = cluster.eval("node1", "pnodeRun(version)").await.unwrap();
    let versions = versions.as_table().unwrap().clone();
    assert_eq!((versions.rows(), versions.columns().len()), (6, 2));
    let dirs = cluster.eval("node3", "pnodeRun(getConfig{`chunkMetaDir})").await.unwrap();
    assert_eq!(dirs.as_table().unwrap().rows(), 6);
    let meta = text("node1", "rpc(getControllerAlias(),getConfig{`dfsMetaDir})").await;
    assert!(meta.ends_with(&format!("data/{leader}/dfsMeta")), "{meta}");
    assert_eq!(cluster.run("node1", MAKE).await, Ok(None));
    let schema = cluster.eval("node2", "schema(loadTable(\"dfs://stock\", \"stock\"))").await;
    let Value::Dictionary(schema) = schema.unwrap() else { panic!("no dictionary") };
    assert_eq!(schema.text_key("engineType").unwrap().as_str(), Some("TSDB"));
    let columns = schema.text_key("colDefs").unwrap();
    assert_eq!(columns.as_table().unwrap().rows(), 3);
    let mut one = client(&cluster, "node1").await;
    let mut two = client(&cluster, "comp2").await;
    for id in 1..=10 {
        let writer = if id % 2 == 0 { &mut one } else { &mut two };
        assert_eq!(insert(writer, id, "2023.01.05").await, Ok(1));
    }
    assert_eq!(ids(&cluster, "node3").await, (1..=10).collect::<Vec<i64>>());
    let bad = "select * from rpc(getControllerAlias(), getClusterChunksStatus) where state != \"COMPLETE\" ";
    let bad = cluster.eval("node1", bad).await.unwrap();
    let bad = bad.as_table().unwrap();
    assert_eq!((bad.rows(), bad.columns().len()), (0, 11));
    let chunks = cluster.eval(&leader, "getClusterChunksStatus()").await.unwrap();
    let chunks = chunks.as_table().unwrap().clone();
    assert_eq!(chunks.rows(), 1);
    assert_eq!(chunks.cell(0, "replicaCount").unwrap().as_i64(), Some(2));
    assert_eq!(chunks.cell(0, "file").unwrap().as_str(), Some("/stock/20230105/1"));
    assert_eq!(chunks.cell(0, "version").unwrap().as_i64(), Some(10));
    // Deleting is a transaction like any other.
    let delete =
        "delete from loadTable(\"dfs://stock\", \"stock\") where id == 3 and name == `Apple";
    cluster.run("node2", delete).await.unwrap();
    assert_eq!(ids(&cluster, "node3").await, [1, 2, 4, 5, 6, 7, 8, 9, 10]);
    let local = cluster.eval("node1", "select * from pnodeRun(getAllChunks) where state == 0");
    assert_eq!(local.await.unwrap().as_table().unwrap().rows(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_leader_is_elected_and_the_first_does_not_come_back() {
    let mut cluster = Cluster::up(&Options::default()).await;
    cluster.run("node1", MAKE).await.unwrap();
    let mut writer = client(&cluster, "node1").await;
    assert_eq!(insert(&mut writer, 1, "2023.01.05").await, Ok(1));
    let first = cluster.leader().await.unwrap();
    cluster.kill(&first);
    until("another leader", || async {
        let leader = cluster.leader().await?;
        if leader == first { Err("still the old one".to_owned()) } else { Ok(()) }
    })
    .await;
    let second = cluster.leader().await.unwrap();
    // What was known is known, and writes go on.
    assert_eq!(insert(&mut writer, 2, "2023.01.05").await, Ok(1));
    assert_eq!(ids(&cluster, "node2").await, [1, 2]);
    cluster.spawn(&first);
    cluster.wait_whole().await;
    assert_eq!(cluster.leader().await, Ok(second.clone()));
    until("the follower to be ready", || async {
        cluster.eval(&first, "isNodeInitialized()").await.map(|_| ())
    })
    .await;
    let asked = cluster.eval(&first, "getClusterChunksStatus()").await.unwrap_err();
    assert_eq!(asked, format!("<NotLeader>{}:{second}", cluster.site(&second)));
    let log = cluster.log(&second);
    for marker in ["became leader at term", "has gone offline", "Job schedule initialized"] {
        if marker != "has gone offline" {
            assert!(log.contains(marker), "{marker} in {log}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_node_that_was_away_catches_up() {
    let mut cluster = Cluster::up(&Options::default()).await;
    cluster.run("node1", MAKE).await.unwrap();
    let mut writer = client(&cluster, "node1").await;
    for id in 1..=20 {
        assert_eq!(insert(&mut writer, id, "2023.01.05").await, Ok(1));
    }
    let leader = cluster.leader().await.unwrap();
    let replicas = cluster.eval(&leader, "exec replicas from getClusterChunksStatus()").await;
    let replicas = replicas.unwrap().as_vector().unwrap().get(0).as_str().unwrap().to_owned();
    let holders: Vec<String> =
        replicas.split(',').map(|r| r.split(':').next().unwrap().to_owned()).collect();
    let away = holders.iter().find(|alias| *alias != "node1").unwrap().clone();
    cluster.kill(&away);
    let mut writer = client(&cluster, "node1").await;
    let mut refused = 0;
    for id in 21..=60 {
        // The first one may meet the dead node: it is rolled back with a tag to try again.
        while let Err(text) = insert(&mut writer, id, "2023.01.05").await {
            assert!(text.starts_with("<DataNodeNotAvail>"), "{text}");
            refused += 1;
            assert!(refused < 5, "{text}");
        }
    }
    let count = "exec replicaCount from getClusterChunksStatus()";
    until("one replica", || async {
        let count = cluster.eval(&leader, count).await?;
        match count.as_vector().and_then(|v| v.get(0).as_i64()) {
            Some(1) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert_eq!(cluster.number("node1", COUNT).await, 60);
    cluster.start_nodes(std::slice::from_ref(&away)).await;
    cluster.wait_whole().await;
    let tasks = cluster.eval(&leader, "getRecoveryTaskStatus()").await.unwrap();
    let tasks = tasks.as_table().unwrap();
    assert_eq!(tasks.cell(0, "Status").unwrap().as_str(), Some("Finish"));
    assert_eq!(tasks.cell(0, "Dest").unwrap().as_str(), Some(away.as_str()));
    // The copy is as good as the original.
    let other = holders.iter().find(|alias| **alias != away).unwrap().clone();
    cluster.kill(&other);
    let reader = ["node1", "node2", "node3"].into_iter().find(|alias| *alias != other).unwrap();
    assert_eq!(ids(&cluster, reader).await, (1..=60).collect::<Vec<i64>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_row_is_lost_over_kills_and_restarts() {
    let mut cluster = Cluster::up(&Options::default()).await;
    cluster.run("node1", MAKE).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let tries = Arc::new(AtomicU64::new(0));
    let mut writers = Vec::new();
    for number in 0..3_i32 {
        let (stop, sites) =
            (Arc::clone(&stop), [1, 2, 3].map(|n| cluster.site(&format!("node{n}"))));
        writers.push(tokio::spawn(write_until(stop, Arc::clone(&tries), sites, number)));
    }
    for round in 0..6 {
        let victim = match round % 3 {
            0 => format!("node{}", round / 3 + 1),
            1 => cluster.leader().await.unwrap(),
            _ => "node3".to_owned(),
        };
        cluster.kill(&victim);
        let before = tries.load(Ordering::Relaxed);
        until("the writers to go on without it", || async {
            let since = tries.load(Ordering::Relaxed) - before;
            if since > 6 { Ok(()) } else { Err(format!("{since} tries")) }
        })
        .await;
        if victim.starts_with("ctl") {
            cluster.spawn(&victim);
        } else {
            cluster.start_nodes(&[victim]).await;
        }
        cluster.wait_whole_under_load().await;
    }
    stop.store(true, Ordering::Release);
    let (mut acknowledged, mut unsure) = (Vec::new(), Vec::new());
    for writer in writers {
        let (told, not_told) = writer.await.unwrap();
        acknowledged.extend(told);
        unsure.extend(not_told);
    }
    assert!(acknowledged.len() > 30, "only {} rows", acknowledged.len());
    let mut seen: BTreeMap<i64, usize> = BTreeMap::new();
    for id in ids(&cluster, "node2").await {
        *seen.entry(id).or_default() += 1;
    }
    for id in &acknowledged {
        assert_eq!(seen.get(id), Some(&1), "row {id}; not told: {unsure:?}");
    }
    // A row that nobody was told of is there only where a node wrote so.
    let mut written: Vec<i64> = Vec::new();
    for number in 1..=3 {
        let home = cluster.home(&format!("node{number}"));
        until("all inserts to be judged", || async {
            match applied_not_answered(&home).map_err(|e| e.to_string())?.undecided.len() {
                0 => Ok(()),
                left => Err(format!("{left} are left")),
            }
        })
        .await;
        let found = applied_not_answered(&home).unwrap();
        let all = found.applied.iter().flat_map(|insert| &insert.columns);
        let all = all.filter(|(name, _)| name == "id").flat_map(|(_, values)| values);
        written.extend(all.map(|id| id.parse::<i64>().unwrap()));
    }
    for id in unsure.iter().filter(|id| seen.contains_key(id)) {
        assert!(written.contains(id), "row {id} is there and nobody wrote it down: {written:?}");
    }
}

/// Inserts rows until told to stop; returns the acknowledged ids and those without an answer.
/// Each id is sent once.
async fn write_until(
    stop: Arc<AtomicBool>,
    tries: Arc<AtomicU64>,
    sites: [String; 3],
    number: i32,
) -> (Vec<i64>, Vec<i64>) {
    let (mut told, mut not_told) = (Vec::new(), Vec::new());
    let mut connection: Option<Client> = None;
    let mut id = number * 1_000_000;
    let mut turn = usize::try_from(number).unwrap();
    while !stop.load(Ordering::Acquire) {
        tries.fetch_add(1, Ordering::Relaxed);
        let Some(open) = &mut connection else {
            turn += 1;
            if let Ok(mut fresh) = Client::connect(&sites[turn % 3]).await
                && fresh.login("admin", "123456").await.is_ok()
            {
                connection = Some(fresh);
            } else {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            continue;
        };
        id += 1;
        let day = ["2023.01.03", "2023.01.04", "2023.01.05"][usize::try_from(id % 3).unwrap()];
        match insert(open, id, day).await {
            Ok(_) => told.push(i64::from(id)),
            Err(text) => {
                if !text.starts_with('<') {
                    not_told.push(i64::from(id));
                }
                connection = None;
            }
        }
    }
    (told, not_told)
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_outside_of_the_partitions_are_skipped_unless_the_policy_says_otherwise() {
    let cluster = Cluster::up(&Options { hosts: 1, ..Options::default() }).await;
    cluster.run("node1", MAKE).await.unwrap();
    let mut writer = client(&cluster, "node1").await;
    assert_eq!(insert(&mut writer, 1, "2023.01.05").await, Ok(1));
    assert_eq!(insert(&mut writer, 2, "2024.01.05").await, Ok(1), "silently");
    assert_eq!(ids(&cluster, "node1").await, [1]);
    drop(cluster);
    let add = "newValuePartitionPolicy=add\n";
    let cluster = Cluster::up(&Options { hosts: 1, cluster: add, ..Options::default() }).await;
    cluster.run("node1", MAKE).await.unwrap();
    let mut writer = client(&cluster, "node1").await;
    assert_eq!(insert(&mut writer, 2, "2024.01.05").await, Ok(1));
    assert_eq!(ids(&cluster, "node1").await, [2]);
    drop(cluster);
    let fail = "newValuePartitionPolicy=fail\n";
    let cluster = Cluster::up(&Options { hosts: 1, cluster: fail, ..Options::default() }).await;
    cluster.run("node1", MAKE).await.unwrap();
    let mut writer = client(&cluster, "node1").await;
    assert!(insert(&mut writer, 2, "2024.01.05").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_sent_again_is_run_once_from_2_00_9_on() {
    for (version, rows) in [("2.00.8.10", 2), ("2.00.9.4", 1)] {
        let options = Options { hosts: 1, version, ..Options::default() };
        let cluster = Cluster::up(&options).await;
        cluster.run("node1", MAKE).await.unwrap();
        for number in [5, -5] {
            let mut writer = client(&cluster, "node1").await.with_id("a-client", number);
            assert_eq!(insert(&mut writer, 1, "2023.01.05").await, Ok(1));
        }
        assert_eq!(cluster.number("node1", COUNT).await, rows, "{version}");
    }
}
