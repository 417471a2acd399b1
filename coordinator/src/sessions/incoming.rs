//! From the wire's words to the core's: everything a host agent says is checked here.

use std::collections::{BTreeMap, BTreeSet};

use grayfin_coordinator_core::{
    cmd::{CanaryReported, Cmd, Enrol, LedgerSaid, OrderAnswered, PromiseAnswered},
    go,
    view::{Connection, Fence},
};
use grayfin_proto::{WIRE, document, v1};
use grayfin_types::{
    ClusterId, Code, Generation, HostId, LedgerId, OrderNumber, RolloutId, Token,
    facts::{ClusterFacts, HostFacts},
    ledger::LedgerMark,
    status::CanaryStatus,
    step::{Report, SequenceState},
};

/// Texts of host agents are cut at this many bytes before they are stored.
const WHY_MAX: usize = 4_096;

/// More clusters on one machine are a mistake or an attack.
const CLUSTERS_MAX: usize = 64;

/// More hosts of one cluster are one, too.
const HELD_MAX: usize = 4_096;

/// More nodes in one request for a go are one, too.
const NODES_MAX: usize = 1_024;

/// Why a message is not accepted; the session ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It speaks for somebody else.
    #[error("GF0103: {0}")]
    Identity(String),
    /// It is malformed.
    #[error("GF0703: {0}")]
    Malformed(String),
}

impl Error {
    /// Returns the gRPC status that ends the session.
    pub(crate) fn status(&self) -> tonic::Status {
        match self {
            Self::Identity(_) => tonic::Status::permission_denied(self.to_string()),
            Self::Malformed(_) => tonic::Status::invalid_argument(self.to_string()),
        }
    }
}

fn malformed(error: impl std::fmt::Display) -> Error {
    Error::Malformed(error.to_string())
}

/// Who is at the other end, proven by its certificate and its hello.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) host: HostId,
    pub(crate) generation: Generation,
    pub(crate) clusters: BTreeSet<ClusterId>,
}

impl Peer {
    /// Checks a hello against the certificate's identity.
    pub(crate) fn greet(
        host: HostId,
        generation: Generation,
        hello: &v1::Hello,
    ) -> Result<Self, Error> {
        if hello.wire != WIRE {
            return Err(Error::Malformed(format!(
                "`{host}` speaks wire version {}, this coordinator speaks {WIRE}: upgrade the older side",
                hello.wire
            )));
        }
        if hello.host != host.as_str() {
            return Err(Error::Identity(format!(
                "the certificate is of `{host}`, but the host agent says it is on `{}`: correct `host` in its configuration, or issue a certificate for that host",
                cut(&hello.host, 128)
            )));
        }
        if hello.clusters.len() > CLUSTERS_MAX {
            return Err(Error::Malformed(format!("more than {CLUSTERS_MAX} clusters")));
        }
        let clusters = hello
            .clusters
            .iter()
            .map(|c| ClusterId::new(c.clone()))
            .collect::<Result<_, _>>()
            .map_err(malformed)?;
        Ok(Self { host, generation, clusters })
    }

    /// Makes the enrolment of a hello.
    pub(crate) fn enrol(
        &self,
        hello: &v1::Hello,
        proof: Option<LedgerMark>,
    ) -> Result<Enrol, Error> {
        let fences = self.fences(hello)?;
        let said = LedgerSaid {
            chain: chain(&hello.ledger_chain),
            proof,
            floor: fences.values().map(|fence| fence.floor).max().unwrap_or_default(),
            open_hold: fences.values().find_map(|fence| fence.open_hold),
            readmitted: Some(cut(&hello.readmitted, 128)).filter(|act| !act.is_empty()),
            own: Token(hello.own_token),
            promised_for: promised_for(hello)?,
            lost: Some(cut(&hello.ledger_lost, WHY_MAX)).filter(|why| !why.is_empty()),
        };
        Ok(Enrol {
            host: self.host.clone(),
            clusters: self.clusters.clone(),
            generation: self.generation,
            ledger_id: LedgerId::new(hello.ledger_id.clone()).map_err(malformed)?,
            ledger_position: hello.ledger_position,
            agent_version: cut(&hello.agent_version, 64),
            last_orders: fences.into_iter().map(|(c, fence)| (c, fence.last_order)).collect(),
            // A host agent that is older than the running hash does not say it.
            ledger: (!hello.ledger_chain.is_empty()).then_some(said),
        })
    }

