//! Packages: good ones, damaged ones, hostile ones.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use zip::{ZipWriter, write::SimpleFileOptions};

use super::*;
use crate::files::{
    Control, Disk, RealDisk,
    fault::{Fault, FaultyDisk},
};

const VERSION: &str = "2.00.8.12";

/// A small package: name, mode, content.
type Item = (&'static str, u32, Vec<u8>);

fn good() -> Vec<Item> {
    let noise: Vec<u8> =
        (0..40_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let mut binary = noise;
    binary.extend_from_slice(b"\x00 2.00.8.12 2023.01.10\x00");
    vec![
        ("server/dolphindb", 0o644, binary),
        ("server/libDolphinDB.so", 0o644, vec![1; 1000]),
        ("server/plugins/zip/PluginZip.txt", 0o644, b"zip,libPluginZip.so,2.00.8.12\n".to_vec()),
        ("server/clusterDemo/startAgent.sh", 0o755, b"#!/bin/sh\n".to_vec()),
        ("server/web/index.html", 0o600, b"<html>".to_vec()),
        ("server/tzdb/", 0o755, Vec::new()),
    ]
}

fn write(path: &Path, items: &[Item]) {
    let mut zip = ZipWriter::new(fs::File::create(path).unwrap());
    for (name, mode, content) in items {
        let options = SimpleFileOptions::default().unix_permissions(*mode);
        if name.ends_with('/') {
            zip.add_directory(*name, options).unwrap();
        } else {
            zip.start_file(*name, options).unwrap();
            zip.write_all(content).unwrap();
        }
    }
    zip.finish().unwrap();
}

struct Scratch {
    dir: tempfile::TempDir,
    package: PathBuf,
}

impl Scratch {
    fn new(items: &[Item]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("server")).unwrap();
        fs::create_dir_all(dir.path().join("trash")).unwrap();
        let package = dir.path().join(file_name(&VERSION.parse().unwrap(), Platform::Linux64));
        write(&package, items);
        Self { dir, package }
    }

    fn inspect(&self) -> Result<Inspection, Error> {
        inspect(&RealDisk, &self.package, &VERSION.parse().unwrap(), &Control::default())
    }

    fn stage(&self, disk: &dyn Disk) -> Result<Staged, Error> {
        let control = Control::default();
        let owner = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let how = Unpack { disk, control: &control, owner };
        let place = self.place();
        Staged::make(&how, &self.package, "ab12", &VERSION.parse().unwrap(), &place)
    }

    fn place(&self) -> PathBuf {
        stage_place(&self.dir.path().join("server"), "ab12")
    }
}

#[test]
fn a_good_package_is_read_through_and_unpacked() {
    let scratch = Scratch::new(&good());
    let seen = scratch.inspect().unwrap();
    assert_eq!(seen.files, 5);
    assert_eq!(seen.plugins, [("zip".to_owned(), VERSION.to_owned())]);
    assert!(matches!(seen.verdict, Verdict::Supported(_)), "{:?}", seen.verdict);
    assert_eq!(seen.bytes, fs::metadata(&scratch.package).unwrap().len());

    assert!(Staged::open(&RealDisk, &scratch.place()).unwrap().is_none());
    let staged = scratch.stage(&RealDisk).unwrap();
    assert_eq!(staged.root, scratch.dir.path().join(".grayfin-stage-server-ab12"));
    staged.verify(&RealDisk, &Control::default()).unwrap();
    let mode = |name: &str| {
        fs::metadata(staged.root.join("server").join(name)).unwrap().permissions().mode() & 0o7777
    };
    assert_eq!(mode("dolphindb"), 0o755, "made executable");
    assert_eq!(mode("clusterDemo/startAgent.sh"), 0o755);
    assert_eq!(mode("web/index.html"), 0o600);
    let again = Staged::open(&RealDisk, &scratch.place()).unwrap().unwrap();
    assert_eq!(again.entries, staged.entries);
    fs::write(staged.root.join("server/web/index.html"), b"<HTML>").unwrap();
    let error = again.verify(&RealDisk, &Control::default()).unwrap_err();
    assert!(error.to_string().contains("index.html"), "{error}");
    assert_eq!(list_names(&RealDisk, &scratch.package).unwrap().len(), 5, "folders are not files");
}

#[test]
fn hostile_packages_are_refused() {
    let with = |item: Item| {
        let mut all = good();
        all.push(item);
        all
    };
    let without = |name: &str| good().into_iter().filter(|i| i.0 != name).collect::<Vec<_>>();
    let cases: Vec<(&str, Vec<Item>)> = vec![
        ("no binary", without("server/dolphindb")),
        ("another top", with(("other/x", 0o644, vec![1]))),
        ("climbing", with(("server/../../x", 0o644, vec![1]))),
        ("absolute", with(("/server/x", 0o644, vec![1]))),
        ("backslash", with(("server/..\\x", 0o644, vec![1]))),
        ("control", with(("server/a\u{7}b", 0o644, vec![1]))),
        ("below a file", with(("server/libDolphinDB.so/x", 0o644, vec![1]))),
        ("bomb", with(("server/bomb", 0o644, vec![0; 90 << 20]))),
        (
            "long",
            with((
                Box::leak(format!("server/{}", "x".repeat(1100)).into_boxed_str()),
                0o644,
                vec![],
            )),
        ),
    ];
    for (what, items) in cases {
        let scratch = Scratch::new(&items);
        let error = scratch.inspect().unwrap_err();
        assert_eq!(error.code(), Code::PackageCorrupt, "{what}: {error}");
        assert!(scratch.stage(&RealDisk).is_err(), "{what}");
        assert!(!scratch.place().exists(), "{what}");
    }
}

#[test]
fn links_are_refused() {
    let scratch = Scratch::new(&good());
    let mut zip = ZipWriter::new_append(
        fs::OpenOptions::new().read(true).write(true).open(&scratch.package).unwrap(),
    )
    .unwrap();
    zip.add_symlink("server/link", "/etc", SimpleFileOptions::default()).unwrap();
    zip.finish().unwrap();
    let error = scratch.inspect().unwrap_err();
    assert!(error.to_string().contains("neither a file nor a folder"), "{error}");
}

#[test]
fn damage_anywhere_in_a_file_is_found() {
    let scratch = Scratch::new(&good());
    let whole = fs::read(&scratch.package).unwrap();
    let spots = (0..whole.len()).step_by(whole.len() / 97);
    for at in spots.chain([whole.len() - 30, whole.len() - 5]) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        fs::write(&scratch.package, &bytes).unwrap();
        // A few bytes (times, comments) carry nothing; the plan's SHA-256 covers those.
        if let Err(error) = scratch.inspect() {
            assert_eq!(error.code(), Code::PackageCorrupt, "{at}: {error}");
        } else {
            assert_ne!(
                files::hash_file(&RealDisk, &scratch.package, &Control::default()).unwrap().0,
                ""
            );
        }
    }
    let middle = whole.len() / 2;
    let mut bytes = whole.clone();
    bytes[middle] ^= 1;
    fs::write(&scratch.package, &bytes).unwrap();
    assert_eq!(scratch.inspect().unwrap_err().code(), Code::PackageCorrupt);
    fs::write(&scratch.package, &whole[..middle]).unwrap();
    assert_eq!(scratch.inspect().unwrap_err().code(), Code::PackageCorrupt);
    fs::write(&scratch.package, b"not a zip").unwrap();
    assert_eq!(scratch.inspect().unwrap_err().code(), Code::PackageCorrupt);
    fs::remove_file(&scratch.package).unwrap();
    assert!(scratch.stage(&RealDisk).is_err());
}

