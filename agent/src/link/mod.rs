//! The link to the coordinators: one session at a time, with the one that leads.
//!
//! The host agent dials out and opens no port. A session that breaks is replaced; nothing is lost
//! with it: durable reports are sent again from where the coordinator has them, orders and promises
//! are answered from the ledger, a step that waits for a go asks again.

mod canary;
mod go;
mod looks;
mod orders;
pub mod ports;
mod session;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use grayfin_proto::v1;
use grayfin_types::{ClusterId, Generation, step::Report};
use tokio::sync::{mpsc, oneshot, watch};
use tonic::transport::Channel;

pub use canary::CanaryLoop;
use looks::Looks;
pub use ports::{Canary, ClusterAsk, HostAsk, Look};
use session::{Ended, Session};

use crate::{
    config::Settings,
    ledger,
    ledger::Ledger,
    runner::{Trust, Wish},
};

/// Between two attempts; doubled up to [`BACK_OFF_MAX`]. A coordinator that restarts is back in a
/// second or two, and a host that is held waits for it.
const BACK_OFF_MIN: Duration = Duration::from_millis(50);

/// Small enough that a coordinator that comes back is found within the 6 s that a starting host
/// agent waits for one; 10,000 host agents make 5,000 connects a second of it at worst.
const BACK_OFF_MAX: Duration = Duration::from_secs(2);

/// Coordinators send each other's addresses; more than this many are no group of theirs.
const ADDRESSES_MAX: usize = 16;

/// Different reasons for a missing session that are told.
const TOLD_MAX: usize = 32;

/// Passing reports that wait for the session; more are dropped.
const PASSING_MAX: usize = 256;

/// The session with the leading coordinator.
#[derive(Debug, Clone)]
pub(crate) struct Connected {
    id: u64,
    to: mpsc::Sender<v1::FromHost>,
    channel: Channel,
}

/// What the rest of the host agent sees of the link.
#[derive(Debug)]
pub struct Link {
    settings: Arc<Settings>,
    ledger: Arc<Ledger>,
    generation: Generation,
    boot_id: String,
    session_id: String,
    connected: watch::Sender<Option<Connected>>,
    trust: watch::Sender<Trust>,
    wish: watch::Sender<Option<Wish>>,
    /// Go requests that wait for their answer.
    gos: Mutex<BTreeMap<u64, oneshot::Sender<v1::GoAnswer>>>,
    /// Numbers of go requests and sessions; they begin anywhere, so that a restart does not repeat them.
    numbers: AtomicU64,
    passing: mpsc::Sender<Report>,
    canary: mpsc::Sender<v1::CanaryReport>,
    /// Canary reports that answer an order: sent again in each session until they are replaced.
    answers: Mutex<BTreeMap<(ClusterId, u64), v1::CanaryReport>>,
}

/// What waits to be sent.
#[derive(Debug)]
struct Queues {
    passing: mpsc::Receiver<Report>,
    canary: mpsc::Receiver<v1::CanaryReport>,
    looks: mpsc::Receiver<v1::from_host::Message>,
    done: mpsc::Receiver<orders::Done>,
}

/// Keeps the link up; made together with [`Link`].
#[derive(Debug)]
pub struct LinkLoop {
    link: Arc<Link>,
    passing: mpsc::Receiver<Report>,
    canary: mpsc::Receiver<v1::CanaryReport>,
}

impl Link {
    /// Makes a link. Nothing happens before [`LinkLoop::run`].
    pub fn new(
        settings: Arc<Settings>,
        ledger: Arc<Ledger>,
        generation: Generation,
        boot_id: String,
    ) -> (Arc<Self>, LinkLoop) {
        let (passing, passing_queue) = mpsc::channel(PASSING_MAX);
        let (canary, canary_queue) = mpsc::channel(PASSING_MAX);
        let trust = if ledger.lost().is_some() { Trust::Amnesic } else { Trust::Unknown };
        let link = Arc::new(Self {
            settings,
            ledger,
            generation,
            boot_id,
            session_id: uuid::Uuid::new_v4().to_string(),
            connected: watch::Sender::new(None),
            trust: watch::Sender::new(trust),
            wish: watch::Sender::new(None),
            gos: Mutex::default(),
            numbers: AtomicU64::new(uuid::Uuid::new_v4().as_u64_pair().0 >> 1),
            passing,
            canary,
            answers: Mutex::default(),
        });
        let queues =
            LinkLoop { link: Arc::clone(&link), passing: passing_queue, canary: canary_queue };
        (link, queues)
    }

