//! Gates about the software and the terms of a rollout.

use grayfin_coordinator_core::gates::Gate;
use grayfin_types::{
    Code,
    facts::{LicenceFacts, MemoryObject, Probe, Problem},
    plan::{CanarySpec, RecoveryPolicy, Window},
};

use crate::{
    bench::{Bench, unknown},
    model::{NEW, alias, version},
};

#[test]
fn memory_loss_is_accepted_by_name_only() {
    let mut bench = Bench::new(3);
    let table = MemoryObject {
        node: alias("node2"),
        kind: "stream_table".to_owned(),
        name: "ticks".to_owned(),
        provided_for: false,
    };
    bench.host(2).memory = Probe::Known(vec![table.clone()]);
    bench.stops(Gate::MemoryLoss, Code::MemoryLoss, "node2/stream_table/ticks");
    bench.losses = vec!["node2/stream_table/*".to_owned()];
    bench.stops(Gate::MemoryLoss, Code::MemoryLoss, "node2/stream_table/ticks");
    bench.losses = vec!["node2/stream_table/ticks".to_owned()];
    bench.goes(Gate::MemoryLoss);
    bench.losses.clear();
    bench.host(2).memory = Probe::Known(vec![MemoryObject { provided_for: true, ..table }]);
    bench.goes(Gate::MemoryLoss);
    bench.host(2).memory = unknown();
    bench.holds(Gate::MemoryLoss, Code::FactUnknown, "db2");
}

#[test]
fn compat_wants_a_level_a_patch_or_a_reason() {
    let mut bench = Bench::new(3);
    for (from, goes) in [("2.00.8.10", true), ("2.00.7.4", false), ("2.00.8.12", true)] {
        for number in 1..=3 {
            for node in &mut bench.host(number).nodes {
                node.version = Probe::Known(version(from));
            }
        }
        assert_eq!(bench.ask(Gate::Compat).is_go(), goes, "{from}");
    }
    for node in &mut bench.host(1).nodes {
        node.version = Probe::Known(version("2.00.7.4"));
    }
    bench.stops(Gate::Compat, Code::CompatRisk, "db1");
    bench.accepted = Some("the vendor said yes".to_owned());
    bench.goes(Gate::Compat);
    // Nodes that differ among themselves are no version at all.
    bench.host(1).nodes[0].version = Probe::Known(version("2.00.8.10"));
    bench.holds(Gate::Compat, Code::FactUnknown, "db1");
}

#[test]
fn downgrade_and_variant_have_no_way_around() {
    let mut bench = Bench::new(3);
    bench.target = "2.00.8.4".to_owned();
    bench.stops(Gate::Downgrade, Code::Downgrade, "db1");
    bench.target = "2.00.8.12_JIT".to_owned();
    bench.goes(Gate::Downgrade);
    bench.stops(Gate::Variant, Code::VariantMismatch, "db1");
}

#[test]
fn package_wants_it_there_intact_and_equal() {
    let mut bench = Bench::new(3);
    bench.target = "2.00.8.14".to_owned();
    bench.stops(Gate::Package, Code::PackageMissing, "db1");
    let mut bench = Bench::new(3);
    bench.host(2).packages[0].intact = Probe::Known(false);
    bench.stops(Gate::Package, Code::PackageCorrupt, "db2");
    let subject = bench.host(2).packages[0].file.clone();
    let code = Code::PackageWrongVersion;
    bench.host(2).problems = vec![Problem { code, subject, detail: "another".to_owned() }];
    bench.stops(Gate::Package, Code::PackageWrongVersion, "db2");
    let mut bench = Bench::new(3);
    bench.host(3).packages[0].sha256 = Probe::Known("cd".repeat(32));
    bench.stops(Gate::Package, Code::PackageDiffers, NEW);
    let mut bench = Bench::new(3);
    bench.host(3).packages[0].intact = unknown();
    bench.holds(Gate::Package, Code::FactUnknown, "db3");
}

#[test]
fn room_adds_up_what_goes_onto_one_volume() {
    let mut bench = Bench::new(3);
    // 1 MiB of backup, 4 MiB unpacked and 64 MiB of the ledger's, with a floor of 1 MiB.
    let set = |bench: &mut Bench, free: u64| {
        for volume in &mut bench.host(2).volumes {
            volume.free_bytes = free;
        }
    };
    set(&mut bench, 70 << 20);
    bench.goes(Gate::Room);
    set(&mut bench, (70 << 20) - 1);
    bench.stops(Gate::Room, Code::DiskTooSmall, "db2");
    bench.host(2).backup[0].bytes = unknown();
    bench.holds(Gate::Room, Code::FactUnknown, "db2");
    let mut bench = Bench::new(3);
    bench.host(1).volumes.retain(|v| v.purpose != "backup");
    bench.holds(Gate::Room, Code::FactUnknown, "db1");
}

