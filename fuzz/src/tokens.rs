//! What the cache of a large corpus holds: token files, and the vocabulary beside them.

use atbptt_train::data::{FileTokens, Vocabulary};
use sha2::{Digest, Sha256};

use super::{check_message, corpus};

/// Bytes: a token file; or one without its checksum; or a vocabulary.
pub fn tokens(data: &[u8]) {
    check(data);
    // Behind the checksum, too.
    let mut signed = data.to_vec();
    signed.extend(Sha256::digest(data));
    check(&signed);
    if let Ok(vocabulary) = serde_json::from_slice::<Vocabulary>(data) {
        corpus::check_vocabulary(&vocabulary);
    }
}

fn check(bytes: &[u8]) {
    match FileTokens::decode(bytes) {
        Ok(tokens) => {
            assert_eq!(
                FileTokens::encode(&tokens),
                bytes,
                "another file of the same tokens"
            );
            assert_eq!(bytes.len(), 56 + 4 * tokens.len());
        }
        Err(error) => check_message(&error),
    }
}
