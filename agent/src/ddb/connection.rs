//! One connection to a node.

use std::fmt;
use std::io;
use std::time::Duration;

use tokio::io::{
    AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, ReadHalf, WriteHalf,
};
use tokio::net::TcpStream;

use super::decode::{Decoder, Fault};
use super::encode;
use super::error::{Endpoint, Error, Tag, means_wrong_credentials};
use super::tls::Tls;
use super::value::Value;

/// The longest session id that is believed; servers send decimal numbers.
const SESSION_BYTES: usize = 64;
/// Messages in front of one reply; a script of ours prints nothing.
const MESSAGES: usize = 10_000;
/// Flags of a request: an API client.
const FLAG_CLIENT: u32 = 32;
/// Urgent: goes past busy workers.
const FLAG_URGENT: u32 = 1;
/// Clears the session's variables afterwards.
const FLAG_CLEAR: u32 = 16;

/// What a reply may cost.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of a header line.
    pub header_bytes: usize,
    /// Bytes of an error line.
    pub error_bytes: usize,
    /// Bytes of memory for one reply's objects.
    pub reply_bytes: usize,
    /// Nested objects.
    pub depth: usize,
    /// Columns of a table.
    pub columns: usize,
}

impl Default for Limits {
    /// A look at 10,000 nodes, or a page of 50,000 chunk groups, is below 16 MiB.
    fn default() -> Self {
        Self {
            header_bytes: 4096,
            error_bytes: 64 * 1024,
            reply_bytes: 16 << 20,
            depth: 16,
            columns: 4096,
        }
    }
}

/// A user name with its password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user name.
    pub user: String,
    /// The password.
    password: String,
}

