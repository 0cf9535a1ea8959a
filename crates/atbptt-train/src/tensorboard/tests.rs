//! Files are read back by a parser of their own.

use super::*;

/// Check value of CRC-32C for the digits 1 to 9, and that of 32 zeros (RFC 3720, appendix B.4).
#[test]
fn checksums_are_those_of_the_standard() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
}

#[test]
fn varints_have_seven_bits_a_byte() {
    let written = |value| {
        let mut bytes = Vec::new();
        varint(&mut bytes, value);
        bytes
    };
    assert_eq!(written(1), [1]);
    assert_eq!(written(300), [0xac, 0x02]);
    assert_eq!(written(u64::MAX).len(), 10);
}

/// A field of a message: its number, and its value as it stands.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message.
fn fields(mut message: &[u8]) -> Vec<(u64, Value<'_>)> {
    let mut found = Vec::new();
    while !message.is_empty() {
        let key = read_varint(&mut message);
        let fixed = |message: &mut &[u8], size: usize| {
            let (bytes, rest) = message.split_at(size);
            *message = rest;
            let mut whole = [0; 8];
            whole[..size].copy_from_slice(bytes);
            Value::Number(u64::from_le_bytes(whole))
        };
        let value = match (key & 7) as u8 {
            VARINT => Value::Number(read_varint(&mut message)),
            FIXED64 => fixed(&mut message, 8),
            FIXED32 => fixed(&mut message, 4),
            BYTES => {
                let length = read_varint(&mut message) as usize;
                let (bytes, rest) = message.split_at(length);
                message = rest;
                Value::Bytes(bytes)
            }
            other => panic!("wire type {other}"),
        };
        found.push((key >> 3, value));
    }
    found
}

fn read_varint(message: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = message[0];
        *message = &message[1..];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    value
}

/// Step, name and value of every scalar in the files of a folder.
fn read(folder: &Path) -> Vec<(u64, String, f32)> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let mut found = Vec::new();
    for path in paths {
        let file = fs::read(path).unwrap();
        let mut rest = &file[..];
        let mut versions = 0;
        while !rest.is_empty() {
            let take = |rest: &mut &[u8], size: usize| {
                let (bytes, after) = rest.split_at(size);
                *rest = after;
                bytes.to_vec()
            };
            let length = take(&mut rest, 8);
            let check = take(&mut rest, 4);
            assert_eq!(check, masked_crc(&length).to_le_bytes());
            let length = u64::from_le_bytes(length.try_into().unwrap());
            let event = take(&mut rest, length as usize);
            assert_eq!(take(&mut rest, 4), masked_crc(&event).to_le_bytes());
            let mut step = 0;
            for (field, value) in fields(&event) {
                match (field, value) {
                    (1, Value::Number(bits)) => assert!(f64::from_bits(bits) > 1.6e9),
                    (2, Value::Number(number)) => step = number,
                    (3, Value::Bytes(version)) => {
                        assert_eq!(version, b"brain.Event:2");
                        versions += 1;
                    }
                    (5, Value::Bytes(summary)) => {
                        for (_, scalar) in fields(summary) {
                            let Value::Bytes(scalar) = scalar else {
                                panic!("a value is a message")
                            };
                            match fields(scalar)[..] {
                                [(1, Value::Bytes(name)), (2, Value::Number(bits))] => {
                                    let name = String::from_utf8(name.to_vec()).unwrap();
                                    found.push((step, name, f32::from_bits(bits as u32)));
                                }
                                _ => panic!("a value has a name and a number"),
                            }
                        }
                    }
                    (field, _) => panic!("field {field}"),
                }
            }
        }
        assert_eq!(versions, 1);
    }
    found
}

#[test]
fn scalars_are_read_back_with_their_steps() {
    let run = tempfile::tempdir().unwrap();
    let values = |loss: f64, k: f64| BTreeMap::from([("K".into(), k), ("Perplexity".into(), loss)]);
    // A run, and one that goes on in the same second.
    let mut files = TensorBoardFiles::new(run.path(), 0);
    files.step = 1;
    files.write("train", &values(300.5, 20.0));
    files.step = 200;
    files.write("train", &values(150.25, 21.0));
    files.flush();
    let mut files = TensorBoardFiles::new(run.path(), 201);
    files.write("train", &values(f64::NAN, 22.0));
    files.flush();
    let found = read(&run.path().join("tensorboard/train"));
    let expected: Vec<(u64, &str, f32)> = vec![
        (1, "K", 20.0),
        (1, "Perplexity", 300.5),
        (200, "K", 21.0),
        (200, "Perplexity", 150.25),
        (201, "K", 22.0),
    ];
    let numbers = found.iter().filter(|(.., value)| !value.is_nan());
    let numbers: Vec<(u64, &str, f32)> = numbers.map(|(s, n, v)| (*s, n.as_str(), *v)).collect();
    assert_eq!(numbers, expected);
    assert_eq!(
        found.len(),
        6,
        "a loss that is not a number is written as it is"
    );
}

/// The split's folder is a file: a warning, and the run goes on.
#[test]
fn a_folder_that_cannot_be_made_ends_nothing() {
    let run = tempfile::tempdir().unwrap();
    fs::create_dir(run.path().join("tensorboard")).unwrap();
    fs::write(run.path().join("tensorboard/train"), "mine").unwrap();
    let mut files = TensorBoardFiles::new(run.path(), 0);
    files.write("train", &BTreeMap::from([("K".into(), 1.0)]));
    files.flush();
    assert_eq!(
        fs::read(run.path().join("tensorboard/train")).unwrap(),
        b"mine"
    );
}
