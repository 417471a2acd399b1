//! Lines of bounded length.

use tokio::io::{AsyncBufRead, AsyncBufReadExt};

use super::Error;

/// Reads up to and without the next `end` byte; `None` if the stream ended before the first byte.
pub(super) async fn read<R: AsyncBufRead + Unpin + Send>(
    reader: &mut R,
    end: u8,
    limit: usize,
) -> Result<Option<Vec<u8>>, Error> {
    let mut line = Vec::new();
    loop {
        let available = reader.fill_buf().await?;
        if available.is_empty() {
            if line.is_empty() {
                return Ok(None);
            }
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        let found = available.iter().position(|byte| *byte == end);
        let part = found.and_then(|place| available.get(..place)).unwrap_or(available);
        let used = part.len();
        if line.len() + used > limit {
            let size = (line.len() + used) as u64;
            return Err(Error::Limit { what: "line", size, limit });
        }
        line.extend_from_slice(part);
        reader.consume(used + usize::from(found.is_some()));
        if found.is_some() {
            return Ok(Some(line));
        }
    }
}

/// Returns the start of a line for an error message: printable and short.
pub(super) fn excerpt(line: &[u8]) -> String {
    let start = line.iter().take(80).flat_map(|byte| std::ascii::escape_default(*byte));
    start.map(char::from).collect()
}
