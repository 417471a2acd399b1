//! Fidelity of copies, and what is left after each possible failure.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use super::{
    Comparison, Control, Copier, Disk, Error, Kind, RealDisk, create_dir_durably,
    fault::{Fault, FaultyDisk},
    remove_tree, rename_durably, write_durably,
};

struct Scratch {
    dir: tempfile::TempDir,
}

impl Scratch {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("trash")).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn faulty(&self, fault: Fault) -> FaultyDisk {
        FaultyDisk::new(&self.path("trash"), fault)
    }

    /// A tree with every kind of thing that the software and metadata folders have.
    fn tree(&self) -> PathBuf {
        let root = self.path("source");
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::create_dir(root.join("empty")).unwrap();
        fs::write(root.join("a/one"), b"one").unwrap();
        fs::write(root.join("a/b/big"), vec![7; 3 << 20]).unwrap();
        fs::write(root.join("a/nothing"), b"").unwrap();
        fs::set_permissions(root.join("a/one"), fs::Permissions::from_mode(0o751)).unwrap();
        fs::set_permissions(root.join("a/b"), fs::Permissions::from_mode(0o2750)).unwrap();
        std::os::unix::fs::symlink("../a/one", root.join("empty/link")).unwrap();
        std::os::unix::fs::symlink("/nowhere", root.join("dangling")).unwrap();
        let mut sparse = fs::File::create(root.join("sparse")).unwrap();
        sparse.write_all(b"head").unwrap();
        sparse.set_len(64 << 20).unwrap();
        rustix::fs::setxattr(
            root.join("a/one"),
            "user.note",
            b"kept",
            rustix::fs::XattrFlags::empty(),
        )
        .unwrap();
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(root.join("a/one"), Some(1234), Some(4321)).unwrap();
            fs::set_permissions(root.join("a/one"), fs::Permissions::from_mode(0o751)).unwrap();
        }
        let _listener = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
        root
    }
}

type Change = Box<dyn Fn(&Path)>;

fn all(_: &Path) -> bool {
    false
}

fn differences(root: &Path, entries: &[super::Entry]) -> Vec<String> {
    let control = Control::default();
    let mut comparison = Comparison::new(&RealDisk, &control);
    comparison.extra = Some(&all);
    let compared = comparison.run(root, entries).unwrap();
    compared.differences.iter().map(ToString::to_string).collect()
}

#[test]
fn a_copy_is_the_same_in_everything_that_belongs_to_a_file() {
    let scratch = Scratch::new();
    let (from, to) = (scratch.tree(), scratch.path("copy"));
    let control = Control::default();
    let copied = Copier::new(&RealDisk, &control).copy(&from, &to, &all).unwrap();
    assert_eq!(differences(&to, &copied.entries), Vec::<String>::new());
    assert_eq!(differences(&from, &copied.entries), Vec::<String>::new());
    assert_eq!(copied.bytes, 3 + (3 << 20) + (64 << 20));
    let special = copied.entries.iter().find(|e| e.path == "socket").unwrap();
    assert_eq!(special.kind, Kind::Special);
    assert!(!to.join("socket").exists());

    let (old, new) = (fs::metadata(from.join("a/one")), fs::metadata(to.join("a/one")));
    let (old, new) = (old.unwrap(), new.unwrap());
    assert_eq!((old.mode(), old.uid(), old.gid()), (new.mode(), new.uid(), new.gid()));
    assert_eq!((old.mtime(), old.mtime_nsec()), (new.mtime(), new.mtime_nsec()));
    let folder = |root: &Path| fs::metadata(root.join("a/b")).unwrap();
    assert_eq!(folder(&from).mtime_nsec(), folder(&to).mtime_nsec());
    assert!(fs::metadata(to.join("sparse")).unwrap().blocks() < 1000, "holes stay holes");
}

#[test]
fn every_difference_is_found_and_named() {
    let scratch = Scratch::new();
    let from = scratch.tree();
    let control = Control::default();
    let change: Vec<(&str, Change)> = vec![
        ("a/one", Box::new(|p| fs::write(p, b"two").unwrap())),
        ("a/nothing", Box::new(|p| fs::remove_file(p).unwrap())),
        ("a/new", Box::new(|p| fs::write(p, b"").unwrap())),
        (
            "dangling",
            Box::new(|p| {
                fs::remove_file(p).unwrap();
                std::os::unix::fs::symlink("/else", p).unwrap();
            }),
        ),
        (
            "a/b",
            Box::new(|p| {
                fs::set_permissions(p, fs::Permissions::from_mode(0o700)).unwrap();
            }),
        ),
        (
            "empty",
            Box::new(|p| {
                fs::remove_file(p.join("link")).unwrap();
                fs::remove_dir(p).unwrap();
                fs::write(p, b"").unwrap();
            }),
        ),
    ];
    for (at, (name, change)) in change.iter().enumerate() {
        let to = scratch.path(&format!("copy{at}"));
        let copied = Copier::new(&RealDisk, &control).copy(&from, &to, &all).unwrap();
        change(&to.join(name));
        let found = differences(&to, &copied.entries);
        assert!(found.iter().any(|d| d.contains(name)), "{name}: {found:?}");
    }
}

