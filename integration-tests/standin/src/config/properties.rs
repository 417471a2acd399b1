//! `key=value` lines.

use super::error::{Error, refuse_blank_first_line};

/// One `key=value` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    /// Line number, from 1.
    pub line: usize,
    /// Key as written, with its prefix if there is one.
    pub key: String,
    /// Value, trimmed.
    pub value: String,
}

/// The lines of a file, in order; of a repeated key the last line counts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Properties {
    file: String,
    entries: Vec<Property>,
}

impl Properties {
    /// Parses a text; `file` is the name used in errors. Lines that are blank (but the first) or start
    /// with `#` are skipped.
    pub fn parse(file: &str, text: &str) -> Result<Self, Error> {
        refuse_blank_first_line(file, text)?;
        let mut entries = Vec::new();
        for (index, raw) in text.lines().enumerate() {
            let line = index + 1;
            let content = raw.trim();
            if content.is_empty() || content.starts_with('#') {
                continue;
            }
            let Some((key, value)) = content.split_once('=') else {
                return Err(Error::line(file, line, format!("`{content}` is not key=value")));
            };
            let key = key.trim();
            if key.is_empty() || key.contains(char::is_whitespace) {
                return Err(Error::line(file, line, format!("`{key}` is not a key")));
            }
            entries.push(Property { line, key: key.to_owned(), value: value.trim().to_owned() });
        }
        Ok(Self { file: file.to_owned(), entries })
    }

    /// Name used in errors.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Every line, in order.
    pub fn entries(&self) -> &[Property] {
        &self.entries
    }

    /// Value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.property(key).map(|property| property.value.as_str())
    }

    /// Line of a key.
    pub fn property(&self, key: &str) -> Option<&Property> {
        self.entries.iter().rev().find(|property| property.key == key)
    }

    /// Value of a key that must be there.
    pub fn require(&self, key: &'static str) -> Result<&Property, Error> {
        self.property(key).ok_or_else(|| Error::MissingKey { file: self.file.clone(), key })
    }

    /// Value of a key as a number; an unreadable one is an error with its line.
    pub fn number<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, Error> {
        let Some(property) = self.property(key) else {
            return Ok(None);
        };
        property.value.parse().map(Some).map_err(|_ignored| {
            Error::line(
                &self.file,
                property.line,
                format!("`{}` is not a valid value of `{key}`", property.value),
            )
        })
    }

    /// Value of a key as a switch: `1`, `true`, `0`, `false`.
    pub fn switch(&self, key: &str) -> Result<Option<bool>, Error> {
        let Some(property) = self.property(key) else {
            return Ok(None);
        };
        switch_value(&property.value).map(Some).ok_or_else(|| {
            Error::line(
                &self.file,
                property.line,
                format!(
                    "`{}` is not a valid value of `{key}`: 0, 1, true or false",
                    property.value
                ),
            )
        })
    }
}

/// Reads a switch.
pub(crate) fn switch_value(value: &str) -> Option<bool> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blank_first_line_is_an_empty_file() {
        for text in ["", "\n", "  \nmode=controller\n"] {
            let error = Properties::parse("controller.cfg", text).unwrap_err();
            assert!(error.to_string().contains("The input file is empty."), "{error}");
            assert!(error.to_string().contains("controller.cfg"), "{error}");
        }
    }

    #[test]
    fn comments_blanks_and_repeats() {
        let text = "a=1\n\n# note\n a = 2 \nb=x=y\n";
        let parsed = Properties::parse("f", text).unwrap();
        assert_eq!(parsed.get("a"), Some("2"));
        assert_eq!(parsed.get("b"), Some("x=y"));
        assert_eq!(parsed.get("c"), None);
        assert_eq!(parsed.property("b").unwrap().line, 5);
    }

    #[test]
    fn errors_name_file_and_line() {
        let error = Properties::parse("agent.cfg", "mode=agent\nnonsense\n").unwrap_err();
        assert_eq!(error.to_string(), "agent.cfg:2: `nonsense` is not key=value");
        let parsed = Properties::parse("c.cfg", "x=1\nworkerNum=many\nflag=perhaps").unwrap();
        let error = parsed.number::<u32>("workerNum").unwrap_err();
        assert_eq!(error.to_string(), "c.cfg:2: `many` is not a valid value of `workerNum`");
        assert!(parsed.switch("flag").unwrap_err().to_string().starts_with("c.cfg:3: "));
    }
}
