//! What is refused, what is lost, and what goes wrong on purpose.

use std::fs;

use rustix::process::Signal;
use standin::faults::{Kind, applied_not_answered};
use standin_lang::value::Value;

use crate::cluster::{Client, Cluster, NEW, Options, until};
use crate::{MAKE, client, ids, insert};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_modelled_is_refused_and_counted() {
    let cluster = Cluster::up(&Options { hosts: 1, ..Options::default() }).await;
    let error = cluster.run("node1", "createGroup(`g)").await.unwrap_err();
    assert_eq!(error, "Syntax Error: [line #1] Cannot recognize the token createGroup");
    let error = cluster.run("node1", "getClusterPerf()").await.unwrap_err();
    assert!(
        error.contains("Only master or single mode supports function getClusterPerf"),
        "{error}"
    );
    let Value::Dictionary(found) = cluster.eval("node1", "standinUnmodelled()").await.unwrap()
    else {
        panic!("no dictionary");
    };
    assert_eq!(found.text_key("count").unwrap().as_i64(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn users_without_the_right_are_refused() {
    let options =
        Options { hosts: 1, controller: "enhancedSecurityVerification=1\n", ..Options::default() };
    let cluster = Cluster::up(&options).await;
    cluster.run("ctl1", "createUser(`probe, `secret)").await.unwrap();
    let mut probe = Client::connect(&cluster.site("ctl1")).await.unwrap();
    assert!(probe.script("getClusterChunksStatus()").await.is_err());
    probe.login("probe", "secret").await.unwrap();
    assert!(probe.script("getClusterChunksStatus()").await.is_ok());
    let refused = probe.script("stopDataNode([\"node1\"])").await.unwrap_err();
    assert!(refused.contains("Only administrators"), "{refused}");
    cluster.run("ctl1", "grant(`probe, `stopDataNode)").await.unwrap();
    probe.login("probe", "secret").await.unwrap();
    assert!(probe.script("stopDataNode([\"node1\"])").await.is_ok());
    for _ in 0..5 {
        let wrong = probe.login("probe", "wrong").await.unwrap_err();
        assert_eq!(wrong, "The user name or password is incorrect.");
    }
    let locked = probe.login("probe", "secret").await.unwrap_err();
    assert!(locked.contains("locked"), "{locked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_version_refuses_what_a_newer_one_wrote() {
    let mut cluster = Cluster::up(&Options::default()).await;
    cluster.run("node1", MAKE).await.unwrap();
    let mut writer = client(&cluster, "node1").await;
    assert_eq!(insert(&mut writer, 1, "2023.01.05").await, Ok(1));
    let names = ["node2", "agent2", "ctl2"];
    for alias in names {
        cluster.signal(alias, Signal::TERM);
        cluster.wait_gone(alias).await;
    }
    assert!(cluster.log("node2").contains("MainServer shutdown."));
    let old = fs::read(cluster.work(2).join("../dolphindb")).unwrap();
    cluster.install(2, NEW);
    cluster.spawn("ctl2");
    cluster.spawn("agent2");
    cluster.start_nodes(&["node2".to_owned()]).await;
    cluster.wait_whole().await;
    for alias in names {
        let version = cluster.eval(alias, "version()").await.unwrap();
        assert_eq!(version.as_str(), Some("2.00.8.12 2023.01.10"), "{alias}");
    }
    for alias in names {
        cluster.signal(alias, Signal::TERM);
        cluster.wait_gone(alias).await;
    }
    fs::write(cluster.work(2).join("../dolphindb"), old).unwrap();
    cluster.spawn("ctl2");
    cluster.wait_gone("ctl2").await;
    let log = cluster.log("ctl2");
    assert!(log.contains("Unsupported metadata version 2.00.8.12"), "{log}");
    cluster.spawn("agent2");
    until("the data node to refuse", || async {
        let leader = cluster.leader().await?;
        cluster.run(&leader, "startDataNode([\"node2\"])").await?;
        let log = cluster.log("node2");
        if log.contains("Unsupported metadata version") { Ok(()) } else { Err("not yet".into()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_happen_when_they_are_asked_for() {
    let mut cluster = Cluster::up(&Options::default()).await;
    cluster.run("node1", MAKE).await.unwrap();
    // Applied, but the client is not told: written down.
    cluster.faults("node1").set(Kind::CrashAfterApply, "").unwrap();
    let mut writer = client(&cluster, "node1").await;
    assert!(insert(&mut writer, 7, "2023.01.05").await.is_err());
    cluster.wait_gone("node1").await;
    let found = applied_not_answered(&cluster.home("node1")).unwrap();
    assert_eq!(found.applied.len(), 1);
    assert_eq!(found.applied[0].alias, "node1");
    assert_eq!(ids(&cluster, "node2").await, [7]);
    cluster.start_nodes(&["node1".to_owned()]).await;
    // Not applied.
    cluster.faults("node1").set(Kind::CrashBeforeApply, "").unwrap();
    let mut writer = client(&cluster, "node1").await;
    assert!(insert(&mut writer, 8, "2023.01.05").await.is_err());
    cluster.wait_gone("node1").await;
    assert_eq!(applied_not_answered(&cluster.home("node1")).unwrap().applied.len(), 1);
    cluster.start_nodes(&["node1".to_owned()]).await;
    cluster.wait_whole().await;
    // Acknowledged, but not kept.
    cluster.faults("node2").set(Kind::DropAckedRow, "1").unwrap();
    let mut writer = client(&cluster, "node2").await;
    assert_eq!(insert(&mut writer, 9, "2023.01.05").await, Ok(1));
    assert_eq!(insert(&mut writer, 10, "2023.01.05").await, Ok(1));
    assert_eq!(ids(&cluster, "node3").await, [7, 10]);
    // On no replica, as far as anybody can see.
    for alias in ["node1", "node2", "node3"] {
        cluster.faults(alias).set(Kind::DropAckedRow, "id=10").unwrap();
    }
    assert_eq!(ids(&cluster, "node3").await, [7]);
    for alias in ["node1", "node2", "node3"] {
        cluster.faults(alias).clear(Kind::DropAckedRow).unwrap();
    }
    assert_eq!(ids(&cluster, "node3").await, [7, 10]);
    // A version that is not so, and a node that does not stop.
    cluster.faults("node3").set(Kind::ReportOldVersion, "2.00.7.4").unwrap();
    let version = cluster.eval("node3", "version()").await.unwrap();
    assert_eq!(version.as_str(), Some("2.00.7.4 2022.12.28"));
    cluster.faults("node3").set(Kind::IgnoreSigterm, "").unwrap();
    cluster.signal("node3", Signal::TERM);
    until("the signal to be ignored", || async {
        let log = cluster.log("node3");
        if log.contains("ignore_sigterm") { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    assert!(cluster.run("node3", "1+1").await.is_ok());
    // A count that is not so.
    let leader = cluster.leader().await.unwrap();
    cluster.faults(&leader).set(Kind::WrongReplicaCount, "-1").unwrap();
    let count = "exec replicaCount from getClusterChunksStatus()";
    let count = cluster.eval(&leader, count).await.unwrap();
    assert_eq!(count.as_vector().unwrap().get(0).as_i64(), Some(1));
    // A leader that does not stay one.
    cluster.faults(&leader).clear(Kind::WrongReplicaCount).unwrap();
    cluster.faults(&leader).set(Kind::FlapLeader, "").unwrap();
    until("another leader", || async {
        let now = cluster.leader().await?;
        if now == leader { Err("not yet".to_owned()) } else { Ok(()) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_can_be_kept_from_ending() {
    let mut cluster = Cluster::up(&Options::default()).await;
    cluster.run("node1", MAKE).await.unwrap();
    let mut writer = client(&cluster, "node1").await;
    for day in 1..=6 {
        assert_eq!(insert(&mut writer, day, &format!("2023.01.0{day}")).await, Ok(1));
    }
    cluster.signal("node2", Signal::TERM);
    cluster.wait_gone("node2").await;
    for day in 1..=6 {
        assert_eq!(insert(&mut writer, day + 10, &format!("2023.01.0{day}")).await, Ok(1));
    }
    cluster.faults("node2").set(Kind::NeverFinishRecovery, "").unwrap();
    cluster.start_nodes(&["node2".to_owned()]).await;
    let leader = cluster.leader().await.unwrap();
    let open = "exec count(*) from getRecoveryTaskStatus() where Status == \"In-Progress\"";
    until("recovery to begin", || async {
        match cluster.eval(&leader, open).await?.as_i64() {
            Some(0) => Err("not yet".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
    let recovering = "exec count(*) from getClusterChunksStatus() where state == \"RECOVERING\"";
    assert!(cluster.number(&leader, recovering).await > 0);
    cluster.faults("node2").clear(Kind::NeverFinishRecovery).unwrap();
    cluster.wait_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lives_in_memory_is_gone_after_a_restart() {
    let mut cluster = Cluster::up(&Options::default()).await;
    let make = "share streamTable(1:0, [`time,`x], [TIMESTAMP,INT]) as trades";
    cluster.run("node1", make).await.unwrap();
    let subscribe = "subscribeTable(\"node1\", `trades, `act, 0, print)";
    let topic = cluster.eval("node2", subscribe).await.unwrap();
    assert!(topic.as_str().unwrap().ends_with(":node1/trades/act"));
    let workers = "exec count(*) from getStreamingStat().subWorkers";
    assert_eq!(cluster.number("node2", workers).await, 1);
    let published = "exec count(*) from getStreamingStat().pubTables";
    assert_eq!(cluster.number("node1", published).await, 1);
    let shared = "exec count(*) from objs(true) where shared == true";
    assert_eq!(cluster.number("node1", shared).await, 1);
    cluster.run("node1", "submitJob(`slow, `x, sleep, 600000)").await.unwrap();
    let running = "exec count(*) from getRecentJobs() where isNull(endTime)";
    assert_eq!(cluster.number("node1", running).await, 1);
    let schedule = "scheduleJob(`daily, `d, version, 17:23m, 2023.01.01, 2033.01.01, 'D')";
    cluster.run("node1", schedule).await.unwrap();
    cluster.signal("node1", Signal::TERM);
    cluster.wait_gone("node1").await;
    cluster.start_nodes(&["node1".to_owned()]).await;
    assert_eq!(cluster.number("node1", shared).await, 0);
    assert_eq!(cluster.number("node1", running).await, 0);
    assert_eq!(cluster.number("node1", "exec count(*) from getScheduledJobs()").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_that_must_fail_do_and_say_why() {
    let mut cluster = Cluster::new(&Options { hosts: 1, ..Options::default() });
    let server = cluster.work(1).join("..");
    let license = fs::read_to_string(server.join("dolphindb.lic")).unwrap();
    let expired = license.replace("2099.12.31", "2020.01.01");
    fs::write(server.join("dolphindb.lic"), expired).unwrap();
    cluster.spawn("ctl1");
    cluster.wait_gone("ctl1").await;
    assert!(cluster.log("ctl1").contains("The license has expired."));
    let capped = license.replace("\"version\": \"\"", "\"version\": \"2.00.7\"");
    fs::write(server.join("dolphindb.lic"), capped).unwrap();
    cluster.spawn("ctl1");
    cluster.wait_gone("ctl1").await;
    assert!(cluster.log("ctl1").contains("The license supports versions up to 2.00.7"));
    fs::write(server.join("dolphindb.lic"), license).unwrap();
    let busy = std::net::TcpListener::bind(cluster.site("ctl1")).unwrap();
    cluster.spawn("ctl1");
    cluster.wait_gone("ctl1").await;
    assert!(
        cluster.log("ctl1").contains("Failed to bind the socket on port 8920 with error code 98")
    );
    drop(busy);
    fs::write(cluster.work(1).join("config/cluster.nodes"), "\n").unwrap();
    cluster.spawn("ctl1");
    cluster.wait_gone("ctl1").await;
    assert!(cluster.log("ctl1").contains("The input file is empty."));
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_nodes_stay_down_and_killed_ones_come_back() {
    let options = Options { controller: "datanodeRestartInterval=130\n", ..Options::default() };
    let mut cluster = Cluster::up(&options).await;
    let leader = cluster.leader().await.unwrap();
    cluster.run(&leader, "stopDataNode([\"node2\"])").await.unwrap();
    assert_eq!(cluster.pid("node2"), None, "this version waits until the node is gone");
    cluster.kill("agent3");
    assert!(cluster.pid("node3").is_some(), "nodes outlive their agent");
    cluster.spawn("agent3");
    cluster.kill("node3");
    until("the killed node to come back", || async {
        match cluster.pid("node3") {
            Some(_) => Ok(()),
            None => Err("not yet".to_owned()),
        }
    })
    .await;
    assert_eq!(cluster.pid("node2"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn stops_and_starts_go_wrong_as_asked_for() {
    let mut cluster = Cluster::up(&Options { version: "3.00.2.1", ..Options::default() }).await;
    let leader = cluster.leader().await.unwrap();
    // The stop takes effect late, and the call does not wait for it.
    cluster.faults(&leader).set(Kind::LateStop, "400").unwrap();
    let since = std::time::Instant::now();
    cluster.run(&leader, "stopDataNode([\"node1\"])").await.unwrap();
    assert!(since.elapsed().as_millis() < 400 && cluster.pid("node1").is_some());
    cluster.wait_gone("node1").await;
    assert!(since.elapsed().as_millis() >= 400);
    cluster.faults(&leader).clear(Kind::LateStop).unwrap();
    // It does not start with this version.
    cluster.faults("node1").set(Kind::RefuseStartVersion, "3.00.2.1").unwrap();
    cluster.run(&leader, "startDataNode([\"node1\"])").await.unwrap();
    until("the refusal", || async {
        let log = cluster.log("node1");
        if log.contains("refuse_start_version") { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    cluster.wait_gone("node1").await;
    cluster.faults("node1").clear(Kind::RefuseStartVersion).unwrap();
    // It starts, and dies.
    cluster.faults("node1").set(Kind::StartThenDie, "200").unwrap();
    cluster.start_nodes(&["node1".to_owned()]).await;
    cluster.wait_gone("node1").await;
    cluster.faults("node1").clear(Kind::StartThenDie).unwrap();
    cluster.start_nodes(&["node1".to_owned()]).await;
    cluster.wait_whole().await;
    // It takes its time, says that it is stopping, and is not on line meanwhile.
    cluster.faults("node1").set(Kind::SlowStop, "1500").unwrap();
    cluster.signal("node1", Signal::TERM);
    let offline = "exec count(*) from getClusterPerf() where state == 0";
    until("the node to be off line", || async {
        match cluster.eval(&leader, offline).await?.as_i64() {
            Some(1) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    assert!(cluster.pid("node1").is_some());
    cluster.wait_gone("node1").await;
    let log = cluster.log("node1");
    assert!(log.contains("Job scheduler initialization completed."), "{log}");
    assert!(log.contains("Received signal 15") && log.contains("MainServer shutdown."), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_hangs_accepts_and_never_answers() {
    let cluster = Cluster::up(&Options::default()).await;
    let leader = cluster.leader().await.unwrap();
    cluster.faults("node3").set(Kind::Hang, "client").unwrap();
    let site = cluster.site("node3");
    let asked = Client::connect(&site);
    let waited = tokio::time::timeout(std::time::Duration::from_millis(500), asked).await;
    assert!(waited.is_err(), "it answered");
    let online = "exec count(*) from getClusterPerf(true) where state == 1";
    assert_eq!(cluster.number(&leader, online).await, 9);
    cluster.faults("node3").set(Kind::Hang, "").unwrap();
    cluster.faults(&leader).set(Kind::Hang, "").unwrap();
    until("another leader that misses the data node", || async {
        let others: Vec<String> =
            (1..=3).map(|n| format!("ctl{n}")).filter(|alias| *alias != leader).collect();
        for alias in others {
            let asked =
                cluster.eval(&alias, "exec count(*) from getClusterPerf() where state == 0");
            if asked.await.is_ok_and(|value| value.as_i64() == Some(1)) {
                return Ok(());
            }
        }
        Err("not yet".to_owned())
    })
    .await;
    cluster.faults("node3").clear(Kind::Hang).unwrap();
    cluster.faults(&leader).clear(Kind::Hang).unwrap();
    cluster.wait_whole().await;
}
