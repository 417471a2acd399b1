//! Replies.

use tokio::io::{AsyncBufRead, AsyncWrite, AsyncWriteExt};

use super::decode::Decoder;
use super::encode::{Reader, encode};
use super::{Error, Limits, line};
use crate::value::Value;

/// Characters of an error line; official clients take 64 KiB.
const ERROR_CHARS: usize = 16_000;

/// A reply as a node got it from another node.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// The session's number.
    pub session: String,
    /// Texts printed on the way.
    pub messages: Vec<String>,
    /// The value if there is one, or the error's text.
    pub outcome: Result<Option<Value>, String>,
}

/// Returns a reply's bytes. `messages` is for clients that said `API2`: pass none to others. An
/// error is flattened to one line, because a second line desynchronises clients.
#[must_use]
pub fn encode_reply(
    session: &str,
    outcome: &Result<Option<Value>, String>,
    messages: &[String],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    for message in messages {
        bytes.extend(b"MSG\n");
        bytes.extend(message.bytes().filter(|byte| *byte != 0));
        bytes.push(0);
    }
    let object = match outcome {
        Ok(None | Some(Value::Nothing)) => Ok(None),
        Ok(Some(value)) => encode(value, Reader::Client).map(Some).map_err(|e| e.to_string()),
        Err(text) => Err(text.clone()),
    };
    match object {
        Ok(object) => {
            let count = u8::from(object.is_some());
            bytes.extend(format!("{session} {count} 1\nOK\n").into_bytes());
            bytes.extend(object.unwrap_or_default());
        }
        Err(text) => bytes.extend(format!("{session} 0 1\n{}\n", one_line(&text)).into_bytes()),
    }
    bytes
}

/// Returns an error's text as the one line the protocol has for it.
fn one_line(text: &str) -> String {
    let mut line: String = text
        .chars()
        .take(ERROR_CHARS)
        .map(|c| if matches!(c, '\n' | '\r' | '\0') { ' ' } else { c })
        .collect();
    // "OK" alone would be read as success, an empty line as nothing at all.
    if line.trim().is_empty() || line == "OK" {
        line.insert_str(0, "unknown error ");
    }
    line
}

/// Sends a reply, see [`encode_reply`].
///
/// # Errors
/// The connection's.
pub async fn write_reply<W: AsyncWrite + Unpin + Send>(
    writer: &mut W,
    session: &str,
    outcome: &Result<Option<Value>, String>,
    messages: &[String],
) -> std::io::Result<()> {
    writer.write_all(&encode_reply(session, outcome, messages)).await?;
    writer.flush().await
}

impl Reply {
    /// Reads a reply from another node.
    ///
    /// # Errors
    /// Every error means that the connection must be closed.
    pub async fn read<R: AsyncBufRead + Unpin + Send>(
        reader: &mut R,
        limits: &Limits,
    ) -> Result<Self, Error> {
        let mut messages = Vec::new();
        let header = loop {
            let line = required(line::read(reader, b'\n', limits.header_bytes).await?)?;
            if line != b"MSG" {
                break line;
            }
            let text = required(line::read(reader, 0, limits.body_bytes).await?)?;
            messages.push(String::from_utf8_lossy(&text).into_owned());
        };
        let bad = || Error::Header(line::excerpt(&header));
        let text = str::from_utf8(&header).map_err(|_| bad())?;
        let words: Vec<_> = text.split(' ').collect();
        let [session, count, endian] = words.as_slice() else { return Err(bad()) };
        let session = (*session).to_owned();
        let status = required(line::read(reader, b'\n', limits.body_bytes).await?)?;
        if status != b"OK" {
            let text = String::from_utf8_lossy(&status).into_owned();
            return Ok(Self { session, messages, outcome: Err(text) });
        }
        let value = match *count {
            "0" => None,
            "1" => Some(Decoder::new(reader, *endian == "1", limits).value().await?),
            _ => return Err(bad()),
        };
        Ok(Self { session, messages, outcome: Ok(value) })
    }
}

/// A reply never ends before it is whole.
fn required(line: Option<Vec<u8>>) -> Result<Vec<u8>, Error> {
    line.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into())
}
