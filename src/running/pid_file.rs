//! The file with the number of the process that serves. It changes hands with the listening sockets: whoever has taken over
//! writes its own number, and the process before leaves that alone.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

/// Why the number cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("process.pid_file: {} cannot be written; its folder must be there and belong to the user that firstcas runs as", .path.display())]
pub struct PidFileError {
    path: PathBuf,
    source: io::Error,
}

/// The file, written beside its place: that it can be is known before anybody relies on it.
pub struct Prepared {
    file: NamedTempFile,
    path: PathBuf,
}

/// The file in its place. Dropping it removes it, if it is still this process's.
pub struct PidFile(PathBuf);

impl Prepared {
    /// Writes it beside its place.
    ///
    /// # Errors
    /// The folder is not there, or may not be written to.
    pub fn beside(path: &Path) -> Result<Self, PidFileError> {
        let written = || {
            let mut file = NamedTempFile::new_in(path.parent().unwrap_or(Path::new("/")))?;
            writeln!(file, "{}", std::process::id())?;
            file.as_file().set_permissions(fs::Permissions::from_mode(READABLE_BY_ALL))?;
            Ok(Prepared { file, path: path.to_owned() })
        };
        written().map_err(|source| PidFileError { path: path.to_owned(), source })
    }

    /// Puts it in its place.
    ///
    /// # Errors
    /// Something else is there that cannot be replaced.
    pub fn put(self) -> Result<PidFile, PidFileError> {
        match self.file.persist(&self.path) {
            Ok(_) => Ok(PidFile(self.path)),
            Err(error) => Err(PidFileError { path: self.path, source: error.error }),
        }
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if read(&self.0).ok() == Some(std::process::id()) {
            let _ = fs::remove_file(&self.0); // a stale one disturbs nobody: its process is looked for
        }
    }
}

/// The number in a file.
pub fn read(path: &Path) -> io::Result<u32> {
    let text = fs::read_to_string(path)?;
    text.trim().parse().map_err(|_| io::Error::other("there is no process number in it"))
}

const READABLE_BY_ALL: u32 = 0o644;

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may fail by panicking
mod tests {
    use super::*;

    #[test]
    fn it_is_removed_at_the_end_unless_another_process_has_written_its_own() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("firstcas.pid");
        let put = || Prepared::beside(&path).and_then(Prepared::put).expect("written");
        let file = put();
        assert_eq!(read(&path).expect("read"), std::process::id());
        drop(file);
        assert!(!path.exists());

        let file = put();
        fs::write(&path, "1\n").expect("written");
        drop(file);
        assert_eq!(read(&path).expect("read"), 1);
    }

    #[test]
    fn a_folder_that_is_not_there_is_said_before_anything_else_happens() {
        let error = Prepared::beside(Path::new("/nowhere/firstcas.pid")).err().expect("a mistake");
        assert!(error.to_string().contains("/nowhere/firstcas.pid cannot be written"), "{error}");
    }
}
