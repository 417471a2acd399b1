//! Where words go: results to stdout, everything else to stderr.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::error::{Error, Exit};

/// The two ways out, and how they look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// Results are JSON.
    pub(crate) json: bool,
    /// Nothing but results and errors.
    pub(crate) quiet: bool,
    /// Stdout is a terminal.
    pub(crate) terminal: bool,
    /// Colours may be used.
    pub(crate) colour: bool,
}

impl Output {
    /// Looks at the process's surroundings.
    pub(crate) fn new(json: bool, quiet: bool) -> Self {
        let terminal = io::stdout().is_terminal();
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Self { json, quiet, terminal, colour }
    }

    /// Prints a result.
    pub(crate) fn result(self, text: &str) -> Result<(), Error> {
        write(&mut io::stdout().lock(), text)
    }

    /// Prints one document on one line.
    pub(crate) fn document<T: Serialize>(self, document: &T) -> Result<(), Error> {
        let mut line =
            serde_json::to_string(document).map_err(|e| Error::from_chain(Exit::Internal, &e))?;
        line.push('\n');
        self.result(&line)
    }

    /// Prints a result, as a document or for people.
    pub(crate) fn either<T: Serialize>(
        self,
        document: &T,
        text: impl FnOnce() -> String,
    ) -> Result<(), Error> {
        if self.json { self.document(document) } else { self.result(&text()) }
    }

    /// Prints something that is no result: on stderr, unless it is to be quiet.
    pub(crate) fn note(self, text: &str) {
        if !self.quiet {
            // Nobody can be told that stderr is gone.
            drop(writeln!(io::stderr().lock(), "{text}"));
        }
    }

    /// Tells whether a person can be asked.
    pub(crate) fn can_ask(self) -> bool {
        io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Asks and returns the answer without its end of line.
    pub(crate) fn ask(self, question: &str) -> Result<String, Error> {
        let failed = |e: io::Error| Error::from_chain(Exit::Internal, &e);
        let mut stderr = io::stderr().lock();
        write!(stderr, "{question}").and_then(|()| stderr.flush()).map_err(failed)?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).map_err(failed)?;
        Ok(answer.trim().to_owned())
    }
}

/// Prints an error.
pub(crate) fn error(error: &Error) {
    drop(write!(io::stderr().lock(), "{}", error.render()));
}

fn write(out: &mut impl Write, text: &str) -> Result<(), Error> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        // Whoever reads has seen enough (`| head`): an end like any other, without a word.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
            Err(Error { exit: Exit::Done, ..Error::usage("") })
        }
        Err(e) => Err(Error::from_chain(Exit::Internal, &e).hint("is the disk full?")),
    }
}
