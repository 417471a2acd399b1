//! Requests.

use std::fmt;

use tokio::io::{AsyncBufRead, AsyncReadExt};

use super::decode::Decoder;
use super::encode::{Reader, encode};
use super::{Error, Limits, line};
use crate::value::Value;

/// A request as a client sent it.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The client said `API2`: it takes `MSG` frames before the reply.
    pub api2: bool,
    /// The session the client names; `0` in its first request.
    pub session: String,
    /// The flag bits.
    pub flags: Flags,
    /// Its priority, if it gave one.
    pub priority: Option<i64>,
    /// The client's own id, sent by clients in high-availability mode.
    pub client_id: Option<String>,
    /// The number of the request with that client; negative if it is sent again.
    pub seq_no: Option<i64>,
    /// What is asked.
    pub body: Body,
}

/// What a request asks.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// The first request of a connection.
    Connect {
        /// Name and password, if the client logs in with it.
        login: Option<Credentials>,
    },
    /// A script to run.
    Script(String),
    /// A function to call.
    Function {
        /// Its name, or an expression that gives a function.
        name: String,
        /// The arguments.
        args: Vec<Value>,
    },
    /// Variables to set.
    Variable {
        /// The names.
        names: Vec<String>,
        /// As many values.
        values: Vec<Value>,
    },
}

/// Name and password of a login; `Debug` does not show the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name.
    pub user: String,
    /// The password.
    pub password: String,
    /// Both are encrypted with the node's public key.
    pub encrypted: bool,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .field("encrypted", &self.encrypted)
            .finish_non_exhaustive()
    }
}

/// The flag bits of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u64);

impl Flags {
    /// Do not wait behind other work.
    pub const URGENT: u64 = 1;
    /// No reply is wanted.
    pub const ASYNCHRONOUS: u64 = 4;
    /// Python's pickle would be welcome; the plain format is fine too.
    pub const PICKLE: u64 = 8;
    /// Forget the session's variables afterwards.
    pub const CLEAR_MEMORY: u64 = 16;
    /// Tables may come and go with compressed columns.
    pub const COMPRESS: u64 = 64;

    /// Tells whether all of these bits are set.
    #[must_use]
    pub const fn has(self, bits: u64) -> bool {
        self.0 & bits == bits
    }
}

impl Request {
    /// Tells whether the client waits for a reply: always after `connect`, otherwise unless it
    /// said that it does not.
    #[must_use]
    pub const fn wants_reply(&self) -> bool {
        matches!(self.body, Body::Connect { .. }) || !self.flags.has(Flags::ASYNCHRONOUS)
    }

    /// Reads the next request; `None` if the connection ended between two.
    ///
    /// # Errors
    /// Every error means that the connection must be closed.
    pub async fn read<R: AsyncBufRead + Unpin + Send>(
        reader: &mut R,
        limits: &Limits,
    ) -> Result<Option<Self>, Error> {
        let Some(line) = line::read(reader, b'\n', limits.header_bytes).await? else {
            return Ok(None);
        };
        let header = Header::parse(&line).ok_or_else(|| Error::Header(line::excerpt(&line)))?;
        if header.body_bytes > limits.body_bytes {
            let (size, limit) = (header.body_bytes as u64, limits.body_bytes);
            return Err(Error::Limit { what: "request body", size, limit });
        }
        let mut body = vec![0; header.body_bytes];
        reader.read_exact(&mut body).await?;
        let body = match String::from_utf8(body) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        };
        let body = read_body(reader, &body, limits).await?;
        Ok(Some(Self { body, ..header.request }))
    }

    /// Returns a request of the plain kind that nodes send each other.
    #[must_use]
    pub fn plain(session: impl Into<String>, body: Body) -> Self {
        Self {
            api2: true,
            session: session.into(),
            flags: Flags::default(),
            priority: None,
            client_id: None,
            seq_no: None,
            body,
        }
    }

    /// Returns the bytes of the request. Functions among the arguments keep their bound
    /// arguments, so only another stand-in can read those.
    ///
    /// # Errors
    /// `Unsendable` for arguments without a form.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let (body, values): (String, &[Value]) = match &self.body {
            Body::Connect { login: None } => ("connect\n".to_owned(), &[]),
            Body::Connect { login: Some(login) } => {
                let Credentials { user, password, encrypted } = login;
                (format!("connect\nlogin\n{user}\n{password}\n{encrypted}"), &[])
            }
            Body::Script(source) => (format!("script\n{source}"), &[]),
            Body::Function { name, args } => (format!("function\n{name}\n{}\n1", args.len()), args),
            Body::Variable { names, values } => {
                (format!("variable\n{}\n{}\n1", names.join(","), values.len()), values)
            }
        };
        let api = if self.api2 { "API2" } else { "API" };
        let priority = self.priority.unwrap_or(4);
        let mut head =
            format!("{api} {} {} / {}_1_{priority}_64", self.session, body.len(), self.flags.0);
        if let (Some(client), Some(number)) = (&self.client_id, self.seq_no) {
            head.push_str(&format!("__0__{client}_{number}"));
        }
        let mut bytes = format!("{head}\n{body}").into_bytes();
        for value in values {
            bytes.extend(encode(value, Reader::Node)?);
        }
        Ok(bytes)
    }
}

