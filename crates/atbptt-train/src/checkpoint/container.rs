//! The file itself: named sections, a length, a checksum; written so that a name never stands for half a file.
//!
//! Knows nothing of what the sections mean.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::CheckpointFault;
use crate::files::NewFile;

const MAGIC: [u8; 8] = *b"atbpttCK";
/// Version of the format.
pub(crate) const VERSION: u32 = 4;
const HEADER: usize = 24;
const ENTRY: usize = 16;
const NAME: usize = 8;
const DIGEST: usize = 32;
/// Most sections of a file: bounds the table before it is trusted.
const MAX_SECTIONS: u32 = 64;

/// Contents by name.
pub(crate) type Sections = BTreeMap<String, Vec<u8>>;

fn io_fault(action: &'static str) -> impl Fn(io::Error) -> CheckpointFault {
    move |cause| CheckpointFault::Io { action, cause }
}

/// Writes `sections` to `path`: into a temporary file, flushed, examined by `verify`, renamed; then the folder is flushed.
/// Whatever fails, what stood at `path` before stays.
pub(crate) fn write(
    path: &Path,
    sections: &[(&str, &[u8])],
    verify: impl FnOnce(&Path) -> Result<(), CheckpointFault>,
) -> Result<(), CheckpointFault> {
    let mut new = NewFile::create(path).map_err(io_fault("written"))?;
    put(new.file(), sections)
        .and_then(|()| new.sync())
        .map_err(io_fault("written"))?;
    verify(new.temporary())?;
    new.place().map_err(io_fault("put in its place"))
}

/// Writes the bytes of a file.
pub(crate) fn put(file: &mut impl Write, sections: &[(&str, &[u8])]) -> io::Result<()> {
    let table = HEADER + ENTRY * sections.len();
    let contents: usize = sections.iter().map(|(_, bytes)| bytes.len()).sum();
    let length = (table + contents + DIGEST) as u64;
    let mut head = Vec::with_capacity(table);
    head.extend(MAGIC);
    head.extend(VERSION.to_le_bytes());
    head.extend((sections.len() as u32).to_le_bytes());
    head.extend(length.to_le_bytes());
    for (name, bytes) in sections {
        let mut padded = [0; NAME];
        for (to, from) in padded.iter_mut().zip(name.bytes()) {
            *to = from;
        }
        head.extend(padded);
        head.extend((bytes.len() as u64).to_le_bytes());
    }
    let mut hasher = Sha256::new();
    for bytes in std::iter::once(head.as_slice()).chain(sections.iter().map(|(_, bytes)| *bytes)) {
        hasher.update(bytes);
        file.write_all(bytes)?;
    }
    file.write_all(&hasher.finalize())
}

/// Reads the sections of a file, after magic, version, length and checksum were found right.
pub(crate) fn read(path: &Path) -> Result<Sections, CheckpointFault> {
    let mut file = File::open(path).map_err(io_fault("opened"))?;
    let length = file.metadata().map_err(io_fault("opened"))?.len();
    let table = check(&mut file, length)?;
    // A second pass, now that every length is vouched for.
    let mut file = File::open(path).map_err(io_fault("opened"))?;
    let skip = HEADER + ENTRY * table.len();
    io::copy(&mut (&mut file).take(skip as u64), &mut io::sink()).map_err(io_fault("read"))?;
    read_sections(file, table)
}

/// Sections of a file that is in memory already.
pub(crate) fn parse(bytes: &[u8]) -> Result<Sections, CheckpointFault> {
    let table = check(&mut &bytes[..], bytes.len() as u64)?;
    let skip = HEADER + ENTRY * table.len();
    read_sections(bytes.get(skip..).unwrap_or_default(), table)
}

