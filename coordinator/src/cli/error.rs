//! What goes wrong, as a person sees it: `error:`, `cause:`, `hint:`, and an exit code.

use std::process::ExitCode;

use grayfin_types::{Code, gate::Reason};

/// How a run ended; the number is the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done = 0,
    /// Refused or failed for a reason that the operator can act on.
    Refused = 1,
    /// Bad command line or configuration.
    Usage = 2,
    /// Held: it waits, nothing is wrong.
    Held = 3,
    /// This coordinator was removed from its group: starting it again is of no use.
    Removed = 4,
    /// A fault of ours.
    Internal = 70,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error with everything that is printed about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Error {
    /// The exit code.
    pub(crate) exit: Exit,
    /// The error code, if it has a page.
    pub(crate) code: Option<Code>,
    /// What failed, and on what.
    pub(crate) message: String,
    /// Why, outermost first.
    pub(crate) causes: Vec<String>,
    /// What to do, with the exact command where there is one.
    pub(crate) hints: Vec<String>,
}

impl Error {
    /// Makes an error that the operator can act on.
    pub(crate) fn refused(code: Code, message: impl Into<String>) -> Self {
        let exit = if code == Code::Internal { Exit::Internal } else { Exit::Refused };
        Self {
            exit,
            code: Some(code),
            message: message.into(),
            causes: Vec::new(),
            hints: Vec::new(),
        }
    }

    /// Makes an error about the command line or a file that it names.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::Usage,
            code: None,
            message: message.into(),
            causes: Vec::new(),
            hints: Vec::new(),
        }
    }

    /// Makes an error from a source with its chain of causes.
    pub(crate) fn from_chain(exit: Exit, error: &dyn std::error::Error) -> Self {
        let mut causes = Vec::new();
        let mut source = error.source();
        while let Some(cause) = source {
            causes.push(cause.to_string());
            source = cause.source();
        }
        Self { exit, code: None, message: error.to_string(), causes, hints: Vec::new() }
    }

    /// Makes an error from reasons of gates: their evidence is the cause, their remedies the hints.
    pub(crate) fn from_reasons(message: impl Into<String>, reasons: &[Reason]) -> Self {
        let code = reasons.first().map_or(Code::WrongState, |first| first.code);
        let mut error = Self::refused(code, message);
        for reason in reasons {
            error.causes.push(format!("{} {}: {}", reason.code, reason.subject, reason.evidence));
            let hint = format!("{}: {}", reason.subject, reason.remedy);
            if !reason.remedy.is_empty() && !error.hints.contains(&hint) {
                error.hints.push(hint);
            }
        }
        error
    }

    /// Adds a cause.
    pub(crate) fn cause(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Adds a hint.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Writes it as a person sees it.
    pub(crate) fn render(&self) -> String {
        let mut text = String::from("error");
        let mut line = |args: std::fmt::Arguments<'_>| text.push_str(&args.to_string());
        match self.code {
            Some(code) => line(format_args!(" {code}: {}\n", self.message)),
            None => line(format_args!(": {}\n", self.message)),
        }
        for cause in &self.causes {
            line(format_args!("  cause: {cause}\n"));
        }
        for hint in &self.hints {
            line(format_args!("hint: {hint}\n"));
        }
        if let Some(code) = self.code {
            line(format_args!("hint: docs/errors/{code}.md says more: {}\n", code.title()));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_code_cause_and_hint() {
        let error = Error::refused(Code::WrongState, "rollout `4f1c` cannot be resumed")
            .cause("it is not paused but running")
            .hint("`grayfin rollout status 4f1c` shows where it stands");
        let expected = "\
error GF0705: rollout `4f1c` cannot be resumed
  cause: it is not paused but running
hint: `grayfin rollout status 4f1c` shows where it stands
hint: docs/errors/GF0705.md says more: the rollout's state does not allow this
";
        assert_eq!(error.render(), expected);
        assert_eq!(error.exit, Exit::Refused);
    }

    #[test]
    fn a_usage_error_has_no_code() {
        assert_eq!(Error::usage("bad").render(), "error: bad\n");
    }
}
