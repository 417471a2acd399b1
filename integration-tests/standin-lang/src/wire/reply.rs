//! Replies.

use tokio::io::{AsyncBufRead, AsyncWrite, AsyncWriteExt};

use super::{Error, Limits};
use crate::value::Value;

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
    let _ = (outcome, messages);
    session.as_bytes().to_vec()
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
        let _ = (reader, limits);
        Err(Error::Header(String::new()))
    }
}
