//! Makes package zips and installed trees out of the compiled binary.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use zip::CompressionMethod;
use zip::write::SimpleFileOptions;

use super::files::{Content, PROGRAM, PackageFile, files};
use super::release::Release;
use super::trailer::program_length;

/// Deflate level: a debug binary shrinks to about a third at the cheapest one, in well under a second.
const LEVEL: i64 = 1;

/// Makes packages from one compiled binary.
#[derive(Debug, Clone)]
pub struct Builder {
    program: Vec<u8>,
}

/// What could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("make the package file `{path}`")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's words.
        #[source]
        source: io::Error,
    },
    /// The zip could not be written.
    #[error("write the package `{path}`")]
    Zip {
        /// The zip.
        path: PathBuf,
        /// The library's words.
        #[source]
        source: zip::result::ZipError,
    },
}

impl Builder {
    /// Takes the compiled binary, with or without a trailer.
    pub fn new(binary: &Path) -> Result<Self, Error> {
        let mut program = fs::read(binary).map_err(at(binary))?;
        program.truncate(program_length(&program));
        Ok(Self { program })
    }

    /// The binary's bytes without a trailer, for a name that changes with them.
    pub fn program(&self) -> &[u8] {
        &self.program
    }

    /// Writes the release's zip. It appears under its name only when it is complete.
    pub fn write_zip(&self, release: &Release, path: &Path) -> Result<(), Error> {
        self.write_zip_of(release, &files(release), path)
    }

    /// Writes a zip with other files than the release's own, for packages that are wrong inside.
    pub fn write_zip_of(
        &self,
        release: &Release,
        files: &[PackageFile],
        path: &Path,
    ) -> Result<(), Error> {
        let zip_error = |source| Error::Zip { path: path.to_path_buf(), source };
        let partial = path.with_extension(format!("partial{}", std::process::id()));
        let file = File::create(&partial).map_err(at(&partial))?;
        let mut zip = zip::ZipWriter::new(BufWriter::new(file));
        for entry in files {
            // A fixed time, so that the same release always has the same digest.
            let options = SimpleFileOptions::default()
                .compression_method(CompressionMethod::Deflated)
                .compression_level(Some(LEVEL))
                .last_modified_time(zip::DateTime::default())
                .unix_permissions(entry.mode);
            match &entry.content {
                Content::Folder => zip.add_directory(&entry.path, options).map_err(zip_error)?,
                Content::Program => {
                    zip.start_file(&entry.path, options).map_err(zip_error)?;
                    zip.write_all(&self.program).map_err(at(&partial))?;
                    zip.write_all(&release.trailer().to_bytes()).map_err(at(&partial))?;
                }
                Content::Bytes(bytes) => {
                    zip.start_file(&entry.path, options).map_err(zip_error)?;
                    zip.write_all(bytes).map_err(at(&partial))?;
                }
            }
        }
        zip.finish().map_err(zip_error)?.flush().map_err(at(&partial))?;
        fs::rename(&partial, path).map_err(at(path))
    }

    /// Writes the release's tree as an administrator leaves it after installing: everything from the
    /// zip under `folder/server`, the binary made executable.
    pub fn install(&self, release: &Release, folder: &Path) -> Result<PathBuf, Error> {
        for entry in files(release) {
            let path = folder.join(&entry.path);
            let parent = path.parent().unwrap_or(folder);
            fs::create_dir_all(parent).map_err(at(parent))?;
            match &entry.content {
                Content::Folder => fs::create_dir_all(&path).map_err(at(&path))?,
                Content::Bytes(bytes) => fs::write(&path, bytes).map_err(at(&path))?,
                Content::Program => {
                    let mut file = File::create(&path).map_err(at(&path))?;
                    file.write_all(&self.program).map_err(at(&path))?;
                    file.write_all(&release.trailer().to_bytes()).map_err(at(&path))?;
                }
            }
            let mode = if entry.path == PROGRAM { 0o755 } else { entry.mode };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(at(&path))?;
        }
        Ok(folder.join("server"))
    }
}

/// Names the file in an error.
fn at(path: &Path) -> impl FnOnce(io::Error) -> Error + '_ {
    move |source| Error::Io { path: path.to_path_buf(), source }
}
