//! Token ids in a file: corpora larger than memory.
//!
//! A window is read where it lies. Reads go by position through the operating system's page cache, as a memory map's would, but
//! a file that is cut short under a running program is an error here, where a map would end the process, and pages that were
//! read do not count as the process' memory.
//!
//! ```text
//! magic "atbpttTK" | version u32 | zero u32 | number of tokens u64 | tokens u32 … | SHA-256 of all that
//! ```

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::text::io_error;
use super::{DataError, TokenStore};
use crate::files::NewFile;

const MAGIC: [u8; 8] = *b"atbpttTK";
const VERSION: u32 = 1;
const HEADER: u64 = 24;
const DIGEST: u64 = 32;
const WIDTH: u64 = 4;

/// Tokens in a file, 4 bytes each, read when they are needed.
#[derive(Clone, Debug)]
pub struct FileTokens {
    file: Arc<File>,
    path: PathBuf,
    len: usize,
}

impl FileTokens {
    /// Opens a file and checks it: magic, version, length, and the checksum over all of it.
    ///
    /// # Errors
    ///
    /// [`DataError::Io`]; [`DataError::TokenFile`] when it is not such a file, or damaged.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DataError> {
        let path = path.as_ref();
        let mut file = File::open(path).map_err(|cause| io_error("open", path, cause))?;
        let length = file.metadata();
        let length = length.map_err(|cause| io_error("open", path, cause))?.len();
        let len = check(&mut file, length, path)?;
        Ok(Self {
            file: Arc::new(file),
            path: path.to_owned(),
            len,
        })
    }
}

/// Checks a token file of `length` bytes from start to end: magic, version, length, checksum; gives the number of tokens.
fn check(reader: &mut impl Read, length: u64, path: &Path) -> Result<usize, DataError> {
    let fail = |cause| io_error("read", path, cause);
    let damaged = |reason: String| DataError::TokenFile {
        path: path.to_owned(),
        reason,
    };
    if length < HEADER + DIGEST {
        return Err(damaged(format!("{length} bytes are too few")));
    }
    let mut head = [0; HEADER as usize];
    reader.read_exact(&mut head).map_err(fail)?;
    let Some((magic, version, reserved, tokens)) = fields(&head) else {
        return Err(damaged("its header is incomplete".into()));
    };
    if magic != MAGIC || version != VERSION || reserved != 0 {
        return Err(damaged(format!("it is no token file of version {VERSION}")));
    }
    let contents = tokens.checked_mul(WIDTH);
    let expected = contents.and_then(|bytes| bytes.checked_add(HEADER + DIGEST));
    let (Some(contents), true, Ok(len)) =
        (contents, expected == Some(length), usize::try_from(tokens))
    else {
        return Err(damaged(format!(
            "{tokens} tokens do not fit {length} bytes"
        )));
    };
    let mut hasher = Sha256::new();
    hasher.update(head);
    io::copy(&mut reader.take(contents), &mut hasher).map_err(fail)?;
    let mut digest = [0; DIGEST as usize];
    reader.read_exact(&mut digest).map_err(fail)?;
    if hasher.finalize().as_slice() != digest {
        return Err(damaged("its checksum does not match".into()));
    }
    Ok(len)
}

fn header(tokens: u64) -> Vec<u8> {
    let mut head = Vec::with_capacity(HEADER as usize);
    head.extend(MAGIC);
    head.extend(VERSION.to_le_bytes());
    head.extend([0; 4]);
    head.extend(tokens.to_le_bytes());
    head
}

impl FileTokens {
    /// The bytes of a token file of these tokens, such as a tokeniser of your own may write for [`FileTokens::open`].
    pub fn encode(tokens: &[u32]) -> Vec<u8> {
        let mut bytes = header(tokens.len() as u64);
        bytes.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
        let digest = Sha256::digest(&bytes);
        bytes.extend(digest);
        bytes
    }

    /// The tokens of a whole token file that is in memory.
    ///
    /// # Errors
    ///
    /// [`DataError::TokenFile`] when it is not such a file, or damaged.
    pub fn decode(bytes: &[u8]) -> Result<Vec<u32>, DataError> {
        check(
            &mut &bytes[..],
            bytes.len() as u64,
            Path::new("what was given"),
        )?;
        let end = bytes.len().saturating_sub(DIGEST as usize);
        let (words, _) = bytes
            .get(HEADER as usize..end)
            .unwrap_or_default()
            .as_chunks::<4>();
        Ok(words.iter().map(|&word| u32::from_le_bytes(word)).collect())
    }
}

fn fields(head: &[u8; HEADER as usize]) -> Option<([u8; 8], u32, u32, u64)> {
    let (magic, rest) = head.split_first_chunk::<8>()?;
    let (version, rest) = rest.split_first_chunk::<4>()?;
    let (reserved, rest) = rest.split_first_chunk::<4>()?;
    let tokens = rest.first_chunk::<8>()?;
    Some((
        *magic,
        u32::from_le_bytes(*version),
        u32::from_le_bytes(*reserved),
        u64::from_le_bytes(*tokens),
    ))
}

impl TokenStore for FileTokens {
    fn len(&self) -> usize {
        self.len
    }

