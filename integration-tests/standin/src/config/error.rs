//! What can be wrong with a configuration file.

/// A configuration file that the node refuses; always names the file, and the line where there is one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The first line is blank, which the real server takes for an empty file.
    #[error(
        "failed to load the file [{file}] with error: The input file is empty. (line 1 must not be blank)"
    )]
    Empty {
        /// Name of the file.
        file: String,
    },
    /// A line that cannot be understood.
    #[error("{file}:{line}: {reason}")]
    Line {
        /// Name of the file.
        file: String,
        /// Line number, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A key that has to be there is missing.
    #[error("{file}: key `{key}` is missing")]
    MissingKey {
        /// Name of the file.
        file: String,
        /// The missing key.
        key: &'static str,
    },
    /// The file could not be read at all.
    #[error("failed to read the file [{file}]: {reason}")]
    Unreadable {
        /// Name of the file.
        file: String,
        /// The operating system's words.
        reason: String,
    },
}

impl Error {
    /// Builds a [`Error::Line`].
    pub(crate) fn line(file: &str, line: usize, reason: impl Into<String>) -> Self {
        Self::Line { file: file.to_owned(), line, reason: reason.into() }
    }
}

/// Reads a file as UTF-8 text.
pub(crate) fn read(path: &std::path::Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|error| Error::Unreadable {
        file: path.display().to_string(),
        reason: error.to_string(),
    })
}

/// Refuses a text whose first line is blank.
pub(crate) fn refuse_blank_first_line(file: &str, text: &str) -> Result<(), Error> {
    match text.lines().next() {
        Some(first) if !first.trim().is_empty() => Ok(()),
        Some(_) | None => Err(Error::Empty { file: file.to_owned() }),
    }
}