fn read_sections(
    mut reader: impl Read,
    table: Vec<(String, u64)>,
) -> Result<Sections, CheckpointFault> {
    let mut sections = Sections::new();
    for (name, length) in table {
        let mut bytes = Vec::new();
        let reserved = usize::try_from(length).map(|length| bytes.try_reserve_exact(length));
        if !matches!(reserved, Ok(Ok(()))) {
            return Err(CheckpointFault::Malformed {
                reason: format!("section {name:?} of {length} bytes does not fit into memory"),
            });
        }
        let read = (&mut reader)
            .take(length)
            .read_to_end(&mut bytes)
            .map_err(io_fault("read"))?;
        if read as u64 != length {
            return Err(CheckpointFault::Length {
                expected: length,
                found: read as u64,
            });
        }
        if sections.contains_key(&name) {
            return Err(CheckpointFault::Malformed {
                reason: format!("section {name:?} appears twice"),
            });
        }
        sections.insert(name, bytes);
    }
    Ok(sections)
}

/// Checks everything up to the checksum in one pass; gives names and lengths of the sections.
fn check(reader: &mut impl Read, length: u64) -> Result<Vec<(String, u64)>, CheckpointFault> {
    let mut head = Vec::with_capacity(HEADER);
    reader
        .take(HEADER as u64)
        .read_to_end(&mut head)
        .map_err(io_fault("read"))?;
    let magic = head.get(..MAGIC.len()).unwrap_or(&head);
    if !MAGIC.starts_with(magic) {
        let start = magic.iter().map(|&byte| match byte {
            b' '..=b'~' => char::from(byte),
            _ => '.',
        });
        return Err(CheckpointFault::Foreign {
            found: start.collect(),
        });
    }
    let (Some(version), Some(count), Some(stated)) = (
        number(&head, 8).map(u32::from_le_bytes),
        number(&head, 12).map(u32::from_le_bytes),
        number(&head, 16).map(u64::from_le_bytes),
    ) else {
        return Err(CheckpointFault::Length {
            expected: (HEADER + DIGEST) as u64,
            found: length,
        });
    };
    if version != VERSION {
        return Err(CheckpointFault::Version {
            found: version,
            supported: VERSION,
        });
    }
    if stated != length {
        return Err(CheckpointFault::Length {
            expected: stated,
            found: length,
        });
    }
    if count > MAX_SECTIONS {
        return Err(CheckpointFault::Malformed {
            reason: format!("{count} sections, and {MAX_SECTIONS} are the most"),
        });
    }
    let mut hasher = Sha256::new();
    hasher.update(&head);
    let mut table = Vec::new();
    let mut total = HEADER as u64 + DIGEST as u64;
    for _ in 0..count {
        let mut entry = [0; ENTRY];
        read_exactly(reader, &mut entry, length)?;
        hasher.update(entry);
        let name: Vec<u8> = entry
            .iter()
            .take(NAME)
            .copied()
            .take_while(|&b| b != 0)
            .collect();
        let bytes = number(&entry, NAME).map(u64::from_le_bytes).unwrap_or(0);
        total = total.saturating_add(ENTRY as u64).saturating_add(bytes);
        table.push((String::from_utf8_lossy(&name).into_owned(), bytes));
    }
    if total != length {
        return Err(CheckpointFault::Length {
            expected: total,
            found: length,
        });
    }
    let contents: u64 = table.iter().map(|(_, bytes)| bytes).sum();
    let hashed = io::copy(&mut reader.take(contents), &mut hasher).map_err(io_fault("read"))?;
    let mut digest = [0; DIGEST];
    read_exactly(reader, &mut digest, length)?;
    if hashed != contents || hasher.finalize().as_slice() != digest {
        return Err(CheckpointFault::Checksum);
    }
    Ok(table)
}

fn read_exactly(
    reader: &mut impl Read,
    into: &mut [u8],
    length: u64,
) -> Result<(), CheckpointFault> {
    reader.read_exact(into).map_err(|cause| match cause.kind() {
        io::ErrorKind::UnexpectedEof => CheckpointFault::Length {
            expected: length,
            found: length.saturating_sub(1),
        },
        _ => CheckpointFault::Io {
            action: "read",
            cause,
        },
    })
}

/// The `N` bytes at `at`.
fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}