#[test]
fn another_release_inside_is_refused() {
    let mut items = good();
    items[2].2 = b"zip,libPluginZip.so,2.00.9.4\n".to_vec();
    let error = Scratch::new(&items).inspect().unwrap_err();
    assert_eq!(error.code(), Code::PackageWrongVersion);
    assert!(error.to_string().contains("2.00.9.4"), "{error}");

    let mut items = good();
    items[0].2 = b"binary of 2.00.8.10 2022.12.28".to_vec();
    items[2].2 = b"zip,libPluginZip.so,2.00.8.10\n".to_vec();
    assert_eq!(Scratch::new(&items).inspect().unwrap_err().code(), Code::PackageWrongVersion);
}

#[test]
fn unpacking_fails_cleanly_at_every_operation_and_can_be_repeated() {
    let mut items = good();
    items[0].2 = b"binary 2.00.8.12".to_vec();
    let scratch = Scratch::new(&items);
    let trash = scratch.dir.path().join("trash");
    let disk = FaultyDisk::new(&trash, Fault::None);
    scratch.stage(&disk).unwrap();
    let count = disk.operations();
    Staged::remove(&RealDisk, &scratch.place()).unwrap();
    for at in 0..count {
        let disk = FaultyDisk::new(&trash, Fault::At(at, io::ErrorKind::StorageFull));
        let error = scratch.stage(&disk).unwrap_err();
        assert_eq!(error.code(), Code::DiskTooSmall, "operation {at}: {error}");
        // A crash and power loss at the same place; then it works again.
        let disk = FaultyDisk::new(&trash, Fault::Crash(at));
        assert!(scratch.stage(&disk).is_err());
        disk.lose_power().unwrap();
        let found = Staged::open(&RealDisk, &scratch.place()).unwrap();
        if let Some(found) = found {
            found.verify(&RealDisk, &Control::default()).unwrap();
        }
        scratch.stage(&disk).unwrap().verify(&RealDisk, &Control::default()).unwrap();
        Staged::remove(&RealDisk, &scratch.place()).unwrap();
    }
    let full = FaultyDisk::new(&trash, Fault::Full(500));
    assert_eq!(scratch.stage(&full).unwrap_err().code(), Code::DiskTooSmall);
    let left: Vec<_> = fs::read_dir(scratch.dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .filter(|n| n.to_string_lossy().starts_with(STAGE_PREFIX))
        .collect();
    assert!(left.is_empty(), "nothing of a failed attempt takes room: {left:?}");
}

#[test]
fn packages_are_found_by_name() {
    let scratch = Scratch::new(&good());
    let folder = scratch.dir.path();
    fs::write(folder.join("DolphinDB_ARM64_V2.00.9.4.zip"), b"").unwrap();
    fs::write(folder.join("DolphinDB_Linux64_V2.00.10.2_JIT.zip"), b"").unwrap();
    fs::write(folder.join("DolphinDB_Linux64_V2.0.zip"), b"").unwrap();
    let all = list(folder).unwrap();
    let versions: Vec<String> = all.iter().map(|p| p.version.to_string()).collect();
    assert_eq!(versions, ["2.00.8.12", "2.00.9.4", "2.00.10.2_JIT"]);
    let error = find(folder, &"3.00.0".parse().unwrap()).unwrap_err();
    assert_eq!(error.code(), Code::PackageMissing);
}
