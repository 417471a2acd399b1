//! Host agents of other builds: rolled out side by side, replaced in the middle, and refused where they
//! cannot be understood.

use std::sync::Arc;

use grayfin_proto::v1::{Empty, RolloutName};
use grayfin_types::{
    Code,
    event::{Body, Event},
    status::{HostLine, RolloutState, RolloutStatus},
};

use crate::{
    common,
    coordinator::{operator, read},
    dialect::Dialect,
    fake::Fake,
    rollout::{Lab, check_gapless, is_final, watch},
    world::host,
};

/// A lab whose host agents are of these builds.
fn lab(dialects: [Dialect; 3]) -> Lab {
    let mut lab = Lab::new();
    let address = format!("127.0.0.1:{}", lab.port);
    let hosts = lab.world.hosts();
    lab.fakes = hosts
        .iter()
        .zip(dialects)
        .map(|(host, dialect)| Fake::of_build(&lab.world, host, &lab.pki, &address, dialect))
        .collect();
    lab
}

fn fake<'a>(lab: &'a Lab, name: &str) -> &'a Arc<Fake> {
    lab.fakes.iter().find(|fake| fake.host == host(name)).unwrap()
}

async fn host_lines(lab: &Lab) -> Vec<HostLine> {
    read(operator(&lab.pki, lab.port).hosts(Empty {}).await.unwrap().get_ref())
}

async fn status(lab: &Lab, id: &str) -> RolloutStatus {
    let name = RolloutName { id: id.to_owned(), cluster: String::new() };
    read(operator(&lab.pki, lab.port).status(name).await.unwrap().get_ref())
}

fn granted(event: &Event, name: &str) -> bool {
    matches!(&event.body, Body::Granted { host: held, .. } if *held == host(name))
}

fn released(event: &Event, name: &str) -> bool {
    matches!(&event.body, Body::Released { host: held, .. } if *held == host(name))
}

/// Watches to the end; it must be a good one.
async fn ends_well(lab: &Lab, id: &str) {
    let events = watch(&lab.pki, lab.port, id, 1, |_| false).await.unwrap();
    check_gapless(&events, 1);
    assert_eq!(is_final(&events), Some(RolloutState::Succeeded), "{:#?}", events.last());
    lab.check_upgraded();
}

#[test]
fn an_older_and_a_newer_host_agent_are_rolled_out_beside_one_of_this_build() {
    let lab = lab([Dialect::Older, Dialect::Newer, Dialect::Same]);
    common::process(async {
        let (_running, _fakes) = lab.up().await;
        let lines = host_lines(&lab).await;
        let versions: Vec<&str> = lines.iter().map(|line| line.agent_version.as_str()).collect();
        assert_eq!(versions, ["0.0.9", "7.3.0-beta.1", "0.1.0"]);
        let id = lab.begin("wish").await;
        ends_well(&lab, &id).await;
    });
}

#[test]
fn host_agents_are_replaced_between_two_hosts_and_under_an_open_hold() {
    let lab = lab([Dialect::Same; 3]);
    common::process(async {
        let (_running, _fakes) = lab.up().await;
        fake(&lab, "db2").stuck.send_replace(true);
        let id = lab.begin("wish").await;
        let between = |event: &Event| released(event, "db1");
        watch(&lab.pki, lab.port, &id, 1, between).await.unwrap();
        fake(&lab, "db1").replace(Dialect::Newer);
        fake(&lab, "db3").replace(Dialect::Older);
        watch(&lab.pki, lab.port, &id, 1, |event| granted(event, "db2")).await.unwrap();
        // Its disk, and what is open on it, stay: the newer one can read it.
        fake(&lab, "db2").replace(Dialect::Newer);
        common::until_told("the newer one to be connected", async || {
            let lines = host_lines(&lab).await;
            let line = lines.iter().find(|line| line.host == host("db2"))?;
            (line.connected && line.agent_version == "7.3.0-beta.1").then_some(())
        })
        .await;
        fake(&lab, "db2").stuck.send_replace(false);
        ends_well(&lab, &id).await;
    });
}

#[test]
fn a_build_that_cannot_be_understood_holds_its_host_until_it_can() {
    let lab = lab([Dialect::Same; 3]);
    common::process(async {
        let (_running, _fakes) = lab.up().await;
        let id = lab.begin("wish").await;
        watch(&lab.pki, lab.port, &id, 1, |event| granted(event, "db1")).await.unwrap();
        fake(&lab, "db2").replace(Dialect::Beyond);
        let waits = common::until_told("it waits for the one that is not understood", async || {
            let status = status(&lab, &id).await;
            let codes = [Code::AgentMissing, Code::FactUnknown];
            let reason =
                status.waiting.iter().find(|r| r.subject == "db2" && codes.contains(&r.code));
            reason.cloned()
        });
        let reason = waits.await;
        assert!(!reason.remedy.is_empty());
        assert!(lab.world.look(&host("db2")).down.is_empty());
        fake(&lab, "db2").replace(Dialect::Same);
        ends_well(&lab, &id).await;
    });
}

#[test]
fn both_sides_of_a_wire_version_are_told_what_to_do() {
    let lab = lab([Dialect::Same; 3]);
    common::process(async {
        let (_running, fakes) = lab.up().await;
        drop(fakes);
        let db1 = fake(&lab, "db1");
        for wire in [grayfin_proto::WIRE + 1, grayfin_proto::WIRE - 1] {
            let hello = grayfin_proto::v1::Hello { wire, ..db1.hello() };
            let refused = db1.connect(hello).await.unwrap_err();
            let words = refused.message();
            assert!(
                words.contains(&format!("wire version {wire}"))
                    && words.contains("upgrade the older side"),
                "{words}"
            );
        }
        let beyond = Fake::of_build(
            &lab.world,
            &host("db1"),
            &lab.pki,
            &format!("127.0.0.1:{}", lab.port),
            Dialect::Beyond,
        );
        let (out, mut incoming, _welcome) = beyond.connect(beyond.hello()).await.unwrap();
        beyond.send_facts(&out).await;
        let refused = loop {
            match incoming.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the session ended without a word"),
                Err(status) => break status,
            }
        };
        assert!(refused.message().contains("upgrade this side"), "{refused}");
    });
}