/// The first line of a request.
struct Header {
    request: Request,
    body_bytes: usize,
}

impl Header {
    /// Reads `API|API2 SP session SP length [SP / SP properties]`.
    fn parse(line: &[u8]) -> Option<Self> {
        let line = str::from_utf8(line).ok()?;
        let mut words = line.split(' ');
        let api2 = match words.next()? {
            "API" => false,
            "API2" => true,
            _ => return None,
        };
        let session = words.next()?;
        let body_bytes = words.next()?.parse().ok()?;
        let properties = match (words.next(), words.next(), words.next()) {
            (None, None, None) => "",
            (Some("/"), Some(properties), None) => properties,
            _ => return None,
        };
        let printable = session.bytes().all(|byte| byte.is_ascii_graphic());
        if session.is_empty() || !printable {
            return None;
        }
        // flag_cancellable_priority_parallelism_rootId_fetchSize_offset_clientId_seqNo
        let properties: Vec<_> = properties.split('_').collect();
        let property = |place: usize| properties.get(place).copied().filter(|p| !p.is_empty());
        let request = Request {
            api2,
            session: session.to_owned(),
            flags: Flags(property(0).map_or(Some(0), |flags| flags.parse().ok())?),
            priority: property(2).and_then(|priority| priority.parse().ok()),
            client_id: property(7).map(str::to_owned),
            seq_no: property(8).and_then(|number| number.parse().ok()),
            body: Body::Connect { login: None },
        };
        Some(Self { request, body_bytes })
    }
}

/// Reads a body's text, and the arguments that follow it on the stream.
async fn read_body<R: AsyncBufRead + Unpin + Send>(
    reader: &mut R,
    body: &str,
    limits: &Limits,
) -> Result<Body, Error> {
    let (command, rest) = body.split_once('\n').unwrap_or((body, ""));
    match command {
        "connect" => Ok(Body::Connect { login: login(rest)? }),
        "script" => Ok(Body::Script(rest.to_owned())),
        "function" => {
            let (name, values) = arguments(reader, rest, limits).await?;
            Ok(Body::Function { name: name.to_owned(), args: values })
        }
        "variable" => {
            let (names, values) = arguments(reader, rest, limits).await?;
            let names: Vec<_> = names.split(',').map(|name| name.trim().to_owned()).collect();
            if names.len() != values.len() {
                let (names, values) = (names.len(), values.len());
                return Err(Error::Body(format!("{names} names for {values} values")));
            }
            Ok(Body::Variable { names, values })
        }
        _ => Err(Error::Body(format!("unknown command `{}`", line::excerpt(command.as_bytes())))),
    }
}

/// Reads what follows `connect`: nothing, or `login`, user, password and perhaps a flag.
fn login(rest: &str) -> Result<Option<Credentials>, Error> {
    if rest.is_empty() {
        return Ok(None);
    }
    let mut lines = rest.split('\n');
    match (lines.next(), lines.next(), lines.next()) {
        (Some("login"), Some(user), Some(password)) => Ok(Some(Credentials {
            user: user.to_owned(),
            password: password.to_owned(),
            encrypted: lines.next() == Some("true"),
        })),
        // The line is not shown: it may hold a password.
        _ => Err(Error::Body("a connect that is no login".to_owned())),
    }
}

/// Reads `name LF count LF endian [LF]` and then so many objects.
async fn arguments<'t, R: AsyncBufRead + Unpin + Send>(
    reader: &mut R,
    text: &'t str,
    limits: &Limits,
) -> Result<(&'t str, Vec<Value>), Error> {
    let bad = || Error::Body(format!("`{}`", line::excerpt(text.as_bytes())));
    let mut lines = text.strip_suffix('\n').unwrap_or(text).rsplitn(3, '\n');
    let (Some(endian), Some(count), Some(name)) = (lines.next(), lines.next(), lines.next()) else {
        return Err(bad());
    };
    let little_endian = match endian {
        "1" => true,
        "0" => false,
        _ => return Err(bad()),
    };
    let count: usize = count.parse().map_err(|_| bad())?;
    if count > limits.arguments {
        let (size, limit) = (count as u64, limits.arguments);
        return Err(Error::Limit { what: "arguments", size, limit });
    }
    let mut decoder = Decoder::new(reader, little_endian, limits);
    let mut values = Vec::with_capacity(count);
    for _ in 0..count {
        values.push(decoder.value().await?);
    }
    Ok((name, values))
}
