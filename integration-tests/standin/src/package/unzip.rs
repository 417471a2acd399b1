//! A small `unzip`, for hosts that have none.
//!
//! It does what the upgrade script asks for (`unzip FILE -d FOLDER`) and keeps the behaviour that the
//! script trips over: files that exist are asked about on standard output, the answer is read from
//! standard input, and the exit codes are the usual ones (0 done, 1 some files were skipped, 2 damaged
//! content, 9 no such archive or not an archive, 10 bad command line).

use std::fs::{self, File};
use std::io::{self, BufRead, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Done.
const DONE: u8 = 0;
/// Done, but files were skipped.
const WARNING: u8 = 1;
/// The content is damaged.
const DAMAGED: u8 = 2;
/// The output could not be written.
const DISK: u8 = 50;
/// There is no such archive.
const NO_ARCHIVE: u8 = 9;
/// The command line is not understood.
const USAGE: u8 = 10;

/// What to do with files that are already there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Existing {
    Ask,
    Replace,
    Skip,
}

/// A command line.
#[derive(Debug)]
struct Request {
    archive: PathBuf,
    folder: PathBuf,
    existing: Existing,
    quiet: bool,
}

/// Runs with the arguments behind the program's name; returns the exit code.
pub fn run(
    arguments: &[String],
    input: &mut dyn BufRead,
    output: &mut dyn Write,
    errors: &mut dyn Write,
) -> u8 {
    let outcome = match parse(arguments) {
        Some(request) => extract(&request, input, output),
        None => Err((USAGE, "usage: unzip [-qon] file.zip [-d folder]".to_owned())),
    };
    outcome.unwrap_or_else(|(code, message)| {
        // Nothing can be done about a standard error that cannot be written.
        writeln!(errors, "unzip: {message}").ok();
        code
    })
}

fn parse(arguments: &[String]) -> Option<Request> {
    let (mut archive, mut folder) = (None, PathBuf::from("."));
    let (mut existing, mut quiet) = (Existing::Ask, false);
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.strip_prefix('-') {
            Some("d") => folder = PathBuf::from(rest.next()?),
            Some(letters) => {
                for letter in letters.chars() {
                    match letter {
                        'q' => quiet = true,
                        'o' => existing = Existing::Replace,
                        'n' => existing = Existing::Skip,
                        _ => return None,
                    }
                }
            }
            None if archive.is_none() => archive = Some(PathBuf::from(argument)),
            None => return None,
        }
    }
    Some(Request { archive: archive?, folder, existing, quiet })
}

/// Code and words of a failure.
type Failure = (u8, String);

fn extract(
    request: &Request,
    input: &mut dyn BufRead,
    output: &mut dyn Write,
) -> Result<u8, Failure> {
    let name = request.archive.display();
    let file = File::open(&request.archive)
        .map_err(|error| (NO_ARCHIVE, format!("cannot find or open {name}: {error}")))?;
    let mut archive = zip::ZipArchive::new(io::BufReader::new(file))
        .map_err(|error| (NO_ARCHIVE, format!("{name} is not a zip archive: {error}")))?;
    fs::create_dir_all(&request.folder).map_err(|error| (DISK, error.to_string()))?;
    let mut existing = request.existing;
    let mut code = DONE;
    for index in 0..archive.len() {
        let mut entry =
            archive.by_index(index).map_err(|error| (DAMAGED, format!("{name}: {error}")))?;
        let Some(inside) = entry.enclosed_name() else {
            return Err((DAMAGED, format!("{name}: an entry points outside")));
        };
        let target = request.folder.join(inside);
        if entry.is_dir() {
            fs::create_dir_all(&target).map_err(|error| (DISK, error.to_string()))?;
            continue;
        }
        if target.exists() && !may_replace(&target, &mut existing, input, output)? {
            code = WARNING;
            continue;
        }
        if !request.quiet {
            writeln!(output, "  inflating: {}", target.display()).map_err(disk)?;
        }
        let mode = entry.unix_mode();
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(disk)?;
        }
        let mut written = File::create(&target).map_err(disk)?;
        io::copy(&mut entry, &mut written)
            .map_err(|error| (DAMAGED, format!("{}: {error}", target.display())))?;
        if let Some(mode) = mode {
            let permissions = fs::Permissions::from_mode(mode & 0o777);
            fs::set_permissions(&target, permissions).map_err(disk)?;
        }
    }
    Ok(code)
}

/// Decides about a file that exists; the end of the input means "none of them".
fn may_replace(
    target: &Path,
    existing: &mut Existing,
    input: &mut dyn BufRead,
    output: &mut dyn Write,
) -> Result<bool, Failure> {
    loop {
        match *existing {
            Existing::Replace => return Ok(true),
            Existing::Skip => return Ok(false),
            Existing::Ask => {}
        }
        write!(output, "replace {}? [y]es, [n]o, [A]ll, [N]one: ", target.display())
            .map_err(disk)?;
        output.flush().map_err(disk)?;
        let mut answer = String::new();
        if input.read_line(&mut answer).map_err(disk)? == 0 {
            *existing = Existing::Skip;
        }
        match answer.trim() {
            "y" => return Ok(true),
            "n" => return Ok(false),
            "A" => *existing = Existing::Replace,
            "N" => *existing = Existing::Skip,
            _ => {}
        }
    }
}

fn disk(error: io::Error) -> Failure {
    (DISK, error.to_string())
}