    fn read(&self, start: usize, into: &mut [u32]) -> Result<(), DataError> {
        let count = into.len();
        if start.checked_add(count).is_none_or(|end| end > self.len) {
            return Err(DataError::OutOfRange {
                start,
                count,
                len: self.len,
            });
        }
        let mut bytes = vec![0; count * WIDTH as usize];
        read_at(&self.file, &mut bytes, HEADER + start as u64 * WIDTH)
            .map_err(|cause| io_error("read", &self.path, cause))?;
        let (words, _) = bytes.as_chunks::<4>();
        for (to, &from) in into.iter_mut().zip(words) {
            *to = u32::from_le_bytes(from);
        }
        Ok(())
    }
}

#[cfg(unix)]
fn read_at(file: &File, into: &mut [u8], at: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, into, at)
}

#[cfg(windows)]
fn read_at(file: &File, mut into: &mut [u8], mut at: u64) -> io::Result<()> {
    while !into.is_empty() {
        let read = std::os::windows::fs::FileExt::seek_read(file, into, at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        into = into.get_mut(read..).unwrap_or_default();
        at += read as u64;
    }
    Ok(())
}

/// Writes a token file, one token at a time, under a temporary name until [`finish`](Self::finish).
pub(super) struct TokenFileWriter {
    path: PathBuf,
    file: BufWriter<NewFile>,
    len: u64,
}

impl TokenFileWriter {
    pub(super) fn create(path: &Path) -> Result<Self, DataError> {
        let file = NewFile::create(path).map_err(|cause| io_error("create", path, cause))?;
        let mut writer = Self {
            path: path.to_owned(),
            file: BufWriter::with_capacity(1 << 20, file),
            len: 0,
        };
        // The number of tokens is filled in at the end.
        writer.put(&[0; HEADER as usize])?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        let written = self.file.write_all(bytes);
        written.map_err(|cause| io_error("write", &self.path, cause))
    }

    pub(super) fn push(&mut self, token: u32) -> Result<(), DataError> {
        self.len += 1;
        self.put(&token.to_le_bytes())
    }

    /// Completes the file, flushes it to the disk and gives it its name.
    pub(super) fn finish(self) -> Result<FileTokens, DataError> {
        use io::{Seek, SeekFrom};
        let Self { path, file, len } = self;
        let fail = |cause| io_error("write", &path, cause);
        let mut new = file
            .into_inner()
            .map_err(|error| fail(error.into_error()))?;
        let file = new.file();
        file.seek(SeekFrom::Start(0)).map_err(fail)?;
        file.write_all(&header(len)).map_err(fail)?;
        file.seek(SeekFrom::Start(0)).map_err(fail)?;
        let mut hasher = Sha256::new();
        io::copy(file, &mut hasher).map_err(fail)?;
        file.write_all(&hasher.finalize()).map_err(fail)?;
        new.place().map_err(fail)?;
        FileTokens::open(&path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(tokens: &[u32]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.tokens");
        let mut writer = TokenFileWriter::create(&path).unwrap();
        for &token in tokens {
            writer.push(token).unwrap();
        }
        assert_eq!(writer.finish().unwrap().len(), tokens.len());
        (folder, path)
    }

    #[test]
    fn ranges_are_read_back_and_nothing_past_the_end() {
        let (_folder, path) = file(&[3, 1, 4, 1, u32::MAX]);
        let store = FileTokens::open(&path).unwrap();
        let mut two = [0; 2];
        store.read(3, &mut two).unwrap();
        assert_eq!(two, [1, u32::MAX]);
        store.read(5, &mut []).unwrap();
        for start in [4, 5, usize::MAX] {
            let found = store.read(start, &mut two);
            assert!(
                matches!(found, Err(DataError::OutOfRange { len: 5, .. })),
                "{start}"
            );
        }
        // Cut short while it is open: an error, where a memory map would end the process.
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(30)
            .unwrap();
        assert!(matches!(store.read(3, &mut two), Err(DataError::Io { .. })));
    }

    #[test]
    fn the_bytes_of_a_file_are_those_that_are_made_in_memory() {
        let (_folder, path) = file(&[3, 1, 4, u32::MAX]);
        let tokens = vec![3, 1, 4, u32::MAX];
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(FileTokens::encode(&tokens), whole);
        assert_eq!(FileTokens::decode(&whole).unwrap(), tokens);
    }

    #[test]
    fn any_flipped_bit_and_any_cut_is_refused() {
        let (_folder, path) = file(&[3, 1, 4]);
        let whole = std::fs::read(&path).unwrap();
        for offset in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[offset] ^= 1 << (offset % 8);
            std::fs::write(&path, &flipped).unwrap();
            assert!(
                matches!(FileTokens::open(&path), Err(DataError::TokenFile { .. })),
                "{offset}"
            );
            for bytes in [&flipped[..], &whole[..offset]] {
                let found = FileTokens::decode(bytes);
                assert!(
                    matches!(found, Err(DataError::TokenFile { .. })),
                    "{offset}"
                );
            }
            std::fs::write(&path, &whole[..offset]).unwrap();
            assert!(
                matches!(FileTokens::open(&path), Err(DataError::TokenFile { .. })),
                "{offset}"
            );
        }
    }
}