    /// Takes passing reports; those that do not fit are lost.
    pub fn passing(&self) -> mpsc::Sender<Report> {
        self.passing.clone()
    }

    /// Takes passing canary reports (`order` 0); those that do not fit are lost.
    pub fn canary(&self) -> mpsc::Sender<v1::CanaryReport> {
        self.canary.clone()
    }

    /// Says what the coordinators think of this ledger.
    pub fn trust(&self) -> watch::Receiver<Trust> {
        self.trust.subscribe()
    }

    /// Hands on the readmission that a coordinator sent (S8).
    pub fn wish(&self) -> watch::Receiver<Option<Wish>> {
        self.wish.subscribe()
    }

    fn connected(&self) -> watch::Receiver<Option<Connected>> {
        self.connected.subscribe()
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    fn expect_go(&self) -> (u64, oneshot::Receiver<v1::GoAnswer>) {
        let (sender, receiver) = oneshot::channel();
        let request = self.number();
        self.gos.lock().unwrap_or_else(PoisonError::into_inner).insert(request, sender);
        (request, receiver)
    }

    fn forget_go(&self, request: u64) {
        self.gos.lock().unwrap_or_else(PoisonError::into_inner).remove(&request);
    }

    fn answer_go(&self, answer: v1::GoAnswer) {
        let waiting =
            self.gos.lock().unwrap_or_else(PoisonError::into_inner).remove(&answer.request);
        if let Some(waiting) = waiting {
            // It gave up meanwhile: then nobody needs the answer.
            drop(waiting.send(answer));
        }
    }
}

impl LinkLoop {
    /// Keeps a session with the leading coordinator, for ever. Ends only when the ledger takes no
    /// more.
    pub async fn run<L: Look>(self, look: Arc<L>) -> Result<(), ledger::Error> {
        let link = self.link;
        let (results, looks_queue) = mpsc::channel(64);
        let (done, done_queue) = mpsc::channel(64);
        let looks = Arc::new(Looks {
            look,
            ledger: Arc::clone(&link.ledger),
            generation: link.generation,
            boot_id: link.boot_id.clone(),
            results,
            count: AtomicU64::new(0),
            places: Mutex::default(),
            done,
            busy: Mutex::default(),
        });
        let mut queues = Queues {
            passing: self.passing,
            canary: self.canary,
            looks: looks_queue,
            done: done_queue,
        };
        let mut dialler = Dialler::new(&link.settings.coordinators);
        loop {
            let address = dialler.next();
            let mut session = Session::new(&link, &looks, &mut queues);
            let ended = session.run(&address).await;
            let known = std::mem::take(&mut session.coordinators);
            link.connected.send_replace(None);
            dialler.learn(known);
            match ended {
                Ended::Ledger(error) => return Err(error),
                other @ (Ended::NotLeader { .. } | Ended::Broken { .. }) => {
                    dialler.ended(&address, other);
                }
            }
            tokio::time::sleep(dialler.pause()).await;
        }
    }
}

/// Decides whom to call next.
#[derive(Debug)]
struct Dialler {
    addresses: Vec<String>,
    configured: usize,
    at: usize,
    /// Whom a coordinator named as the leader.
    hint: Option<String>,
    /// Redirects since the last session that worked; bounded, lest two send us round for ever.
    hops: u32,
    pause: Duration,
    /// Why it is not connected, as far as it was told: each reason once, for a refusal after a
    /// coordinator that was away is news.
    told: BTreeSet<String>,
}

impl Dialler {
    fn new(configured: &[String]) -> Self {
        Self {
            addresses: configured.to_vec(),
            configured: configured.len(),
            at: 0,
            hint: None,
            hops: 0,
            pause: BACK_OFF_MIN,
            told: BTreeSet::new(),
        }
    }

