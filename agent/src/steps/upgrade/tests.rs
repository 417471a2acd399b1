//! Replacing software: what is touched and what never, and every crash in the middle.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use zip::{ZipWriter, write::SimpleFileOptions};

use super::{
    operations::{Ground, Operation, Stuck, all_done, apply, take_back},
    plan::{Change, Comparing, Obstacle, expected},
};
use crate::{
    files::{
        Control, RealDisk,
        fault::{Fault, FaultyDisk},
        walk,
    },
    packages::{Staged, Unpack},
};

/// The old software as it is installed; `node` is the renamed executable.
const OLD: [(&str, &str, u32); 13] = [
    ("server/.grayfin-held/node", "old binary", 0o750),
    ("server/libSame.so", "same", 0o644),
    ("server/libDolphinDB.so", "old library", 0o755),
    ("server/libOld.so", "only in the old package", 0o644),
    ("server/libSite.so", "the site's own", 0o644),
    ("server/dolphindb.cfg", "the site's configuration", 0o600),
    ("server/dolphindb.lic", "the site's licence", 0o600),
    ("server/plugins/zip/PluginZip.txt", "old plugin", 0o644),
    ("server/plugins/own/PluginOwn.txt", "the site's plugin", 0o644),
    ("server/web/index.html", "old page", 0o644),
    ("server/clusterDemo/startAgent.sh", "the site's script", 0o755),
    ("server/clusterDemo/data/x", "data", 0o600),
    ("server/modules/edited.dos", "edited by the site", 0o640),
];

/// The new package.
const NEW: [(&str, &str, u32); 12] = [
    ("server/dolphindb", "new binary", 0o644),
    ("server/libSame.so", "same", 0o644),
    ("server/libDolphinDB.so", "new library", 0o644),
    ("server/libNew.so", "only in the new package", 0o644),
    ("server/dolphindb.cfg", "sample", 0o644),
    ("server/dolphindb.lic", "trial", 0o644),
    ("server/plugins/zip/PluginZip.txt", "new plugin", 0o644),
    ("server/plugins/fresh/deep/Plugin.txt", "new folder", 0o644),
    ("server/web/index.html", "new page", 0o644),
    ("server/web/assets/main.js", "new asset", 0o644),
    ("server/clusterDemo/startAgent.sh", "sample", 0o755),
    ("server/modules/edited.dos", "the vendor's next", 0o644),
];

/// Names in the old package.
const OLD_PACKAGE: [&str; 7] = [
    "dolphindb",
    "libSame.so",
    "libDolphinDB.so",
    "libOld.so",
    "plugins/zip/PluginZip.txt",
    "web/index.html",
    "modules/edited.dos",
];

type Snapshot = BTreeMap<PathBuf, (u32, Vec<u8>)>;

