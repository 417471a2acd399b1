//! Backups of a small host: what is chosen, every flipped bit, every failure, and the way back.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use grayfin_types::{
    Code, Token,
    facts::{BackupClass, NodeRole, NodeSpec, Probe},
};

use super::{store::CATCH_UP, *};
use crate::files::{
    Control, Disk, Entry, RealDisk,
    fault::{Fault, FaultyDisk},
    walk,
};

struct Host {
    dir: tempfile::TempDir,
}

fn node(alias: &str, role: NodeRole, home: PathBuf, config: &[(&str, &str)]) -> NodeSource {
    let spec = NodeSpec {
        alias: alias.parse().unwrap(),
        role,
        address: "127.0.0.1".into(),
        port: 1,
        compute_group: String::new(),
    };
    let config = config.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    NodeSource { spec, home, config }
}

impl Host {
    fn new() -> Self {
        let host = Self { dir: tempfile::tempdir().unwrap() };
        for (path, text) in [
            ("server/node", "binary"),
            ("server/libDolphinDB.so", "library"),
            ("server/licence.lic", "licence"),
            ("server/plugins/own/PluginOwn.txt", "own"),
            ("server/.grayfin-held/x", "not software"),
            ("server/clusterDemo/startAgent.sh", "#!/bin/sh"),
            ("server/clusterDemo/config/cluster.cfg", "a=b"),
            ("server/clusterDemo/data/HActl43/raft/raftWAL", "wal"),
            ("server/clusterDemo/data/HActl43/raft/raftHardstate", "state"),
            ("server/clusterDemo/data/HActl43/dfsMeta/DFSMasterMetaCheckpoint.0", "meta"),
            ("server/clusterDemo/data/HActl43/sysmgmt/aclEditlog.meta", "acl"),
            ("server/clusterDemo/data/node43/storage/CHUNK_METADATA/editlog.1", "edit"),
            ("server/clusterDemo/data/node43/storage/CHUNKS/data", "rows, not metadata"),
            ("server/clusterDemo/data/node43/sysmgmt/jobEditlog.meta", "jobs"),
            ("server/clusterDemo/data/node43/log/TSDBMeta/iotEditLog.meta", "tsdb"),
            ("server/clusterDemo/data/node43/log/redoLog/1.log", "redo"),
            ("server/vol1/CHUNKS/data", "rows on a second volume"),
            ("trash/keep", ""),
        ] {
            let path = host.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        fs::create_dir(host.path("backups")).unwrap();
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn parts(&self) -> Vec<Part> {
        let data = self.path("server/clusterDemo/data");
        let volumes = format!(
            "{},{}",
            data.join("<ALIAS>/storage").display(),
            self.path("server/vol1").display()
        );
        select(
            &InstallationSource {
                server_dir: self.path("server"),
                executable: "node".into(),
                work_dir: self.path("server/clusterDemo"),
                apart: vec![self.path("backups")],
                unit_files: Vec::new(),
            },
            &[
                node("HActl43", NodeRole::Controller, data.clone(), &[("dfsHAMode", "Raft")]),
                node("agent43", NodeRole::DdbAgent, data.clone(), &[]),
                node("node43", NodeRole::DataNode, data.join("node43"), &[("volumes", &volumes)]),
            ],
        )
    }

    fn header(&self, name: &str, created_ms: u64) -> Header {
        Header {
            name: name.into(),
            cluster: "trade".parse().unwrap(),
            host: "host43".parse().unwrap(),
            rollout: "r1".parse().unwrap(),
            token: Token(7),
            created_ms,
            from: Some("2.00.8.10".parse().unwrap()),
            to: "2.00.8.12".parse().unwrap(),
            parts: Vec::new(),
        }
    }

    fn take_with(
        &self,
        disk: &dyn Disk,
        control: &Control,
        name: &str,
        at: u64,
    ) -> Result<Taken, Error> {
        take(&Taking {
            disk,
            control,
            backup_dir: &self.path("backups"),
            header: self.header(name, at),
            parts: &self.parts(),
            moved: &[],
        })
    }

    fn take(&self, name: &str, at: u64) -> Taken {
        self.take_with(&RealDisk, &Control::default(), name, at).unwrap()
    }

    fn store(&self) -> (PathBuf, Control) {
        (self.path("backups"), Control::default())
    }
}

macro_rules! store {
    ($host:expr, $store:ident, $control:ident) => {
        let (folder, $control) = $host.store();
        let $store = Store { disk: &RealDisk, folder: &folder };
    };
}

#[test]
fn everything_that_counts_is_chosen_and_data_is_not() {
    let host = Host::new();
    let backup = host.take("one", 1);
    store!(host, store, control);
    let opened = store.open("one").unwrap();
    let saved: BTreeSet<String> = opened
        .lines
        .iter()
        .filter(|l| matches!(l.entry.kind, files::Kind::File { .. }))
        .map(|l| format!("{}:{}", opened.header.parts[l.part].part.id, l.entry.path))
        .collect();
    let expected: BTreeSet<String> = [
        "HActl43-raft:raftWAL",
        "HActl43-raft:raftHardstate",
        "HActl43-dfsMeta:DFSMasterMetaCheckpoint.0",
        "HActl43-sysmgmt:aclEditlog.meta",
        "node43-chunkMeta:editlog.1",
        "node43-sysmgmt:jobEditlog.meta",
        "node43-tsdbMeta:iotEditLog.meta",
        "node43-redo:1.log",
        "executable:",
        "config:cluster.cfg",
        "scripts:startAgent.sh",
        "software:libDolphinDB.so",
        "software:licence.lic",
        "software:plugins/own/PluginOwn.txt",
    ]
    .map(str::to_owned)
    .into();
    assert_eq!(saved, expected);
    assert_eq!(backup.files, expected.len() as u64);
    assert_eq!(opened.bytes(), backup.bytes);
    assert_eq!(store.verify("one", &control).unwrap().files, backup.files);
    let differences = opened.compare_sources(&RealDisk, &control, &|_| true, &[]).unwrap();
    assert_eq!(differences, []);
    fs::write(host.path("server/clusterDemo/data/HActl43/raft/raftWAL"), b"WAL").unwrap();
    let differences = opened.compare_sources(&RealDisk, &control, &Part::is_metadata, &[]).unwrap();
    assert!(differences[0].to_string().contains("raftWAL"), "{differences:?}");

    let weights = weigh(&host.parts());
    let raft = weights.iter().find(|w| w.what.contains("Raft")).unwrap();
    assert_eq!(raft.bytes, Probe::Known(Some(8)));
    assert!(room(&weights, BackupClass::Should) > backup.bytes);
}

#[test]
fn folders_follow_each_nodes_own_configuration() {
    let home = PathBuf::from("/d/n1");
    let config = [
        ("volumes", "/v1/<ALIAS>,/v2/<ALIAS>"),
        ("chunkMetaDir", "/m/<ALIAS>"),
        ("TSDBRedoLogDir", "/r/<ALIAS>/redo"),
        ("persistenceDir", "streams"),
        ("TDEKeyDir", "/keys"),
        ("startup", "/scripts/start.dos"),
    ];
    let installation = InstallationSource {
        server_dir: "/s".into(),
        executable: "node".into(),
        work_dir: "/s/clusterDemo".into(),
        apart: vec![],
        unit_files: vec!["/etc/u.service".into()],
    };
    let one = node("n1", NodeRole::DataNode, home, &config);
    let parts = select(&installation, &[one]);
    let paths: BTreeMap<String, String> =
        parts.iter().map(|p| (p.id.clone(), p.path().to_string_lossy().into_owned())).collect();
    for (id, path) in [
        ("n1-chunkMeta", "/m/n1/CHUNK_METADATA"),
        ("n1-chunkLog", "/m/n1/LOG"),
        ("n1-volume0-chunkMeta", "/v1/n1/CHUNK_METADATA"),
        ("n1-volume1-chunkMeta", "/v2/n1/CHUNK_METADATA"),
        ("n1-tsdbMeta", "/r/n1/TSDBMeta"),
        ("n1-tsdbRedo", "/r/n1/redo"),
        ("n1-persistence", "/d/n1/streams"),
        ("n1-tdeKeys", "/keys"),
        ("n1-startup", "/scripts/start.dos"),
        ("n1-streamingHA", "/d/n1/log/streamingHALog"),
        ("unit0", "/etc/u.service"),
    ] {
        assert_eq!(paths.get(id).map(String::as_str), Some(path), "{id}");
    }
    let ids: BTreeSet<&str> = parts.iter().map(|p| p.id.as_str()).collect();
    assert_eq!(ids.len(), parts.len(), "names of parts are unique");

    // Without HA the metadata lie beside the homes of all nodes: only files are taken.
    let plain = node("ctl", NodeRole::Controller, "/d".into(), &[]);
    let parts = select(&installation, &[plain]);
    let meta = parts.iter().find(|p| p.id == "ctl-dfsMeta").unwrap();
    assert_eq!((meta.path(), &meta.scope), (PathBuf::from("/d"), &Scope::FilesOnly));
    assert!(!parts.iter().any(|p| p.id == "ctl-raft" && p.required));
}

#[test]
fn a_required_part_that_is_missing_is_an_error() {
    let host = Host::new();
    fs::remove_dir_all(host.path("server/clusterDemo/data/HActl43/raft")).unwrap();
    let error = host.take_with(&RealDisk, &Control::default(), "one", 1).unwrap_err();
    assert_eq!(error.code(), Code::BackupIncomplete);
    assert!(error.to_string().contains("raft"), "{error}");
    assert!(fs::read_dir(host.path("backups")).unwrap().next().is_none());
}

#[test]
fn one_flipped_bit_in_any_file_is_found_and_named() {
    let host = Host::new();
    let taken = host.take("one", 1);
    store!(host, store, control);
    let files: Vec<PathBuf> = walk(&taken.path, &|_| false)
        .unwrap()
        .into_iter()
        .filter(|f| f.metadata.is_file() && f.metadata.len() > 0)
        .map(|f| taken.path.join(f.relative))
        .collect();
    assert!(files.len() > 10);
    for file in files {
        let good = fs::read(&file).unwrap();
        for at in [0, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&file, &bad).unwrap();
            let error = store.verify("one", &control).unwrap_err();
            assert_eq!(error.code(), Code::BackupIncomplete, "{}", file.display());
            let name = file.file_name().unwrap().to_str().unwrap();
            assert!(error.to_string().contains(name), "{name}: {error}");
        }
        fs::remove_file(&file).unwrap();
        assert!(store.verify("one", &control).is_err(), "missing {}", file.display());
        fs::write(&file, &good).unwrap();
    }
    fs::write(taken.path.join("tree/HActl43-raft/surplus"), b"").unwrap();
    assert!(store.verify("one", &control).unwrap_err().to_string().contains("surplus"));
}

#[test]
fn an_interrupted_backup_is_never_taken_for_whole() {
    let host = Host::new();
    let disk = FaultyDisk::new(&host.path("trash"), Fault::None);
    host.take_with(&disk, &Control::default(), "one", 1).unwrap();
    let count = disk.operations();
    fs::remove_dir_all(host.path("backups/one")).unwrap();
    store!(host, store, control);
    for at in 0..count {
        let disk = FaultyDisk::new(&host.path("trash"), Fault::Crash(at));
        let result = host.take_with(&disk, &control, "one", 1);
        disk.lose_power().unwrap();
        assert!(result.is_err(), "operation {at}");
        match store.open("one") {
            // Only the very last operations may come after it was whole.
            Ok(_) => drop(store.verify("one", &control).unwrap()),
            Err(error) => assert_eq!(error.code(), Code::BackupIncomplete),
        }
        let listed = store.list().unwrap();
        assert!(listed.iter().all(|l| l.state.is_ok() == (l.name == "one")), "{listed:?}");
        if host.path("backups/one").exists() {
            fs::remove_dir_all(host.path("backups/one")).unwrap();
        }
        // The next attempt goes through whatever was left.
        host.take_with(&disk, &control, "one", 1).unwrap();
        store.verify("one", &control).unwrap();
        fs::remove_dir_all(host.path("backups/one")).unwrap();
    }
}

#[test]
fn a_full_disk_fails_cleanly_at_every_write() {
    let host = Host::new();
    let disk = FaultyDisk::new(&host.path("trash"), Fault::None);
    host.take_with(&disk, &Control::default(), "one", 1).unwrap();
    fs::remove_dir_all(host.path("backups/one")).unwrap();
    let last = disk.operations() - 1;
    for at in 0..last {
        let disk = FaultyDisk::new(&host.path("trash"), Fault::At(at, io::ErrorKind::StorageFull));
        let error = host.take_with(&disk, &Control::default(), "one", 1).unwrap_err();
        assert_eq!(error.code(), Code::DiskTooSmall, "operation {at}: {error}");
        let left = fs::read_dir(host.path("backups")).unwrap().count();
        assert_eq!(left, 0, "operation {at}: the room is given back");
    }
}

#[test]
fn a_source_that_changes_is_reported() {
    let host = Host::new();
    let wal = host.path("server/clusterDemo/data/HActl43/raft/raftWAL");
    let control = Control::default().watched(move |_| fs::write(&wal, b"more").unwrap());
    let error = host.take_with(&RealDisk, &control, "one", 1).unwrap_err();
    assert_eq!(error.code(), Code::BackupSourceChanged, "{error}");
    assert!(error.to_string().contains("raftWAL"), "{error}");
}

#[test]
fn retention_keeps_the_newest_good_ones() {
    let host = Host::new();
    for at in 1..=4 {
        host.take(&format!("b{at}"), at);
    }
    let partial = |cluster: &str| {
        let cluster = cluster.parse().unwrap();
        format!("{PARTIAL_PREFIX}{}", store::name(&cluster, 7, Token(9)))
    };
    for name in [partial("trade"), partial("trade-2"), "broken".to_owned()] {
        fs::create_dir(host.path("backups").join(name)).unwrap();
    }
    store!(host, store, control);
    let (own, cluster) = ("host43".parse().unwrap(), "trade".parse().unwrap());
    let thin = |keep| store.thin_out((&own, &cluster), keep, &control);
    let names = || -> Vec<String> { store.list().unwrap().into_iter().map(|l| l.name).collect() };
    // The newest is rotten: nothing good may go.
    let rotten = host.path("backups/b4/tree/HActl43-raft/raftWAL");
    let good = fs::read(&rotten).unwrap();
    fs::write(&rotten, b"rot").unwrap();
    assert!(thin(2).is_err());
    assert!(names().contains(&"b1".to_owned()));
    assert!(!names().contains(&partial("trade")), "what was interrupted goes");
    fs::write(&rotten, good).unwrap();
    let mut removed = thin(2).unwrap();
    removed.sort();
    assert_eq!(removed, ["b1", "b2"]);
    let other = partial("trade-2");
    assert_eq!(names(), ["b4", "b3", other.as_str(), "broken"], "another cluster's stays");
    assert_eq!(thin(0).unwrap(), ["b3"]);
    assert_eq!(thin(0).unwrap(), Vec::<String>::new());
    assert!(names().contains(&"b4".to_owned()), "the last good one stays");
    // A good manifest is gone: the folder does not count as good any more.
    fs::remove_file(host.path("backups/b4").join(MANIFEST)).unwrap();
    host.take("b5", 5);
    assert_eq!(thin(1).unwrap(), Vec::<String>::new());
    // Another host's in the same folder are none of ours.
    host.take("b6", 6);
    let stranger = "host44".parse().unwrap();
    assert_eq!(store.thin_out((&stranger, &cluster), 0, &control).unwrap(), Vec::<String>::new());
    assert!(names().contains(&"b5".to_owned()));
}

#[test]
fn a_backup_is_restored_and_compared() {
    let host = Host::new();
    host.take("one", 1);
    store!(host, store, control);
    let scratch = host.path("scratch");
    let restored = store.restore_to("one", &[], &scratch, &control).unwrap();
    assert!(restored.len() > 8);
    let wal = scratch.join("HActl43-raft/raftWAL");
    assert_eq!(fs::read(&wal).unwrap(), b"wal");
    assert_eq!(fs::read(scratch.join("executable")).unwrap(), b"binary");
    let error = store.restore_to("one", &[], &scratch, &control).unwrap_err();
    assert_eq!(error.code(), Code::RestoreRefused, "not over anything");
    let one = store.restore_to("one", &["node43-chunkMeta".into()], &host.path("s2"), &control);
    assert_eq!(one.unwrap().len(), 1);
    assert!(store.restore_to("one", &["no".into()], &host.path("s3"), &control).is_err());
    assert!(store.restore_to("../backups/one", &[], &host.path("s3"), &control).is_err());
}

#[test]
fn in_place_only_under_a_hold_with_nothing_running() {
    let host = Host::new();
    host.take("one", 1);
    store!(host, store, control);
    let raft = host.path("server/clusterDemo/data/HActl43/raft");
    fs::write(raft.join("raftWAL"), b"newer").unwrap();
    let part = ["HActl43-raft".to_owned()];
    let running = ["process 7".to_owned()];
    for allowed in
        [InPlace { hold: None, running: &[] }, InPlace { hold: Some(Token(7)), running: &running }]
    {
        let error = store.restore_in_place("one", &part, allowed, &control).unwrap_err();
        assert_eq!(error.code(), Code::RestoreRefused);
    }
    assert_eq!(fs::read(raft.join("raftWAL")).unwrap(), b"newer");
    let allowed = InPlace { hold: Some(Token(7)), running: &[] };
    let restored = store.restore_in_place("one", &part, allowed, &control).unwrap();
    assert_eq!(restored.first(), Some(&raft));
    assert_eq!(fs::read(raft.join("raftWAL")).unwrap(), b"wal");
    let aside = raft.with_file_name("raft.grayfin-before-7");
    assert_eq!(fs::read(aside.join("raftWAL")).unwrap(), b"newer");
    assert!(CATCH_UP.contains("leader"));
    let software = ["software".to_owned()];
    let error = store.restore_in_place("one", &software, allowed, &control).unwrap_err();
    assert_eq!(error.code(), Code::RestoreRefused);
}

#[test]
fn a_manifest_cannot_lead_out_of_its_folder() {
    let host = Host::new();
    let taken = host.take("one", 1);
    store!(host, store, control);
    let mut opened = store.open("one").unwrap();
    let evil = Entry { path: "../../evil".into(), ..opened.lines[1].entry.clone() };
    opened.lines[1].entry = evil;
    let manifest = taken.path.join(MANIFEST);
    files::write_manifest(&RealDisk, &manifest, &opened.header, &opened.lines).unwrap();
    assert!(store.verify("one", &control).is_err());
    assert!(store.restore_to("one", &[], &host.path("out/x"), &control).is_err());
    assert!(!host.path("evil").exists() && !host.path("out/evil").exists());
    let fresh = |p: &Path| p.exists();
    assert!(!fresh(&host.path("backups/evil")));
}
