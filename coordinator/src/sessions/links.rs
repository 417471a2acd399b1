//! The connected host agents, and what is sent to them until they answer.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use grayfin_coordinator_core::{
    State,
    decide::{Look, OrderWanted, PromiseWanted, Wanted},
    state::OrderKind,
};
use grayfin_proto::v1::{self, Authority, ToHost, to_host::Message};
use grayfin_types::{ClusterId, HostId, OrderNumber, Token};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use super::outgoing;
use crate::stoppoint;

/// An order or promise request without an answer is sent again after this: the session is up, so
/// either the host agent is slow or its answer could not be committed.
const RESEND_AFTER: Duration = Duration::from_secs(5);

/// A refused promise is asked for again after this; what stood in its way is mostly a hold that is
/// about to be closed.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Looks out of turn are not asked for more often: a look of a host costs its nodes some 10 ms.
const HURRY_GAP: Duration = Duration::from_millis(50);

/// What goes out on a session's stream.
pub(crate) type Outgoing = mpsc::Sender<Result<ToHost, Status>>;

/// What was sent, so that it is not sent again at once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Look(ClusterId),
    Promise(ClusterId, Token),
    Order(ClusterId, OrderNumber),
}

/// How often to look.
#[derive(Debug, Clone, Default)]
pub struct Tempo {
    /// Where nothing urgent is waited for.
    pub look_interval: Duration,
    /// Where it is; never more often than a third of the time is spent looking.
    pub pace: BTreeMap<ClusterId, Duration>,
}

/// Something that was sent.
#[derive(Debug)]
struct Sent {
    at: Instant,
    look: Option<Look>,
    /// How long a look took.
    took: Option<Duration>,
}

impl Sent {
    /// Tells whether a look may be asked for again out of turn: this one was answered, and twice as
    /// long as it took has passed since.
    fn has_rested(&self, now: Instant, pace: Duration) -> bool {
        self.took.is_some_and(|took| now.duration_since(self.at) >= pace.max(took * 3))
    }
}

#[derive(Debug)]
struct Link {
    /// Unique within this process; a session id is the host agent's word.
    serial: u64,
    out: Outgoing,
    /// Ends the session, with the reason for the host agent.
    end: oneshot::Sender<Status>,
    /// Its host agent was told that it may work.
    works: bool,
    sent: BTreeMap<Key, Sent>,
}

#[derive(Debug, Default)]
struct Inner {
    serial: u64,
    links: BTreeMap<HostId, Link>,
    hurry: BTreeSet<ClusterId>,
    hurried: BTreeMap<ClusterId, Instant>,
}

/// The connected host agents.
#[derive(Debug, Default)]
pub struct Links {
    inner: Mutex<Inner>,
}

/// A session's entry.
#[derive(Debug)]
pub(crate) struct Registered {
    pub(crate) serial: u64,
    /// Resolves when the session has to end.
    pub(crate) ended: oneshot::Receiver<Status>,
}

/// What is wanted of one host.
#[derive(Debug, Default)]
struct OfHost<'a> {
    looks: Vec<&'a Look>,
    promises: Vec<&'a PromiseWanted>,
    orders: Vec<&'a OrderWanted>,
}

impl Links {
    /// Registers a session; one that the host has already ends. `works` says whether its host agent was
    /// told that it may work.
    pub(crate) fn add(&self, host: &HostId, out: Outgoing, works: bool) -> Registered {
        let (end, ended) = oneshot::channel();
        let mut inner = self.lock();
        inner.serial += 1;
        let serial = inner.serial;
        let link = Link { serial, out, end, works, sent: BTreeMap::new() };
        if let Some(old) = inner.links.insert(host.clone(), link) {
            old.end(Status::aborted("the host agent has opened another session"));
        }
        Registered { serial, ended }
    }

    /// Removes a session, unless the host has another one by now.
    pub(crate) fn remove(&self, host: &HostId, serial: u64) {
        let mut inner = self.lock();
        if inner.links.get(host).is_some_and(|link| link.serial == serial) {
            inner.links.remove(host);
        }
    }

    /// Something just happened in a cluster: its next looks are asked for without waiting for
    /// their turn.
    pub fn hurry(&self, cluster: &ClusterId) {
        self.lock().hurry.insert(cluster.clone());
    }

