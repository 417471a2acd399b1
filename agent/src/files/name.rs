//! Paths as text, without loss: file names are bytes, documents are UTF-8.

use std::{
    ffi::OsString,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

/// Writes a path as text: what is not UTF-8, control characters and `%` become `%XX`.
pub fn encode_path(path: &Path) -> String {
    let mut out = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '%' || c.is_control() {
                let mut buffer = [0; 4];
                c.encode_utf8(&mut buffer).bytes().for_each(|b| escape(&mut out, b));
            } else {
                out.push(c);
            }
        }
        chunk.invalid().iter().for_each(|b| escape(&mut out, *b));
    }
    out
}

/// Reads what [`encode_path`] wrote; none if the text has a bad escape or a NUL.
pub fn decode_path(text: &str) -> Option<PathBuf> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(b) = rest.next() {
        if b == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(b);
        }
    }
    (!bytes.contains(&0)).then(|| PathBuf::from(OsString::from_vec(bytes)))
}

fn escape(out: &mut String, byte: u8) {
    out.push('%');
    for digit in [byte >> 4, byte & 15] {
        out.push(char::from_digit(u32::from(digit), 16).unwrap_or('0'));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_survives() {
        for bytes in [
            &b"a/b.c"[..],
            b"100%",
            b"\xff\xfe/x",
            "käse/開源".as_bytes(),
            b"new\nline\x7f",
            "\u{85}x".as_bytes(),
            b"",
        ] {
            let path = PathBuf::from(OsString::from_vec(bytes.to_vec()));
            let text = encode_path(&path);
            assert!(!text.chars().any(char::is_control), "{text:?}");
            assert_eq!(decode_path(&text).unwrap(), path);
        }
        assert_eq!(encode_path(Path::new("käse/x")), "käse/x");
        for bad in ["%", "%1", "%zz", "a%00b"] {
            assert_eq!(decode_path(bad), None, "{bad}");
        }
    }
}
