//! A node's log file, in the form of the server's: time, level, text.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;

/// The log of one node.
#[derive(Debug)]
pub(crate) struct Log {
    file: Mutex<File>,
}

impl Log {
    /// Opens the log to add to it.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { file: Mutex::new(file) })
    }

    /// Something worth knowing.
    pub(crate) fn info(&self, text: &str) {
        self.write("INFO", text);
    }

    /// Something unexpected that the node copes with.
    pub(crate) fn warning(&self, text: &str) {
        self.write("WARNING", text);
    }

    /// Something that went wrong.
    pub(crate) fn error(&self, text: &str) {
        self.write("ERROR", text);
    }

    fn write(&self, level: &str, text: &str) {
        let now = jiff::Zoned::now().strftime("%Y.%m.%d %H:%M:%S%.6f").to_string();
        let line = format!("{now} <{level}> :{}\n", text.replace('\n', " "));
        let mut file = match self.file.lock() {
            Ok(file) => file,
            Err(poisoned) => poisoned.into_inner(),
        };
        // A full disk must not take the node down.
        drop(file.write_all(line.as_bytes()));
    }
}

/// The local time in milliseconds since 1970, as the server's `now()` counts it.
pub(crate) fn local_ms() -> i64 {
    let now = jiff::Zoned::now();
    now.timestamp().as_millisecond() + i64::from(now.offset().seconds()) * 1_000
}

/// Today as `yyyy.mm.dd`.
pub(crate) fn today() -> String {
    jiff::Zoned::now().strftime("%Y.%m.%d").to_string()
}
