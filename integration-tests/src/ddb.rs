//! A client of the database for the lab and its tests.
//!
//! It shares the wire code of the stand-in and nothing with Grayfin, so that a mistake in Grayfin's
//! client is not made here as well. A connection is used for one script and closed.

use std::time::Duration;

use anyhow::Context;
use standin_lang::value::Value;
use standin_lang::wire::{Limits, Reply};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// The administrator every cluster begins with.
pub const USER: &str = "admin";
/// Its documented first password.
pub const PASSWORD: &str = "123456";

/// For one script; everything the lab asks is answered from memory.
const LIMIT: Duration = Duration::from_secs(5);

/// One node, as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ddb {
    address: String,
    user: Option<(String, String)>,
    limit: Duration,
}

impl Ddb {
    /// A client of the node at `host:port`, logged in as the administrator.
    pub fn at(address: impl Into<String>) -> Self {
        let user = Some((USER.to_owned(), PASSWORD.to_owned()));
        Self { address: address.into(), user, limit: LIMIT }
    }

    /// The same as another user.
    #[must_use]
    pub fn as_user(mut self, user: &str, password: &str) -> Self {
        self.user = Some((user.to_owned(), password.to_owned()));
        self
    }

    /// The same without logging in.
    #[must_use]
    pub fn as_guest(mut self) -> Self {
        self.user = None;
        self
    }

    /// The same with another limit.
    #[must_use]
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The node's address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Runs a script; `None` is a script without a value.
    pub async fn run(&self, script: &str) -> anyhow::Result<Option<Value>> {
        tokio::time::timeout(self.limit, self.talk(script))
            .await
            .map_err(|_elapsed| anyhow::anyhow!("no answer in {:?}", self.limit))
            .and_then(|outcome| outcome)
            .with_context(|| format!("`{script}` on `{}`", self.address))
    }

    /// Runs a script that has a value.
    pub async fn eval(&self, script: &str) -> anyhow::Result<Value> {
        self.run(script)
            .await?
            .with_context(|| format!("`{script}` on `{}` has no value", self.address))
    }

    /// Runs a script whose value is one text.
    pub async fn text(&self, script: &str) -> anyhow::Result<String> {
        let value = self.eval(script).await?;
        let text = value.as_str().with_context(|| format!("`{script}` is no text: {value:?}"))?;
        Ok(text.to_owned())
    }

    /// Runs a script whose value is one number.
    pub async fn number(&self, script: &str) -> anyhow::Result<i64> {
        let value = self.eval(script).await?;
        value.as_i64().with_context(|| format!("`{script}` is no number: {value:?}"))
    }

    /// Runs a script whose value is a vector of texts.
    pub async fn texts(&self, script: &str) -> anyhow::Result<Vec<String>> {
        let value = self.eval(script).await?;
        value.to_texts().with_context(|| format!("`{script}` is no vector of texts: {value:?}"))
    }

    async fn talk(&self, script: &str) -> anyhow::Result<Option<Value>> {
        let stream = TcpStream::connect(&self.address).await.context("connect")?;
        stream.set_nodelay(true)?;
        let mut stream = BufReader::new(stream);
        let connect = match &self.user {
            None => "connect\n".to_owned(),
            Some((user, password)) => format!("connect\nlogin\n{user}\n{password}\nfalse"),
        };
        let session = exchange(&mut stream, "API", "0", &connect).await?.0;
        exchange(&mut stream, "API2", &session, &format!("script\n{script}"))
            .await
            .map(|(_, value)| value)
    }
}

/// Sends one body; returns the session and the value.
async fn exchange(
    stream: &mut BufReader<TcpStream>,
    word: &str,
    session: &str,
    body: &str,
) -> anyhow::Result<(String, Option<Value>)> {
    // Urgent (1), an API client (32), priority 8: a probe must not wait behind busy workers.
    let request = format!("{word} {session} {} / 33_1_8_2\n{body}", body.len());
    stream.write_all(request.as_bytes()).await?;
    let reply = Reply::read(stream, &Limits::default()).await?;
    match reply.outcome {
        Ok(value) => Ok((reply.session, value)),
        Err(words) => anyhow::bail!("{words}"),
    }
}
