//! Three stores, each with a runtime of its own that can be ended like a process, behind links that
//! can be cut and frozen.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use grayfin_coordinator::{
    config,
    group::GroupService,
    store::{Error, Replicated, Store, replicated, types::NodeInfo},
};
use grayfin_proto::{identity::Identity, pki, tls, v1::group_server::GroupServer};
use integration_tests::relay::{Mode, Relay};
use integration_tests::wait;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// Until the last handle of an ended store is gone.
const REOPEN_LIMIT: Duration = Duration::from_secs(20);
const ENDS_WITHIN: Duration = Duration::from_secs(5);

struct Running {
    // Dropped first: nothing of the store may run any more when its file is let go.
    runtime: Runtime,
    store: Replicated,
}

struct Member {
    id: u64,
    dir: PathBuf,
    tls: tls::Files,
    listen: String,
    address: String,
    relay: Relay,
    running: Mutex<Option<Running>>,
}

/// The group.
pub(crate) struct Members {
    all: Vec<Member>,
    _dir: tempfile::TempDir,
}

fn free() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

impl Member {
    fn store(&self) -> Option<Replicated> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.as_ref().map(|running| running.store.clone())
    }

    fn options(&self) -> replicated::Options {
        replicated::Options {
            id: self.id,
            address: self.address.clone(),
            tls: self.tls.clone(),
            timing: config::Raft { heartbeat_ms: 100, election_min_ms: 300, election_max_ms: 600 },
            form: self.id == 1,
        }
    }

    /// Opens the store and serves the group, in a runtime of its own.
    fn start(&self) {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        let opened =
            wait::until(
                "its folder to be let go of",
                REOPEN_LIMIT,
                async || match Replicated::open(&self.dir, &self.options()).await {
                    Ok(store) => Ok(store),
                    Err(busy @ Error::Busy { .. }) => Err(busy.to_string()),
                    Err(error) => panic!("coordinator {} does not open: {error}", self.id),
                },
            );
        let store = runtime.block_on(opened).unwrap();
        let service = GroupService::new(&store);
        runtime.block_on(async {
            let listener = TcpListener::bind(&self.listen).await.unwrap();
            let incoming = self.tls.server().unwrap().incoming(listener);
            tokio::spawn(
                tonic::transport::Server::builder()
                    .add_service(GroupServer::new(service))
                    .serve_with_incoming(incoming),
            );
        });
        *self.running.lock().unwrap() = Some(Running { runtime, store });
    }

    /// Everything of it is gone, without a word, as after kill -9.
    fn end(&self) {
        let running = self.running.lock().unwrap().take();
        if let Some(Running { runtime, store }) = running {
            runtime.shutdown_timeout(ENDS_WITHIN);
            drop(store);
        }
    }
}

impl Members {
    /// Forms a group of three.
    pub(crate) async fn form() -> Self {
        let dir = tempfile::tempdir().unwrap();
        pki::make_ca(dir.path()).unwrap();
        let mut all = Vec::new();
        for id in 1..=3 {
            let (listen, address) = (free(), free());
            let out = dir.path().join(format!("coordinator{id}"));
            pki::issue(dir.path(), &Identity::Coordinator(id), &out).unwrap();
            let file = |suffix: &str| PathBuf::from(format!("{}{suffix}", out.display()));
            let tls =
                tls::Files { ca: dir.path().join("ca.pem"), cert: file(".pem"), key: file(".key") };
            let relay = Relay::start(&address, listen.clone()).await.unwrap();
            let dir = dir.path().join(format!("state{id}"));
            all.push(Member { id, dir, tls, listen, address, relay, running: Mutex::default() });
        }
        let members = Self { all, _dir: dir };
        tokio::task::block_in_place(|| members.all.iter().for_each(Member::start));
        let first = members.all[0].store().unwrap();
        for member in &members.all[1..] {
            let node = NodeInfo {
                address: member.address.clone(),
                instance: member.store().unwrap().instance().to_owned(),
            };
            first.raft().add_learner(member.id, node, true).await.unwrap();
        }
        let voters: BTreeSet<u64> = [1, 2, 3].into();
        first.raft().change_membership(voters, false).await.unwrap();
        members
    }

    /// Those that run.
    pub(crate) fn stores(&self) -> Vec<Replicated> {
        self.all.iter().filter_map(Member::store).collect()
    }

    /// The one at a place, if it runs.
    pub(crate) fn store_at(&self, place: usize) -> Option<Replicated> {
        self.all[place].store()
    }

    /// The place of one that believes it leads; it may be wrong.
    pub(crate) fn leading_place(&self) -> Option<usize> {
        self.all.iter().position(|member| {
            member.store().is_some_and(|store| store.leadership().borrow().leads)
        })
    }

    /// One that believes it leads, the one with the newest term if there are several.
    pub(crate) fn leading(&self) -> Option<Replicated> {
        let leads = |store: &Replicated| {
            let leadership = store.leadership();
            let now = leadership.borrow();
            now.leads.then_some(now.term)
        };
        let stores = self.stores().into_iter();
        let led = stores.filter_map(|store| leads(&store).map(|term| (term, store)));
        led.max_by_key(|(term, _)| *term).map(|(_, store)| store)
    }

    /// What others hear of a member.
    pub(crate) fn linked(&self, place: usize, mode: Mode) {
        self.all[place].relay.set(mode);
    }

    /// Ends a member as kill -9 would.
    pub(crate) async fn end(&self, place: usize) {
        tokio::task::block_in_place(|| self.all[place].end());
    }

    /// Everything is linked and runs again.
    pub(crate) async fn heal(&self) {
        for member in &self.all {
            member.relay.set(Mode::Open);
            if member.store().is_none() {
                tokio::task::block_in_place(|| member.start());
            }
        }
    }
}