    /// A host agent answered a look, at its own host or at the whole cluster.
    pub(crate) fn looked(&self, host: &HostId, cluster: &ClusterId, whole_cluster: bool) {
        let mut inner = self.lock();
        let Some(link) = inner.links.get_mut(host) else { return };
        if let Some(sent) = link.sent.get_mut(&Key::Look(cluster.clone()))
            && sent.took.is_none()
            && sent.look.as_ref().is_some_and(|look| look.whole_cluster == whole_cluster)
        {
            sent.took = Some(sent.at.elapsed());
        }
    }

    /// Sends what is wanted and due.
    pub fn send_due(&self, wanted: &Wanted, state: &State, authority: &Authority, tempo: &Tempo) {
        let now = Instant::now();
        let mut by_host = by_host(wanted);
        let mut inner = self.lock();
        let hurry = inner.take_hurry(now);
        let mut stuck = Vec::new();
        for (host, link) in &mut inner.links {
            let wanted = by_host.remove(host).unwrap_or_default();
            let mut messages = Vec::new();
            link.looks(&wanted.looks, now, tempo, &hurry, &mut messages);
            let own = state.hosts.get(host).map(|enrolment| &enrolment.clusters);
            let others = own.into_iter().flatten().filter(|cluster| {
                hurry.contains(*cluster) && wanted.looks.iter().all(|l| &l.cluster != *cluster)
            });
            messages.extend(others.map(outgoing::observe_host));
            link.promises(&wanted.promises, now, state, authority, &mut messages);
            link.orders(&wanted.orders, now, state, authority, &mut messages);
            let sends = |kind| wanted.orders.iter().any(|wanted| wanted.order.kind == kind);
            if !wanted.promises.is_empty() {
                stoppoint::reached("send.promise.before");
            }
            if sends(OrderKind::Run) {
                stoppoint::reached("send.run.before");
            }
            if sends(OrderKind::Close) {
                stoppoint::reached("send.close.before");
            }
            if !messages.into_iter().all(|m| link.out.try_send(Ok(to_host(m))).is_ok()) {
                stuck.push(host.clone());
            }
        }
        for host in stuck {
            // It does not read what it is sent. A new session is sent all of it again.
            if let Some(link) = inner.links.remove(&host) {
                tracing::warn!(%host, "the host agent does not take what it is sent");
                link.end(Status::resource_exhausted("the host agent does not read its session"));
            }
        }
    }

    /// Ends a host's session, so that its agent says hello again.
    pub fn end(&self, host: &HostId, why: Status) {
        if let Some(link) = self.lock().links.remove(host) {
            link.end(why);
        }
    }

    /// Ends the sessions of host agents that were told that they may work, and may not any more: another
    /// one's hello has shown that a ledger was put back (S8). They say hello again, and are told.
    pub(crate) fn end_amnesic(&self, state: &State) {
        let amnesic = |host: &HostId| state.hosts.get(host).is_some_and(|e| e.amnesic.is_some());
        let mut inner = self.lock();
        let over: Vec<HostId> = inner
            .links
            .iter()
            .filter(|(host, link)| link.works && amnesic(host))
            .map(|(host, _)| host.clone())
            .collect();
        for host in over {
            if let Some(link) = inner.links.remove(&host) {
                tracing::warn!(%host, "another host agent has shown that the ledger of this one is old");
                link.end(Status::unavailable("the ledger is an old one: hello again"));
            }
        }
    }

    /// Ends all sessions.
    pub fn end_all(&self, why: &Status) {
        let links = std::mem::take(&mut self.lock().links);
        for link in links.into_values() {
            link.end(why.clone());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Takes the clusters whose next looks are asked for at once; those whose last looks are too
    /// recent stay for the next round.
    fn take_hurry(&mut self, now: Instant) -> BTreeSet<ClusterId> {
        let hurried = &mut self.hurried;
        let ready = self
            .hurry
            .extract_if(.., |cluster| {
                hurried.get(cluster).is_none_or(|at| now.duration_since(*at) >= HURRY_GAP)
            })
            .collect::<BTreeSet<_>>();
        hurried.extend(ready.iter().map(|cluster| (cluster.clone(), now)));
        ready
    }
}

fn by_host(wanted: &Wanted) -> BTreeMap<&HostId, OfHost<'_>> {
    let mut out: BTreeMap<&HostId, OfHost<'_>> = BTreeMap::new();
    for look in &wanted.looks {
        out.entry(&look.host).or_default().looks.push(look);
    }
    for promise in &wanted.promises {
        out.entry(&promise.host).or_default().promises.push(promise);
    }
    for order in &wanted.orders {
        out.entry(&order.host).or_default().orders.push(order);
    }
    out
}

impl Link {
    fn end(self, why: Status) {
        // The session may have ended by itself in the same moment.
        drop(self.end.send(why));
    }

