//! Archives of `torch.save` that the `zip` crate (9.0 to 9.8) takes for damaged.
//!
//! PyTorch writes a ZIP64 record and its locator, 76 bytes, between the central directory and the end record, though the end record
//! needs neither. The crate then looks for the directory 76 bytes too late. There is none as a rule, and it searches on; but where
//! the entry of `data.pkl` is 76 bytes long, that is where a file was saved under a name of 21 letters, its second entry
//! stands there, and the archive seems to end too early.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use tempfile::NamedTempFile;

/// Length of an end record without a comment.
const END: u64 = 22;
/// Length of a ZIP64 record and its locator.
const SPARE: u64 = 56 + 20;

/// A copy without the needless record, where it would mislead the reader; else `None`.
pub(super) fn without_spare_record(path: &Path) -> io::Result<Option<NamedTempFile>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    if length < END + SPARE {
        return Ok(None);
    }
    let mut end = [0; END as usize];
    file.seek(SeekFrom::Start(length - END))?;
    file.read_exact(&mut end)?;
    let Some(directory) = misleading(&end, length) else {
        return Ok(None);
    };
    for (place, signature) in [
        (length - END - SPARE, b"PK\x06\x06"),
        // Where a reader that counts back from the end record expects the directory.
        (directory + SPARE, b"PK\x01\x02"),
    ] {
        let mut found = [0; 4];
        file.seek(SeekFrom::Start(place))?;
        file.read_exact(&mut found)?;
        if found != *signature {
            return Ok(None);
        }
    }
    let mut copy = NamedTempFile::new()?;
    file.rewind()?;
    io::copy(&mut file.take(length - END - SPARE), &mut copy)?;
    copy.write_all(&end)?;
    copy.flush()?;
    Ok(Some(copy))
}

/// Where the central directory begins, if exactly a spare record lies between its end and the end record.
fn misleading(end: &[u8; END as usize], length: u64) -> Option<u64> {
    let (_, numbers) = end.split_at(12);
    let (numbers, comment) = numbers.split_first_chunk::<8>()?;
    // Two numbers of 32 bits, the smaller end first.
    let both = u64::from_le_bytes(*numbers);
    let (size, directory) = (both & u64::from(u32::MAX), both >> 32);
    let no_comment = comment == [0, 0];
    let found =
        end.starts_with(b"PK\x05\x06") && no_comment && directory + size + SPARE + END == length;
    (found && size > SPARE).then_some(directory)
}