impl Login {
    /// Keeps a user name with its password.
    pub fn new(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self { user: user.into(), password: password.into() }
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// How a call is made.
#[derive(Debug, Clone)]
pub struct Call {
    /// The answer must be there in this time.
    pub deadline: Duration,
    /// Goes past busy workers: for probes.
    pub urgent: bool,
    /// The session's variables are dropped afterwards.
    pub clear: bool,
    /// What the reply may cost.
    pub limits: Limits,
}

impl Call {
    /// An ordinary call.
    pub fn plain(deadline: Duration) -> Self {
        Self { deadline, urgent: false, clear: false, limits: Limits::default() }
    }

    /// A probe, which a busy node answers too.
    pub fn urgent(deadline: Duration) -> Self {
        Self { urgent: true, ..Self::plain(deadline) }
    }

    /// The three words after the slash: flags, cancellable, priority, parallelism.
    fn properties(&self) -> String {
        let flags = FLAG_CLIENT
            | if self.urgent { FLAG_URGENT } else { 0 }
            | if self.clear { FLAG_CLEAR } else { 0 };
        let priority = if self.urgent { 8 } else { 4 };
        format!("{flags}_1_{priority}_2")
    }
}

/// A byte stream: TCP, TLS, or a test's pipe.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// One connection. It is used by one call at a time, and not at all after an error that is not the
/// server's, nor after a call whose future was dropped: the next answer on the stream would be the
/// wrong one.
pub struct Connection {
    endpoint: Endpoint,
    reader: BufReader<ReadHalf<Box<dyn Stream>>>,
    writer: WriteHalf<Box<dyn Stream>>,
    session: String,
    /// False while a call is under way and after anything but an answer.
    usable: bool,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("endpoint", &self.endpoint)
            .field("usable", &self.usable)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Connects, and logs in if a login is given. Everything together has `deadline`.
    pub async fn open(
        endpoint: &Endpoint,
        login: Option<&Login>,
        tls: Option<&Tls>,
        deadline: Duration,
    ) -> Result<Self, Error> {
        let timeout = |what| Error::Timeout { endpoint: endpoint.clone(), what, after: deadline };
        let until = tokio::time::Instant::now() + deadline;
        let stream = tokio::time::timeout_at(until, Self::dial(endpoint, tls))
            .await
            .map_err(|_| timeout("accept a connection"))??;
        tokio::time::timeout_at(until, Self::greet(endpoint, stream, login))
            .await
            .map_err(|_| timeout("answer the login"))?
    }

    /// Makes the byte stream.
    async fn dial(endpoint: &Endpoint, tls: Option<&Tls>) -> Result<Box<dyn Stream>, Error> {
        let io = |what, source| Error::Io { endpoint: endpoint.clone(), what, source };
        let tcp = TcpStream::connect((endpoint.host.as_str(), endpoint.port))
            .await
            .map_err(|error| io("connect to", error))?;
        tcp.set_nodelay(true).map_err(|error| io("connect to", error))?;
        let Some(tls) = tls else { return Ok(Box::new(tcp)) };
        let name = tls.name_of(&endpoint.host).ok_or_else(|| Error::Request {
            endpoint: endpoint.clone(),
            what: "its address is no name that a certificate can carry",
        })?;
        let stream =
            tls.connector.connect(name, tcp).await.map_err(|error| io("start TLS with", error))?;
        Ok(Box::new(stream))
    }

    /// Sends the connect request over a stream and reads its answer.
    pub(super) async fn greet(
        endpoint: &Endpoint,
        stream: Box<dyn Stream>,
        login: Option<&Login>,
    ) -> Result<Self, Error> {
        let (reader, writer) = tokio::io::split(stream);
        let mut connection = Self {
            endpoint: endpoint.clone(),
            reader: BufReader::new(reader),
            writer,
            session: "0".to_owned(),
            usable: false,
        };
        let mut body = "connect\n".to_owned();
        if let Some(Login { user, password }) = login {
            if [user, password].iter().any(|text| text.contains(['\n', '\0'])) {
                let what = "a user name or password with a line break";
                return Err(Error::Request { endpoint: endpoint.clone(), what });
            }
            body = format!("connect\nlogin\n{user}\n{password}\nfalse");
        }
        let limits = Limits::default();
        let request = format!("API 0 {} / {FLAG_CLIENT}_1_4_2\n{body}", body.len());
        connection.send(request.as_bytes()).await?;
        match (connection.reply(&limits, true).await, login) {
            (Ok(value), login) => {
                let refused = value.boolean() == Some(false);
                if let (true, Some(login)) = (refused, login) {
                    return Err(connection.refused(login, "the node answered `false`"));
                }
                connection.usable = true;
                Ok(connection)
            }
            (Err(Error::Server { text, .. }), Some(login)) if means_wrong_credentials(&text) => {
                Err(connection.refused(login, &text))
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Words a refused login; the password must never show, even if a node repeats it.
    fn refused(&self, login: &Login, text: &str) -> Error {
        let text = if login.password.is_empty() {
            text.to_owned()
        } else {
            text.replace(&login.password, "***")
        };
        Error::Refused { endpoint: self.endpoint.clone(), user: login.user.clone(), text }
    }

    /// Returns where it goes.
    pub const fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Tells whether another call can be made.
    pub const fn is_usable(&self) -> bool {
        self.usable
    }

    /// Runs a script and returns its last value.
    pub async fn script(&mut self, source: &str, call: &Call) -> Result<Value, Error> {
        let body = format!("script\n{source}");
        self.request(&body, &[], call).await
    }

    /// Calls a function.
    pub async fn function(
        &mut self,
        name: &str,
        arguments: &[Value],
        call: &Call,
    ) -> Result<Value, Error> {
        let mut encoded = Vec::new();
        for argument in arguments {
            encode::value(&mut encoded, argument)
                .map_err(|what| Error::Request { endpoint: self.endpoint.clone(), what })?;
        }
        let body = format!("function\n{name}\n{}\n1", arguments.len());
        self.request(&body, &encoded, call).await
    }

    /// Sends a request and reads its reply, within the deadline.
    async fn request(&mut self, body: &str, tail: &[u8], call: &Call) -> Result<Value, Error> {
        if !self.usable {
            return Err(Error::Closed { endpoint: self.endpoint.clone() });
        }
        let head = format!("API {} {} / {}\n{body}", self.session, body.len(), call.properties());
        let mut request = head.into_bytes();
        request.extend_from_slice(tail);
        // From here on until an answer is read the connection counts as broken: if this future is
        // dropped, the answer is still on its way.
        self.usable = false;
        let exchange = async {
            self.send(&request).await?;
            self.reply(&call.limits, false).await
        };
        let answer = match tokio::time::timeout(call.deadline, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Timeout {
                endpoint: self.endpoint.clone(),
                what: "answer",
                after: call.deadline,
            }),
        };
        self.usable = match &answer {
            Ok(_) => true,
            Err(error) => error.is_server(),
        };
        answer
    }

    /// Writes all bytes.
    async fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let written = async {
            self.writer.write_all(bytes).await?;
            self.writer.flush().await
        };
        written.await.map_err(|error| self.io("write to", error))
    }

    /// Reads one reply.
    async fn reply(&mut self, limits: &Limits, connecting: bool) -> Result<Value, Error> {
        let header = self.header(limits).await?;
        let mut words = header.split(' ');
        let (session, objects, endian) = (words.next(), words.next(), words.next());
        let (Some(session), Some(objects), Some(endian), None) =
            (session, objects, endian, words.next())
        else {
            return Err(self.protocol(format!("header `{}`", shown(&header))));
        };
        let good = !session.is_empty()
            && session.len() <= SESSION_BYTES
            && session.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        let little = match endian {
            "1" => true,
            "0" => false,
            _ => return Err(self.protocol(format!("header `{}`", shown(&header)))),
        };
        if !good {
            return Err(self.protocol("a session id of strange characters".to_owned()));
        }
        if connecting {
            session.clone_into(&mut self.session);
        }
        let status = self.line(limits.error_bytes, "an error line").await?;
        if status.trim_end_matches('\r') != "OK" {
            let text = status.trim_end_matches('\r').to_owned();
            let tag = Tag::parse(&text);
            return Err(Error::Server { endpoint: self.endpoint.clone(), text, tag });
        }
        match objects {
            "0" => Ok(Value::Nothing),
            "1" => {
                let read = Decoder::new(&mut self.reader, little, limits).object(0).await;
                read.map_err(|fault| match fault {
                    Fault::Io(error) => self.io("read from", error),
                    Fault::Bad(what) => self.protocol(what),
                })
            }
            other => Err(self.protocol(format!("`{}` objects", shown(other)))),
        }
    }

    /// Reads the header line, past any messages.
    async fn header(&mut self, limits: &Limits) -> Result<String, Error> {
        let mut left = limits.reply_bytes;
        for _ in 0..MESSAGES {
            let line = self.line(limits.header_bytes, "a header").await?;
            if line != "MSG" {
                return Ok(line);
            }
            left = self.skip_message(left).await?;
        }
        Err(self.protocol(format!("more than {MESSAGES} messages")))
    }

    /// Skips a printed text up to its NUL; returns what is left of `left` bytes.
    async fn skip_message(&mut self, mut left: usize) -> Result<usize, Error> {
        loop {
            let arrived = match self.reader.fill_buf().await {
                Ok([]) => return Err(self.io("read from", io::ErrorKind::UnexpectedEof.into())),
                Ok(arrived) => arrived,
                Err(error) => return Err(self.io("read from", error)),
            };
            let end = arrived.iter().position(|&byte| byte == 0);
            let taken = end.map_or(arrived.len(), |end| end + 1);
            self.reader.consume(taken);
            match left.checked_sub(taken) {
                Some(rest) if end.is_some() => return Ok(rest),
                Some(rest) => left = rest,
                None => return Err(self.protocol("messages without end".to_owned())),
            }
        }
    }

    /// Reads a line of at most `limit` bytes, without its end.
    async fn line(&mut self, limit: usize, what: &str) -> Result<String, Error> {
        let mut bytes = Vec::new();
        loop {
            let arrived = match self.reader.fill_buf().await {
                Ok([]) => return Err(self.io("read from", io::ErrorKind::UnexpectedEof.into())),
                Ok(arrived) => arrived,
                Err(error) => return Err(self.io("read from", error)),
            };
            let end = arrived.iter().position(|&byte| byte == b'\n');
            let part = arrived.get(..end.unwrap_or(arrived.len())).unwrap_or_default();
            if bytes.len() + part.len() > limit {
                return Err(self.protocol(format!("{what} of more than {limit} bytes")));
            }
            bytes.extend_from_slice(part);
            let taken = part.len() + usize::from(end.is_some());
            self.reader.consume(taken);
            if end.is_some() {
                return Ok(String::from_utf8_lossy(&bytes).into_owned());
            }
        }
    }

    /// Words a broken stream.
    fn io(&self, what: &'static str, source: io::Error) -> Error {
        Error::Io { endpoint: self.endpoint.clone(), what, source }
    }

    /// Words a broken reply.
    fn protocol(&self, what: String) -> Error {
        Error::Protocol { endpoint: self.endpoint.clone(), what }
    }
}

/// The beginning of a text from outside, for an error message.
fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_default).collect()
}
