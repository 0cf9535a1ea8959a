//! Files that are whole or not there: written beside their place, flushed to the disk, then given their name.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Ends the name of a file that is still being written.
pub(crate) const TEMPORARY: &str = ".tmp";

/// A file on its way to its place. Dropped before [`place`](Self::place) has succeeded, it is removed, and what stood at its
/// place before stays.
#[derive(Debug)]
pub(crate) struct NewFile {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
    placed: bool,
}

impl NewFile {
    /// An empty file that will be named `path`; it can be read back before.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(TEMPORARY);
        let temporary = PathBuf::from(temporary);
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temporary)?;
        Ok(Self {
            file,
            temporary,
            path: path.to_owned(),
            placed: false,
        })
    }

    pub(crate) fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Where it is until it is placed.
    pub(crate) fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Brings what was written to the disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    /// Brings it to the disk and gives it its name, in place of what had it before.
    pub(crate) fn place(mut self) -> io::Result<()> {
        self.sync()?;
        std::fs::rename(&self.temporary, &self.path)?;
        self.placed = true;
        flush_folder(&self.path)
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.placed {
            // Best effort: the disk may be full or gone, and the first error is the one to report.
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// Writes a whole file.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut new = NewFile::create(path)?;
    new.file().write_all(bytes)?;
    new.place()
}

/// A new name is on the disk once its folder is.
fn flush_folder(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    match cfg!(unix) {
        true => File::open(folder)?.sync_all(),
        // Elsewhere a folder cannot be opened as a file.
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_given_up_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.json");
        write(&path, b"first").unwrap();
        let mut new = NewFile::create(&path).unwrap();
        new.file().write_all(b"sec").unwrap();
        assert_eq!(std::fs::read(new.temporary()).unwrap(), b"sec");
        drop(new);
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        write(&path, b"second").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
