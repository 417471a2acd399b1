//! Talking to the coordinators: whoever leads is found, and a request that may have been lost is
//! sent again with the same id.

use std::{future::Future, sync::Mutex, time::Duration};

use grayfin_proto::{
    MESSAGE_MAX, document, tls,
    v1::{Document, operator_client::OperatorClient},
};
use grayfin_types::Code;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Response, Status, transport::Channel};

use super::{
    args::Common,
    error::{Error, Exit},
};
use crate::server::status::{CODE, LEADER, STALE};

/// A failover takes 1 to 3 s with the default timing; five of them are enough patience.
const PATIENCE: Duration = Duration::from_secs(20);

/// Between two rounds over all coordinators.
const ROUND: Duration = Duration::from_millis(300);

/// Coordinators tell of each other; a group of more is none of ours.
const LEARNED_MAX: usize = 16;

/// The service's client.
pub(crate) type Operator = OperatorClient<Channel>;

/// The coordinators, as the command line names them.
#[derive(Debug)]
pub(crate) struct Client {
    files: tls::Files,
    addresses: Vec<String>,
    /// What coordinators told of each other.
    learned: Mutex<Vec<String>>,
    /// Who answered last, or was named as the leader.
    preferred: Mutex<String>,
}

/// What an attempt came to.
enum Attempt<T> {
    Answer(T),
    /// An answer that may be old: another coordinator may know more.
    Old(T),
    /// Another coordinator leads; perhaps it is known where.
    Elsewhere(Option<String>),
    /// No answer: the outcome is unknown, and may be asked for again.
    Lost(String),
    /// An answer that stays the same.
    Refused(Error),
}

impl Client {
    /// Checks what the command line and the environment say.
    pub(crate) fn new(common: &Common) -> Result<Self, Error> {
        let addresses: Vec<String> = common
            .coordinators
            .iter()
            .map(|address| address.trim().to_owned())
            .filter(|address| !address.is_empty())
            .collect();
        let Some(first) = addresses.first().cloned() else {
            return Err(missing("--coordinators", "GRAYFIN_COORDINATORS"));
        };
        let files = tls::Files {
            ca: common.ca.clone().ok_or_else(|| missing("--ca", "GRAYFIN_CA"))?,
            cert: common.cert.clone().ok_or_else(|| missing("--cert", "GRAYFIN_CERT"))?,
            key: common.key.clone().ok_or_else(|| missing("--key", "GRAYFIN_KEY"))?,
        };
        files.own_identity().map_err(|e| {
            Error::from_chain(Exit::Usage, &e).hint("`grayfin pki issue` makes one")
        })?;
        Ok(Self { files, addresses, learned: Mutex::default(), preferred: Mutex::new(first) })
    }

    /// Calls whoever leads, each attempt with a limit, until an answer is there.
    pub(crate) async fn call<T, F>(
        &self,
        limit: Duration,
        call: impl Fn(Operator) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let ends = Instant::now() + PATIENCE.max(limit);
        let mut lost: Vec<(String, String)> = Vec::new();
        loop {
            let mut queue = self.in_order();
            lost.clear();
            let mut old = None;
            while !queue.is_empty() {
                let address = queue.remove(0);
                match self.attempt(&address, limit, &call).await {
                    Attempt::Answer(answer) => {
                        self.prefer(&address);
                        return Ok(answer);
                    }
                    Attempt::Old(answer) => {
                        old.get_or_insert(answer);
                    }
                    Attempt::Refused(error) => return Err(error),
                    Attempt::Elsewhere(leader) => {
                        lost.push((address, "does not lead".to_owned()));
                        if let Some(leader) = leader
                            && !lost.iter().any(|(tried, _)| *tried == leader)
                        {
                            queue.retain(|a| *a != leader);
                            queue.insert(0, leader);
                        }
                    }
                    Attempt::Lost(why) => lost.push((address, why)),
                }
            }
            if let Some(answer) = old {
                return Ok(answer);
            }
            if Instant::now() >= ends {
                return Err(unreachable(&lost));
            }
            sleep(ROUND).await;
        }
    }

    /// Calls and reads the document that comes back.
    pub(crate) async fn document<T, F>(
        &self,
        what: &'static str,
        limit: Duration,
        call: impl Fn(Operator) -> F,
    ) -> Result<T, Error>
    where
        T: DeserializeOwned,
        F: Future<Output = Result<Response<Document>, Status>>,
    {
        let answer = self.call(limit, call).await?;
        document::read(what, Some(&answer)).map_err(|e| Error::from_chain(Exit::Internal, &e))
    }

    /// Returns the coordinators to try, the preferred one first.
    pub(crate) fn in_order(&self) -> Vec<String> {
        let preferred = self.preferred.lock().map(|p| p.clone()).unwrap_or_default();
        let mut all = vec![preferred.clone()];
        all.extend(self.addresses.iter().filter(|a| **a != preferred).cloned());
        let learned = self.learned.lock().map(|l| l.clone()).unwrap_or_default();
        all.extend(learned.into_iter().filter(|a| *a != preferred));
        all
    }

    /// Remembers coordinators beyond those that were named.
    pub(crate) fn learn(&self, addresses: impl IntoIterator<Item = String>) {
        if let Ok(mut learned) = self.learned.lock() {
            for address in addresses {
                let known = self.addresses.contains(&address) || learned.contains(&address);
                if !known && learned.len() < LEARNED_MAX {
                    learned.push(address);
                }
            }
        }
    }