struct Scene {
    dir: tempfile::TempDir,
    staged: Staged,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (path, text, mode) in OLD {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::create_dir(dir.path().join("trash")).unwrap();
        fs::create_dir(dir.path().join("old")).unwrap();
        let package = dir.path().join("package.zip");
        let mut zip = ZipWriter::new(fs::File::create(&package).unwrap());
        for (name, text, mode) in NEW {
            zip.start_file(name, SimpleFileOptions::default().unix_permissions(mode)).unwrap();
            zip.write_all(text.as_bytes()).unwrap();
        }
        zip.finish().unwrap();
        let control = Control::default();
        let owner = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let disk = FaultyDisk::new(&dir.path().join("trash"), Fault::None);
        let how = Unpack { disk: &disk, control: &control, owner };
        let version = "2.00.8.12".parse().unwrap();
        let stage = dir.path().join("stage");
        let staged = Staged::make(&how, &package, "ab", &version, &stage).unwrap();
        Self { dir, staged }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn ground(&self) -> Ground {
        Ground {
            server: self.path("server"),
            stage: self.path("stage"),
            old: self.path("old"),
            executable: "node".into(),
            held: self.path("server/.grayfin-held/node"),
        }
    }

    fn change_with(&self, old_names: Option<&BTreeSet<PathBuf>>) -> Result<Change, Obstacle> {
        let ground = self.ground();
        let control = Control::default();
        Comparing {
            disk: &RealDisk,
            control: &control,
            ground: &ground,
            executable: &ground.held,
            entries: &self.staged.entries,
            old_names,
            work_dir: &self.path("server/clusterDemo"),
        }
        .change()
    }

    fn change(&self) -> Change {
        let names = OLD_PACKAGE.map(PathBuf::from).into();
        self.change_with(Some(&names)).unwrap()
    }

    fn snapshot(&self, what: &str) -> Snapshot {
        walk(&self.path(what), &|_| false)
            .unwrap()
            .into_iter()
            .filter(|f| f.metadata.is_file())
            .map(|f| {
                let path = self.path(what).join(&f.relative);
                (f.relative, (f.metadata.mode() & 0o7777, fs::read(path).unwrap()))
            })
            .collect()
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_default()
    }

    fn faulty(&self, fault: Fault) -> FaultyDisk {
        FaultyDisk::new(&self.path("trash"), fault)
    }

    fn run(&self, disk: &FaultyDisk, operations: &[Operation]) -> Result<(), Stuck> {
        apply(disk, &self.ground(), operations, &mut |_| true)
    }

    fn assert_new(&self, what: &str) {
        for (path, text) in [
            ("server/.grayfin-held/node", "new binary"),
            ("server/libSame.so", "same"),
            ("server/libDolphinDB.so", "new library"),
            ("server/libNew.so", "only in the new package"),
            ("server/libSite.so", "the site's own"),
            ("server/dolphindb.cfg", "the site's configuration"),
            ("server/dolphindb.lic", "the site's licence"),
            ("server/plugins/zip/PluginZip.txt", "new plugin"),
            ("server/plugins/own/PluginOwn.txt", "the site's plugin"),
            ("server/plugins/fresh/deep/Plugin.txt", "new folder"),
            ("server/web/assets/main.js", "new asset"),
            ("server/clusterDemo/startAgent.sh", "the site's script"),
            ("server/clusterDemo/data/x", "data"),
            ("server/modules/edited.dos", "the vendor's next"),
            ("old/libOld.so", "only in the old package"),
            ("old/node", "old binary"),
            ("old/modules/edited.dos", "edited by the site"),
        ] {
            assert_eq!(self.read(path), text, "{what}: {path}");
        }
        for gone in ["server/libOld.so", "server/dolphindb", "server/node"] {
            assert!(!self.path(gone).exists(), "{what}: {gone}");
        }
    }
}

#[test]
fn exactly_the_software_is_replaced() {
    let scene = Scene::new();
    let change = scene.change();
    assert_eq!(change.notes.unchanged, 1);
    assert_eq!(change.notes.retired, ["libOld.so"]);
    assert_eq!(change.notes.unknown, ["libSite.so", "plugins/own/PluginOwn.txt"]);
    assert!(change.notes.kept.is_empty());
    assert!(change.notes.text().contains("libOld.so"), "{}", change.notes.text());
    let disk = scene.faulty(Fault::None);
    assert!(!all_done(&scene.ground(), &change.operations).unwrap());
    scene.run(&disk, &change.operations).unwrap();
    scene.assert_new("after all operations");
    assert!(all_done(&scene.ground(), &change.operations).unwrap());
    let mode = |path: &str| fs::metadata(scene.path(path)).unwrap().mode() & 0o7777;
    assert_eq!(mode("server/.grayfin-held/node"), 0o750, "as the one before");
    assert_eq!(mode("server/libDolphinDB.so"), 0o755, "as the one before");
    assert_eq!(mode("server/libNew.so"), 0o644, "as in the package");
    // Once more: nothing is left to do.
    let before = disk.operations();
    scene.run(&disk, &change.operations).unwrap();
    assert_eq!(disk.operations(), before);
    for (path, entry) in expected(&scene.staged.entries, "node", &[]) {
        let path = scene.ground().in_place(&path);
        assert!(path.is_file(), "{} of {}", path.display(), entry.path);
    }
}

#[test]
fn without_the_old_package_nothing_is_retired_for_its_sake() {
    let scene = Scene::new();
    let change = scene.change_with(None).unwrap();
    assert!(change.notes.retired.is_empty() && !change.notes.old_known);
    assert!(change.notes.unknown.contains(&"libOld.so".to_owned()));
}

#[test]
fn links_are_kept_or_refused_and_never_moved() {
    let scene = Scene::new();
    fs::rename(scene.path("server/plugins"), scene.path("shared")).unwrap();
    symlink(scene.path("shared"), scene.path("server/plugins")).unwrap();
    let change = scene.change();
    assert_eq!(
        change.notes.kept,
        ["plugins/zip/PluginZip.txt", "plugins/fresh/deep/Plugin.txt"],
        "said, and left alone"
    );
    let disk = scene.faulty(Fault::None);
    scene.run(&disk, &change.operations).unwrap();
    assert_eq!(scene.read("shared/zip/PluginZip.txt"), "old plugin");
    assert!(fs::symlink_metadata(scene.path("server/plugins")).unwrap().is_symlink());

    let scene = Scene::new();
    fs::remove_file(scene.path("server/libDolphinDB.so")).unwrap();
    symlink("/usr/lib/x.so", scene.path("server/libDolphinDB.so")).unwrap();
    let error = scene.change_with(None).unwrap_err();
    assert!(error.to_string().contains("libDolphinDB.so"), "{error}");
    fs::remove_file(scene.path("server/libDolphinDB.so")).unwrap();
    fs::create_dir(scene.path("server/libDolphinDB.so")).unwrap();
    assert!(scene.change_with(None).is_err());
}

#[test]
fn a_crash_with_power_loss_at_any_operation_is_completed_or_taken_back() {
    let scene = Scene::new();
    let change = scene.change();
    let (server, stage) = (scene.snapshot("server"), scene.snapshot("stage"));
    let counting = scene.faulty(Fault::None);
    scene.run(&counting, &change.operations).unwrap();
    let count = counting.operations();
    take_back(&counting, &scene.ground(), &change.operations).unwrap();
    assert_eq!(scene.snapshot("server"), server);
    assert!(count > 40, "{count}");
    for at in 0..count {
        // Folders of the old tree are made once; a fresh one makes every attempt alike.
        fs::remove_dir_all(scene.path("old")).unwrap();
        fs::create_dir(scene.path("old")).unwrap();
        let what = format!("crash at {at}");
        // The crash, and then forward.
        let disk = scene.faulty(Fault::Crash(at));
        assert!(scene.run(&disk, &change.operations).is_err(), "{what}");
        disk.lose_power().unwrap();
        scene.run(&disk, &change.operations).unwrap();
        scene.assert_new(&what);
        take_back(&disk, &scene.ground(), &change.operations).unwrap();
        assert_eq!(scene.snapshot("server"), server, "{what}");
        // The same crash, and back.
        fs::remove_dir_all(scene.path("old")).unwrap();
        fs::create_dir(scene.path("old")).unwrap();
        let disk = scene.faulty(Fault::Crash(at));
        assert!(scene.run(&disk, &change.operations).is_err(), "{what}");
        disk.lose_power().unwrap();
        take_back(&disk, &scene.ground(), &change.operations).unwrap();
        assert_eq!(scene.snapshot("server"), server, "{what}, back");
        let names =
            |s: &Snapshot| s.iter().map(|(p, (_, b))| (p.clone(), b.clone())).collect::<Vec<_>>();
        assert_eq!(names(&scene.snapshot("stage")), names(&stage), "{what}, back");
    }
}

#[test]
fn taking_back_survives_a_crash_at_any_operation_too() {
    let scene = Scene::new();
    let change = scene.change();
    let server = scene.snapshot("server");
    let counting = scene.faulty(Fault::None);
    scene.run(&counting, &change.operations).unwrap();
    let before = counting.operations();
    take_back(&counting, &scene.ground(), &change.operations).unwrap();
    let count = counting.operations() - before;
    for at in 0..count {
        scene.run(&scene.faulty(Fault::None), &change.operations).unwrap();
        let disk = scene.faulty(Fault::Crash(at));
        assert!(take_back(&disk, &scene.ground(), &change.operations).is_err());
        disk.lose_power().unwrap();
        take_back(&disk, &scene.ground(), &change.operations).unwrap();
        assert_eq!(scene.snapshot("server"), server, "crash at {at}");
        // And once more: nothing is left to take back.
        take_back(&disk, &scene.ground(), &change.operations).unwrap();
        assert_eq!(scene.snapshot("server"), server);
    }
}

#[test]
fn a_list_cut_anywhere_is_completed_and_taken_back() {
    let scene = Scene::new();
    let change = scene.change();
    let server = scene.snapshot("server");
    let disk = scene.faulty(Fault::None);
    for cut in 0..=change.operations.len() {
        scene.run(&disk, &change.operations[..cut]).unwrap();
        take_back(&disk, &scene.ground(), &change.operations).unwrap();
        assert_eq!(scene.snapshot("server"), server, "cut at {cut}");
        scene.run(&disk, &change.operations[..cut]).unwrap();
        scene.run(&disk, &change.operations).unwrap();
        scene.assert_new(&format!("cut at {cut}"));
        take_back(&disk, &scene.ground(), &change.operations).unwrap();
    }
}

#[test]
fn somebody_elses_changes_are_never_overwritten() {
    let scene = Scene::new();
    let change = scene.change();
    let disk = scene.faulty(Fault::None);
    // Between retiring and placing, somebody puts a file there.
    let retire = Operation::Retire { path: "libDolphinDB.so".into() };
    let at = change.operations.iter().position(|o| *o == retire).unwrap();
    scene.run(&disk, std::slice::from_ref(&change.operations[at])).unwrap();
    fs::write(scene.path("server/libDolphinDB.so"), "somebody's").unwrap();
    let error = scene.run(&disk, &change.operations).unwrap_err();
    assert!(matches!(error, Stuck::Conflict(_)), "{error}");
    let error = take_back(&disk, &scene.ground(), &change.operations).unwrap_err();
    assert!(matches!(error, Stuck::Conflict(_)), "{error}");
    assert_eq!(scene.read("server/libDolphinDB.so"), "somebody's");
    fs::remove_file(scene.path("server/libDolphinDB.so")).unwrap();
    take_back(&disk, &scene.ground(), &change.operations).unwrap();
    // A file that vanished is said, not passed over.
    fs::remove_file(scene.path("server/libOld.so")).unwrap();
    assert!(scene.run(&disk, &change.operations).is_err());
    let bad = [Operation::Retire { path: "../../etc/passwd".into() }];
    assert!(matches!(scene.run(&disk, &bad), Err(Stuck::BadPath(_))));
    assert!(Path::new("/etc/passwd").exists());
}