    fn next(&mut self) -> String {
        if let Some(hint) = self.hint.take() {
            return hint;
        }
        let index = self.at % self.addresses.len().max(1);
        self.at = self.at.wrapping_add(1);
        self.addresses.get(index).cloned().unwrap_or_default()
    }

    /// Learns addresses beyond the configured ones, which always stay.
    fn learn(&mut self, addresses: Vec<String>) {
        if addresses.is_empty() {
            return;
        }
        self.addresses.truncate(self.configured);
        for address in addresses {
            if !self.addresses.contains(&address) && self.addresses.len() < ADDRESSES_MAX {
                self.addresses.push(address);
            }
        }
    }

    fn ended(&mut self, address: &str, ended: Ended) {
        match ended {
            Ended::NotLeader { leader } if !leader.is_empty() && self.hops < 3 => {
                self.hops += 1;
                self.pause = BACK_OFF_MIN;
                self.hint = Some(leader);
            }
            Ended::Broken { worked: true, why } => {
                tracing::warn!(address, why, "the link to the coordinator broke");
                self.told.clear();
                self.hops = 0;
                self.pause = BACK_OFF_MIN;
                self.hint = Some(address.to_owned());
            }
            Ended::NotLeader { .. } => {
                self.hops = 0;
                self.slower();
            }
            Ended::Broken { worked: false, why } => {
                if self.told.len() < TOLD_MAX && !self.told.contains(&why) {
                    tracing::warn!(address, why, "no session with the coordinator; trying on");
                    self.told.insert(why);
                }
                self.slower();
            }
            Ended::Ledger(_) => {}
        }
    }

    fn slower(&mut self) {
        self.pause = (self.pause * 2).min(BACK_OFF_MAX);
    }

    /// The pause, spread by up to a quarter so that a fleet does not call in step.
    fn pause(&self) -> Duration {
        let spread = u32::try_from(grayfin_proto::clock::wall_ms() % 64).unwrap_or(0);
        self.pause + self.pause * spread / 256
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(worked: bool) -> Ended {
        Ended::Broken { worked, why: "x".to_owned() }
    }

    #[test]
    fn every_address_is_tried_and_the_pause_is_bounded() {
        let mut dialler = Dialler::new(&["a".to_owned(), "b".to_owned()]);
        let mut called = Vec::new();
        for _ in 0..40 {
            let address = dialler.next();
            dialler.ended(&address, broken(false));
            called.push(address);
        }
        assert_eq!(called[..4], ["a", "b", "a", "b"]);
        assert!(dialler.pause() >= BACK_OFF_MAX && dialler.pause() < BACK_OFF_MAX * 2);
        let address = dialler.next();
        dialler.ended(&address, broken(true));
        assert!(dialler.pause() < BACK_OFF_MIN * 2);
        assert_eq!(dialler.next(), address, "the one that worked is called again first");
    }

    #[test]
    fn hints_are_followed_but_not_in_circles() {
        let mut dialler = Dialler::new(&["a".to_owned()]);
        for _ in 0..3 {
            let address = dialler.next();
            dialler.ended(&address, Ended::NotLeader { leader: "z".to_owned() });
            assert_eq!(dialler.hint.as_deref(), Some("z"));
        }
        let address = dialler.next();
        dialler.ended(&address, Ended::NotLeader { leader: "z".to_owned() });
        assert_eq!(dialler.next(), "a");
    }

    #[test]
    fn learnt_addresses_come_on_top_of_the_configured_ones() {
        let mut dialler = Dialler::new(&["a".to_owned()]);
        dialler.learn(vec!["a".to_owned(), "b".to_owned()]);
        dialler.learn(vec![]);
        dialler.learn((0..99).map(|n| format!("c{n}")).collect());
        assert_eq!(dialler.addresses.len(), ADDRESSES_MAX);
        assert_eq!(dialler.addresses[0], "a");
    }
}