    /// Makes what the view keeps of a hello.
    pub(crate) fn connection(&self, hello: &v1::Hello, now_ms: u64) -> Result<Connection, Error> {
        Ok(Connection {
            session_id: cut(&hello.session_id, 128),
            since_ms: now_ms,
            ledger_id: LedgerId::new(hello.ledger_id.clone()).map_err(malformed)?,
            fences: self.fences(hello)?,
        })
    }

    fn fences(&self, hello: &v1::Hello) -> Result<BTreeMap<ClusterId, Fence>, Error> {
        hello
            .fences
            .iter()
            .map(|fence| {
                Ok((
                    self.cluster(&fence.cluster)?,
                    Fence {
                        floor: Token(fence.floor),
                        open_hold: token(fence.open_hold),
                        last_order: OrderNumber(fence.last_order),
                    },
                ))
            })
            .collect()
    }

    /// Reads facts about the host itself.
    pub(crate) fn host_facts(&self, facts: &v1::Document) -> Result<HostFacts, Error> {
        let facts: HostFacts = document::read("HostFacts", Some(facts)).map_err(malformed)?;
        self.own(&facts.host)?;
        self.cluster(facts.cluster.as_str())?;
        if facts.standing.generation != self.generation {
            return Err(Error::Identity(format!(
                "`{}` reports generation {}, its certificate has {}",
                self.host, facts.standing.generation, self.generation
            )));
        }
        Ok(facts)
    }

    /// Reads facts about a whole cluster.
    pub(crate) fn cluster_facts(&self, facts: &v1::Document) -> Result<ClusterFacts, Error> {
        let facts: ClusterFacts = document::read("ClusterFacts", Some(facts)).map_err(malformed)?;
        self.own(&facts.seen_from)?;
        self.cluster(facts.cluster.as_str())?;
        Ok(facts)
    }

    /// Reads a report.
    pub(crate) fn report(&self, report: &v1::Document) -> Result<Report, Error> {
        let report: Report = document::read("Report", Some(report)).map_err(malformed)?;
        self.own(&report.host)?;
        Ok(report)
    }

    /// Reads the answer to a promise request.
    pub(crate) fn promise(&self, answer: &v1::PromiseAnswer) -> Result<Cmd, Error> {
        Ok(Cmd::RecordPromise(PromiseAnswered {
            host: self.host.clone(),
            cluster: self.cluster(&answer.cluster)?,
            token: Token(answer.token),
            promised: answer.promised,
            code: code(&answer.code),
            why: cut(&answer.why, WHY_MAX),
            ledger_position: answer.ledger_position,
            chain: chain(&answer.ledger_chain),
        }))
    }

    /// Reads the answer to an order.
    pub(crate) fn order(&self, answer: &v1::OrderAnswer) -> Result<Cmd, Error> {
        let state: Option<SequenceState> = match &answer.state {
            Some(state) => Some(document::read("SequenceState", Some(state)).map_err(malformed)?),
            None => None,
        };
        Ok(Cmd::OrderAnswered(OrderAnswered {
            host: self.host.clone(),
            cluster: self.cluster(&answer.cluster)?,
            number: OrderNumber(answer.number),
            token: Token(answer.token),
            accepted: answer.accepted,
            code: code(&answer.code),
            why: cut(&answer.why, WHY_MAX),
            ledger_position: answer.ledger_position,
            chain: chain(&answer.ledger_chain),
            state,
        }))
    }