#[test]
fn a_source_that_changes_meanwhile_is_noticed() {
    let scratch = Scratch::new();
    let from = scratch.tree();
    for (at, name) in ["a/one", "a/late"].into_iter().enumerate() {
        let path = from.join(name);
        let control = Control::default().watched(move |_| fs::write(&path, b"changed").unwrap());
        let copier = Copier { workers: 1, ..Copier::new(&RealDisk, &control) };
        let result = copier.copy(&from, &scratch.path(&format!("copy{at}")), &all);
        assert!(matches!(result, Err(Error::SourceChanged { .. })), "{name}: {result:?}");
        drop(fs::remove_file(from.join("a/late")));
    }
}

#[test]
fn a_copy_fails_cleanly_at_every_operation_and_read() {
    let scratch = Scratch::new();
    let from = scratch.tree();
    let control = Control::default();
    let attempt = |fault, to: &Path| {
        let disk = scratch.faulty(fault);
        let result = Copier { workers: 1, ..Copier::new(&disk, &control) }.copy(&from, to, &all);
        remove_tree(&RealDisk, to).unwrap();
        for kept in fs::read_dir(scratch.path("trash")).unwrap() {
            fs::remove_file(kept.unwrap().path()).unwrap();
        }
        (result, disk.operations())
    };
    let to = scratch.path("copy");
    let (whole, count) = attempt(Fault::None, &to);
    whole.unwrap();
    assert!(count > 20, "{count}");
    for at in 0..count {
        let (result, _) = attempt(Fault::At(at, io::ErrorKind::StorageFull), &to);
        assert!(result.unwrap_err().is_no_space(), "operation {at}");
    }
    for at in 0..3 {
        let (result, _) = attempt(Fault::Read(at), &to);
        assert!(matches!(result, Err(Error::Io { action: "read", .. })), "read {at}");
    }
    let (result, _) = attempt(Fault::Full(1 << 20), &to);
    assert!(result.unwrap_err().is_no_space());
}

#[test]
fn a_file_written_durably_is_old_or_new_whatever_power_loss_does() {
    let scratch = Scratch::new();
    let path = scratch.path("file");
    for at in 0.. {
        fs::write(&path, b"old").unwrap();
        let disk = scratch.faulty(Fault::Crash(at));
        let result = write_durably(&disk, &path, b"new content", 0o600);
        disk.lose_power().unwrap();
        let now = fs::read(&path).unwrap();
        match result {
            Ok(()) => {
                assert_eq!(now, b"new content");
                assert!(at > 3, "the crash points are all behind");
                return;
            }
            Err(_) => assert_eq!(now, b"old", "crash at {at}"),
        }
    }
}

#[test]
fn renames_never_replace_and_survive_power_loss() {
    let scratch = Scratch::new();
    let (a, b) = (scratch.path("a"), scratch.path("sub/b"));
    let disk = scratch.faulty(Fault::None);
    create_dir_durably(&disk, &scratch.path("sub"), 0o755).unwrap();
    create_dir_durably(&disk, &scratch.path("sub"), 0o755).unwrap();
    fs::write(&a, b"a").unwrap();
    rename_durably(&disk, &a, &b).unwrap();
    disk.lose_power().unwrap();
    assert_eq!(fs::read(&b).unwrap(), b"a");
    fs::write(&a, b"other").unwrap();
    assert!(rename_durably(&disk, &a, &b).is_err());
    assert_eq!(fs::read(&b).unwrap(), b"a");

    // Without the folder's sync the rename is lost: the fault disk can tell.
    disk.rename(&b, &scratch.path("c")).unwrap();
    disk.lose_power().unwrap();
    assert!(b.exists() && !scratch.path("c").exists());
}

#[test]
fn removing_a_tree_follows_no_link() {
    let scratch = Scratch::new();
    let tree = scratch.tree();
    fs::write(scratch.path("outside"), b"x").unwrap();
    std::os::unix::fs::symlink(scratch.path("outside"), tree.join("out")).unwrap();
    remove_tree(&RealDisk, &tree).unwrap();
    remove_tree(&RealDisk, &tree).unwrap();
    assert!(!tree.exists() && scratch.path("outside").exists());
}
