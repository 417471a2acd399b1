//! A little of what `cargo lab chaos` does for long: three coordinators, rollouts, and faults of every
//! kind at moments that nobody chose. The seeds choose the faults; when they hit depends on the machine.

use integration_tests::chaos::{self, Arguments, Links};
use integration_tests::suite;

/// As much as takes about two minutes.
const fn a_little(links: Links, seed: u64) -> Arguments {
    Arguments { faults: 8, rollouts: 1, seed: Some(seed), pause_ms: 3_000, links: Some(links) }
}

#[tokio::test]
async fn rollouts_end_well_while_links_are_cut() {
    let links = Links::Networks;
    suite::in_lab(&chaos::options(links), async |lab| {
        chaos::on_lab(lab, links, &a_little(links, 7)).await
    })
    .await;
}

#[tokio::test]
async fn rollouts_end_well_while_links_are_slow_and_disks_full() {
    let links = Links::Relays;
    suite::in_lab(&chaos::options(links), async |lab| {
        chaos::on_lab(lab, links, &a_little(links, 11)).await
    })
    .await;
}