    /// Reads a request for a go.
    pub(crate) fn go(&self, request: &v1::GoRequest) -> Result<go::Ask, Error> {
        if request.nodes.len() > NODES_MAX {
            return Err(Error::Malformed(format!("more than {NODES_MAX} nodes")));
        }
        Ok(go::Ask {
            cluster: self.cluster(&request.cluster)?,
            host: self.host.clone(),
            token: Token(request.token),
            request: request.request,
            nodes: request
                .nodes
                .iter()
                .map(|alias| alias.parse())
                .collect::<Result<_, _>>()
                .map_err(malformed)?,
        })
    }

    /// Reads a canary's report.
    pub(crate) fn canary(&self, report: &v1::CanaryReport) -> Result<CanaryReported, Error> {
        self.cluster(&report.cluster)?;
        let status: CanaryStatus =
            document::read("CanaryStatus", report.status.as_ref()).map_err(malformed)?;
        Ok(CanaryReported {
            rollout: RolloutId::new(report.rollout.clone()).map_err(malformed)?,
            host: self.host.clone(),
            epoch: report.epoch,
            order: OrderNumber(report.order),
            status,
        })
    }

    fn own(&self, host: &HostId) -> Result<(), Error> {
        if host == &self.host {
            Ok(())
        } else {
            Err(Error::Identity(format!("`{}` spoke for `{host}`", self.host)))
        }
    }

    fn cluster(&self, text: &str) -> Result<ClusterId, Error> {
        self.clusters.iter().find(|cluster| cluster.as_str() == text).cloned().ok_or_else(|| {
            Error::Identity(format!(
                "`{}` spoke of cluster `{}`, which its hello did not name",
                self.host,
                cut(text, 128)
            ))
        })
    }
}

/// Reads for which hosts tokens were promised away.
fn promised_for(hello: &v1::Hello) -> Result<BTreeMap<HostId, Token>, Error> {
    if hello.promised_for.len() > HELD_MAX {
        return Err(Error::Malformed(format!("promises for more than {HELD_MAX} hosts")));
    }
    let read = |said: &v1::PromisedFor| {
        Ok((HostId::new(said.host.clone()).map_err(malformed)?, Token(said.token)))
    };
    hello.promised_for.iter().map(read).collect()
}

/// A running hash has 32 characters; it is only ever compared.
pub(crate) fn chain(text: &str) -> String {
    cut(text, 64)
}

fn token(number: u64) -> Option<Token> {
    (number > 0).then_some(Token(number))
}

fn code(text: &str) -> Option<Code> {
    // A newer host agent may know codes that we do not; its words still count.
    (!text.is_empty()).then(|| Code::from_text(text).unwrap_or(Code::Internal))
}

fn cut(text: &str, max: usize) -> String {
    let end = (0..=max.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> v1::Hello {
        v1::Hello {
            agent_version: "0.1.0".to_owned(),
            wire: WIRE,
            host: "db1".to_owned(),
            clusters: vec!["trade".to_owned()],
            ledger_id: "l1".to_owned(),
            ..v1::Hello::default()
        }
    }

    fn greet(hello: &v1::Hello) -> Result<Peer, Error> {
        Peer::greet(HostId::new("db1").unwrap(), Generation(1), hello)
    }

    #[test]
    fn a_host_agent_speaks_for_its_own_host_and_clusters_only() {
        assert!(matches!(
            greet(&v1::Hello { host: "db2".to_owned(), ..hello() }),
            Err(Error::Identity(_))
        ));
        assert!(matches!(
            greet(&v1::Hello { wire: WIRE + 1, ..hello() }),
            Err(Error::Malformed(_))
        ));
        let peer = greet(&hello()).unwrap();
        let answer = v1::PromiseAnswer { cluster: "other".to_owned(), ..Default::default() };
        assert!(matches!(peer.promise(&answer), Err(Error::Identity(_))));
        let answer = v1::PromiseAnswer { cluster: "trade".to_owned(), ..Default::default() };
        assert!(peer.promise(&answer).is_ok());
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        assert_eq!(cut("äöü", 3), "ä");
        assert_eq!(cut("abc", 9), "abc");
    }
}