    /// Makes a client for one coordinator.
    pub(crate) fn to(&self, address: &str) -> Result<Operator, Error> {
        let channel =
            self.files.channel(address).map_err(|e| Error::from_chain(Exit::Usage, &e))?;
        Ok(OperatorClient::new(channel).max_decoding_message_size(MESSAGE_MAX))
    }

    fn prefer(&self, address: &str) {
        if let Ok(mut preferred) = self.preferred.lock() {
            address.clone_into(&mut preferred);
        }
    }

    async fn attempt<T, F>(
        &self,
        address: &str,
        limit: Duration,
        call: &impl Fn(Operator) -> F,
    ) -> Attempt<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let operator = match self.to(address) {
            Ok(operator) => operator,
            Err(error) => return Attempt::Refused(error),
        };
        match timeout(limit, call(operator)).await {
            Err(_) => Attempt::Lost(format!("no answer in {} s", limit.as_secs())),
            Ok(Ok(response)) if response.metadata().contains_key(STALE) => {
                Attempt::Old(response.into_inner())
            }
            Ok(Ok(response)) => Attempt::Answer(response.into_inner()),
            Ok(Err(status)) => judge(&status),
        }
    }
}

/// Sorts a status that is no answer.
fn judge<T>(status: &Status) -> Attempt<T> {
    match code_of(status) {
        Some(Code::NotLeader) => {
            let leader = status.metadata().get(LEADER).and_then(|v| v.to_str().ok());
            Attempt::Elsewhere(leader.map(str::to_owned))
        }
        Some(Code::NoQuorum) => Attempt::Lost(words(status)),
        Some(code) => Attempt::Refused(Error::refused(code, words(status))),
        None => match status.code() {
            tonic::Code::Unavailable
            | tonic::Code::Unknown
            | tonic::Code::Cancelled
            | tonic::Code::DeadlineExceeded
            | tonic::Code::Aborted => Attempt::Lost(chain(status)),
            tonic::Code::PermissionDenied | tonic::Code::Unauthenticated => {
                Attempt::Refused(Error::refused(Code::NotAllowed, words(status)))
            }
            tonic::Code::Ok
            | tonic::Code::InvalidArgument
            | tonic::Code::NotFound
            | tonic::Code::AlreadyExists
            | tonic::Code::ResourceExhausted
            | tonic::Code::FailedPrecondition
            | tonic::Code::OutOfRange
            | tonic::Code::Unimplemented
            | tonic::Code::Internal
            | tonic::Code::DataLoss => {
                Attempt::Refused(Error::refused(Code::Internal, words(status)))
            }
        },
    }
}

/// Returns the error code that a status carries.
pub(crate) fn code_of(status: &Status) -> Option<Code> {
    status.metadata().get(CODE).and_then(|v| v.to_str().ok()).and_then(Code::from_text)
}

/// Returns a status's words without the code in front, which is printed anyway.
fn words(status: &Status) -> String {
    let text = status.message();
    match text.split_once(": ") {
        Some((code, rest)) if Code::from_text(code).is_some() => rest.to_owned(),
        _ => text.to_owned(),
    }
}

/// Returns a status's words with their causes: a refused connection hides behind "transport error".
pub(crate) fn chain(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

fn missing(flag: &str, variable: &str) -> Error {
    Error::usage(format!("`{flag}` is missing"))
        .hint(format!("give `{flag}`, or set `{variable}`; `grayfin --help` lists all"))
}

fn unreachable(lost: &[(String, String)]) -> Error {
    let mut error = Error::refused(Code::Unreachable, "no coordinator that leads could be reached");
    for (address, why) in lost {
        error = error.cause(format!("`{address}`: {why}"));
    }
    error
        .hint("is a majority of the coordinators running? `grayfin coordinators` asks each of them")
}

#[cfg(test)]
mod tests {
    use tonic::metadata::MetadataValue;

    use super::*;

    fn with_code(code: Code, kind: tonic::Code) -> Status {
        let mut status = Status::new(kind, format!("{code}: words"));
        status.metadata_mut().insert(CODE, MetadataValue::from_static(code.as_str()));
        status
    }

    #[test]
    fn a_follower_sends_us_to_the_leader() {
        let mut status = with_code(Code::NotLeader, tonic::Code::FailedPrecondition);
        status.metadata_mut().insert(LEADER, MetadataValue::from_static("h:1"));
        assert!(
            matches!(judge::<()>(&status), Attempt::Elsewhere(Some(leader)) if leader == "h:1")
        );
    }

    #[test]
    fn an_outcome_that_is_unknown_is_asked_for_again_and_a_refusal_is_not() {
        let lost = with_code(Code::NoQuorum, tonic::Code::DeadlineExceeded);
        assert!(matches!(judge::<()>(&lost), Attempt::Lost(_)));
        assert!(matches!(judge::<()>(&Status::unavailable("x")), Attempt::Lost(_)));
        let refused = with_code(Code::NoSuchObject, tonic::Code::NotFound);
        assert!(matches!(
            judge::<()>(&refused),
            Attempt::Refused(e) if e.code == Some(Code::NoSuchObject) && e.message == "words"
        ));
        let internal = Status::internal("x");
        assert!(matches!(judge::<()>(&internal), Attempt::Refused(e) if e.exit == Exit::Internal));
    }
}