    fn looks(
        &mut self,
        looks: &[&Look],
        now: Instant,
        tempo: &Tempo,
        hurry: &BTreeSet<ClusterId>,
        out: &mut Vec<Message>,
    ) {
        let mut kept = BTreeSet::new();
        for look in looks {
            let key = Key::Look(look.cluster.clone());
            let due = self.sent.get(&key).is_none_or(|sent| {
                now.duration_since(sent.at) >= tempo.look_interval
                    || sent.look.as_ref() != Some(*look)
                    || tempo.pace.get(&look.cluster).is_some_and(|p| sent.has_rested(now, *p))
            });
            if due || hurry.contains(&look.cluster) {
                let sent = Sent { at: now, look: Some((*look).clone()), took: None };
                self.sent.insert(key.clone(), sent);
                out.push(outgoing::observe(look));
            }
            kept.insert(key);
        }
        self.sent.retain(|key, _| !matches!(key, Key::Look(_)) || kept.contains(key));
    }

    fn promises(
        &mut self,
        promises: &[&PromiseWanted],
        now: Instant,
        state: &State,
        authority: &Authority,
        out: &mut Vec<Message>,
    ) {
        let mut kept = BTreeSet::new();
        for wanted in promises {
            let key = Key::Promise(wanted.cluster.clone(), wanted.token);
            let after =
                if outgoing::was_refused(state, wanted) { ASK_AGAIN_AFTER } else { RESEND_AFTER };
            if self.due(&key, now, after) {
                out.push(outgoing::promise_request(wanted, authority));
            }
            kept.insert(key);
        }
        self.sent.retain(|key, _| !matches!(key, Key::Promise(..)) || kept.contains(key));
    }

    /// Orders run one after the other, and a host agent remembers the last answer only: the next
    /// one of a cluster is sent when the one before is answered.
    fn orders(
        &mut self,
        orders: &[&OrderWanted],
        now: Instant,
        state: &State,
        authority: &Authority,
        out: &mut Vec<Message>,
    ) {
        let mut first: BTreeMap<&ClusterId, &OrderWanted> = BTreeMap::new();
        for wanted in orders {
            let slot = first.entry(&wanted.cluster).or_insert(wanted);
            if wanted.order.number < slot.order.number {
                *slot = wanted;
            }
        }
        let mut kept = BTreeSet::new();
        for wanted in first.into_values() {
            let key = Key::Order(wanted.cluster.clone(), wanted.order.number);
            if self.due(&key, now, RESEND_AFTER)
                && let Some(order) = outgoing::order(wanted, state, authority)
            {
                tracing::info!(
                    host = %wanted.host,
                    cluster = %wanted.cluster,
                    number = %wanted.order.number,
                    token = %wanted.order.token,
                    kind = ?wanted.order.kind,
                    "order sent"
                );
                out.push(Message::Order(order));
            }
            kept.insert(key);
        }
        self.sent.retain(|key, _| !matches!(key, Key::Order(..)) || kept.contains(key));
    }

    fn due(&mut self, key: &Key, now: Instant, after: Duration) -> bool {
        let due = self.sent.get(key).is_none_or(|sent| now.duration_since(sent.at) >= after);
        if due {
            self.sent.insert(key.clone(), Sent { at: now, look: None, took: None });
        }
        due
    }
}

/// Makes a message for a host agent.
pub(crate) const fn to_host(message: Message) -> ToHost {
    ToHost { message: Some(message) }
}

/// Makes the notice that reports up to a position are in the event log.
pub(crate) const fn committed(position: u64) -> ToHost {
    to_host(Message::Committed(v1::ReportsCommitted { position }))
}
