//! The readers, each as a function of bytes.

use std::{
    future::Future,
    path::Path,
    pin::pin,
    task::{Context, Poll, Waker},
};

use grayfin_agent::{
    backup::{Header, config, taking::Line},
    config::Settings,
    ddb::{self, Limits, Value},
    files::{RealDisk, read_manifest},
    ledger::{self, Ledger, testing::ForgetfulFile},
    probe::{
        Credentials,
        files::{Nodes, Properties, Site},
    },
    process::Words,
};
use grayfin_coordinator::store::open_seal;
use grayfin_coordinator_core::{Stamped, State};
use grayfin_proto::{document, v1::Document};
use grayfin_types::{
    event::Event,
    facts::{ClusterFacts, HostFacts},
    plan::{Plan, PlanAnswer, PlanRequest},
    step::Report,
};
use serde::de::DeserializeOwned;

/// Errors are told on a terminal and kept in an event log: one must not carry the input along.
const ERROR_MAX: usize = 8_192;

/// A reader.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// The name of its corpus and of its fuzz target.
    pub name: &'static str,
    /// Feeds it.
    pub run: fn(&[u8]),
}

/// All readers.
pub const TARGETS: &[Target] = &[
    Target { name: "ddb_reply", run: ddb_reply },
    Target { name: "agent_config", run: agent_config },
    Target { name: "coordinator_config", run: coordinator_config },
    Target { name: "dolphindb_files", run: dolphindb_files },
    Target { name: "credentials", run: credentials },
    Target { name: "manifest", run: manifest },
    Target { name: "ledger", run: read_ledger },
    Target { name: "sealed", run: sealed },
    Target { name: "documents", run: documents },
    Target { name: "script_output", run: script_output },
];

/// Decodes a reply; it never waits, for all bytes are there.
pub fn reply(bytes: &[u8], little: bool, limits: &Limits) -> Result<Value, String> {
    let mut decoding = pin!(ddb::decode(bytes, little, limits));
    match decoding.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => Err("it waits for bytes although all are there".to_owned()),
    }
}

fn short(error: &dyn std::fmt::Display) {
    let length = error.to_string().len();
    assert!(length <= ERROR_MAX, "an error of {length} bytes");
}

fn ddb_reply(bytes: &[u8]) {
    for little in [true, false] {
        match reply(bytes, little, &Limits::default()) {
            Ok(value) => drop(format!("{value:?}")),
            Err(why) => short(&why),
        }
    }
}

fn agent_config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Err(error) = Settings::parse(Path::new("agent.toml"), text) {
        short(&error);
        assert!(error.to_string().contains("agent.toml"), "{error}");
    }
}

fn coordinator_config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let parsed = grayfin_coordinator::config::Config::parse(Path::new("coordinator.toml"), text);
    if let Err(error) = parsed {
        short(&error);
        assert!(error.to_string().contains("coordinator.toml"), "{error}");
    }
}

fn dolphindb_files(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match Properties::parse("controller.cfg", &text) {
        Ok(properties) => {
            for (key, _) in properties.pairs() {
                assert!(properties.get(&key).is_some(), "`{key}` was read and is not there");
            }
        }
        Err(bad) => assert!(bad.problem().subject.len() <= ERROR_MAX, "a long subject"),
    }
    if let Ok(nodes) = Nodes::parse("cluster.nodes", &text) {
        drop(format!("{nodes:?}"));
    }
    for line in text.lines().take(100) {
        if let Err(why) = Site::parse(line) {
            drop(why);
        }
    }
    let lines = config::parse(&text);
    for value in config::effective(&lines, "node1").values() {
        drop(config::expand(value, "node1"));
    }
}

fn with_file(bytes: &[u8], read: impl FnOnce(&Path)) {
    use std::os::unix::fs::PermissionsExt;
    let Ok(folder) = tempfile::tempdir() else { return };
    let path = folder.path().join("input");
    let private = std::fs::Permissions::from_mode(0o600);
    let made = std::fs::write(&path, bytes).and_then(|()| std::fs::set_permissions(&path, private));
    if made.is_ok() {
        read(&path);
    }
}

fn credentials(bytes: &[u8]) {
    with_file(bytes, |path| {
        let accounts = Credentials::new(path.to_owned());
        accounts.refresh();
        let shown = format!("{accounts:?}");
        assert!(shown.len() <= ERROR_MAX, "credentials are printed");
    });
}

fn manifest(bytes: &[u8]) {
    with_file(bytes, |path| match read_manifest::<Header, Line>(&RealDisk, path) {
        Ok((header, lines, _)) => {
            for line in &lines {
                // A name never leads out of the folder that it is restored to.
                if let Some(relative) = line.entry.relative() {
                    let inside = relative
                        .components()
                        .all(|part| matches!(part, std::path::Component::Normal(_)));
                    assert!(inside, "{}", relative.display());
                }
            }
            drop(header);
        }
        Err(error) => {
            short(&error);
            assert!(error.to_string().contains("input"), "{error}");
        }
    });
}

fn read_ledger(bytes: &[u8]) {
    let Ok(host) = "db1".parse() else { return };
    let storage = Box::new(ForgetfulFile::of(bytes.to_vec()));
    match Ledger::open_on(storage, Path::new("/state/ledger"), &host) {
        Ok(ledger) => {
            // What was found, or begun anew, takes the next entry.
            assert!(ledger.position() > 0, "a ledger without an owner");
        }
        Err(error) => {
            short(&error);
            let text = error.to_string();
            assert!(text.contains("/state/ledger"), "no file is named: {text}");
            if let ledger::Error::Damaged { .. } = error {
                assert!(text.contains("byte") && text.contains("readmit"), "no remedy: {text}");
            }
        }
    }
}

fn sealed(bytes: &[u8]) {
    match open_seal(bytes) {
        Ok(json) => {
            drop(serde_json::from_slice::<Stamped>(json));
            drop(serde_json::from_slice::<State>(json));
            drop(serde_json::from_slice::<Event>(json));
        }
        Err(why) => short(&why),
    }
    // Behind the seal too: a peer of the group sends what it likes.
    drop(serde_json::from_slice::<Stamped>(bytes));
    drop(serde_json::from_slice::<State>(bytes));
    drop(serde_json::from_slice::<Event>(bytes));
}

fn as_document<T: DeserializeOwned>(bytes: &[u8]) {
    let whole = Document { schema: grayfin_types::SCHEMA, json: bytes.to_vec() };
    if let Err(error) = document::read::<T>("plan", Some(&whole)) {
        short(&error);
    }
}

fn documents(bytes: &[u8]) {
    as_document::<Plan>(bytes);
    as_document::<PlanRequest>(bytes);
    as_document::<PlanAnswer>(bytes);
    as_document::<Report>(bytes);
    as_document::<HostFacts>(bytes);
    as_document::<ClusterFacts>(bytes);
}

fn script_output(bytes: &[u8]) {
    let mut words = Words::default();
    for part in bytes.chunks(777) {
        words.push(part);
    }
    let text = words.text();
    let control = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t'));
    assert_eq!(control, None, "what a script prints could drive the terminal of its reader");
    let bound = bytes.len().saturating_mul(3).saturating_add(200).min(1 << 20);
    assert!(text.len() <= bound, "{} bytes said, {} kept", bytes.len(), text.len());
}