#[test]
fn plugins_match_in_the_first_three_numbers() {
    let mut bench = Bench::new(3);
    let plugin = |v: &str| Probe::Known(vec![("mysql".to_owned(), v.to_owned())]);
    bench.host(1).plugins = plugin("2.00.8.1.1");
    bench.goes(Gate::Plugins);
    for wrong in ["2.00.7.4", "2.00", "", "two"] {
        bench.host(1).plugins = plugin(wrong);
        bench.stops(Gate::Plugins, Code::PluginMismatch, "db1: mysql");
    }
    // One that the package brings is replaced with it; one in another folder is not.
    bench.host(1).packages[0].plugins = vec![("mysql".to_owned(), "2.00.8.12".to_owned())];
    bench.goes(Gate::Plugins);
    let place = "mysql in /data/plugins".to_owned();
    bench.host(1).plugins = Probe::Known(vec![(place, "2.00.7.4".to_owned())]);
    bench.stops(Gate::Plugins, Code::PluginMismatch, "/data/plugins");
    bench.host(1).plugins = unknown();
    bench.holds(Gate::Plugins, Code::FactUnknown, "db1");
}

#[test]
fn licence_wants_days_left_and_a_cap_that_covers() {
    let mut bench = Bench::new(3);
    let licence = |days: Probe<i64>, cap: Option<&str>| {
        Probe::Known(LicenceFacts {
            expires: Probe::Known("2022.01.01".to_owned()),
            days_left: days,
            version_cap: Probe::Known(cap.map(str::to_owned)),
        })
    };
    for days in [0, -5] {
        bench.host(2).licence = licence(Probe::Known(days), None);
        bench.stops(Gate::Licence, Code::LicenceExpired, "db2");
    }
    for covers in ["2.00.8", "2.00.8.12", "3.00", "2.00.9.1"] {
        bench.host(2).licence = licence(Probe::Known(30), Some(covers));
        bench.goes(Gate::Licence);
    }
    for lower in ["2.00.7", "2.00.8.11", "1.30"] {
        bench.host(2).licence = licence(Probe::Known(30), Some(lower));
        bench.stops(Gate::Licence, Code::LicenceCap, "db2");
    }
    bench.host(2).licence = licence(Probe::Known(30), Some("any"));
    bench.holds(Gate::Licence, Code::FactUnknown, "db2");
    bench.host(2).licence = licence(unknown(), None);
    bench.holds(Gate::Licence, Code::FactUnknown, "db2");
}

#[test]
fn recovery_wait_refuses_what_would_take_longer() {
    let mut bench = Bench::new(3);
    bench.policy.recovery = RecoveryPolicy::Refuse;
    bench.goes(Gate::RecoveryWait);
    bench.cluster().recovery_wait_ms = Probe::Known(60_000);
    bench.goes(Gate::RecoveryWait);
    // 10 GB at 100 MB a second are 100 s.
    bench.host(3).backup[0].bytes = Probe::Known(Some(10_000_000_000));
    bench.stops(Gate::RecoveryWait, Code::RecoveryWait, "db3");
    bench.policy.recovery = RecoveryPolicy::Allow;
    bench.goes(Gate::RecoveryWait);
    // It is suspended for the time, as a debt (S10).
    bench.policy.recovery = RecoveryPolicy::Suspend;
    bench.goes(Gate::RecoveryWait);
}

#[test]
fn windows_open_and_close_also_over_midnight() {
    use grayfin_coordinator_core::view::LocalTime;
    let mut bench = Bench::new(3);
    bench.windows = vec![Window {
        zone: "Europe/Zurich".to_owned(),
        days: vec!["sat".to_owned()],
        from: "22:00".to_owned(),
        to: "04:00".to_owned(),
    }];
    bench.holds(Gate::Window, Code::FactUnknown, "trade");
    let at = |bench: &mut Bench, weekday, minute| {
        let now = LocalTime { weekday, minute };
        bench.world.view.local_times.insert("Europe/Zurich".to_owned(), now);
    };
    for (weekday, minute, goes) in [
        (5, 22 * 60, true),
        (5, 22 * 60 - 1, false),
        (6, 4 * 60 - 1, true),
        (6, 4 * 60, false),
        (5, 60, false),
    ] {
        at(&mut bench, weekday, minute);
        assert_eq!(bench.ask(Gate::Window).is_go(), goes, "{weekday} {minute}");
    }
    bench.holds(Gate::Window, Code::WindowClosed, "trade");
    bench.windows[0].from = "25:00".to_owned();
    bench.holds(Gate::Window, Code::FactUnknown, "trade");
}

#[test]
fn a_canary_needs_a_rate() {
    let mut bench = Bench::new(3);
    bench.canary = CanarySpec::New { rows_per_second: 0 };
    bench.stops(Gate::Canary, Code::BadRequest, "canary");
    bench.canary = CanarySpec::New { rows_per_second: 50 };
    bench.goes(Gate::Canary);
}
