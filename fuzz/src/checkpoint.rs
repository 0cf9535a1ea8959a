//! Checkpoints: any bytes give a checkpoint or a fault, and what is accepted is usable.

use std::panic;
use std::sync::OnceLock;

use atbptt_core::{
    AdaptiveKConfig, ArtbpConfig, FixedKConfig, Measurement, Position, RandomLengthConfig, Scheme,
    TruncationPolicy,
};
use atbptt_models::{LanguageModel, LanguageModelConfig, LstmLayer};
use atbptt_train::{Checkpoint, Identity};
use burn::tensor::Device;
use sha2::{Digest, Sha256};

use super::check_message;

/// Bytes: a file.
pub fn file(data: &[u8]) {
    match Checkpoint::from_bytes(data) {
        Ok(checkpoint) => check(&checkpoint),
        Err(fault) => check_message(&fault),
    }
}

/// Names of the sections, in their order.
const SECTIONS: [&[u8]; 7] = [
    b"loop",
    b"settings",
    b"windows",
    b"carried",
    b"model",
    b"optim",
    b"sched",
];
/// What parts the sections in the bytes of [`parts`].
pub const SEPARATOR: &[u8] = b"\n--\n";

/// Bytes: contents of the sections, parted by [`SEPARATOR`]. Whatever they are, the file around them is sound, so that the
/// code behind the checksum is reached.
pub fn parts(data: &[u8]) {
    file(&signed(&sections(data)));
}

/// Contents by the names of their sections.
pub fn sections(mut data: &[u8]) -> Vec<(&[u8], &[u8])> {
    let mut found = Vec::new();
    for (index, name) in SECTIONS.iter().enumerate() {
        let at = data.windows(SEPARATOR.len()).position(|w| w == SEPARATOR);
        match at.filter(|_| index + 1 < SECTIONS.len()) {
            Some(at) => {
                found.push((*name, &data[..at]));
                data = &data[at + SEPARATOR.len()..];
            }
            None => {
                found.push((*name, data));
                data = &[];
            }
        }
    }
    found
}

/// A file by the description of the format, written apart from the code that reads it.
pub fn signed(sections: &[(&[u8], &[u8])]) -> Vec<u8> {
    let contents: usize = sections.iter().map(|(_, bytes)| bytes.len()).sum();
    let length = 24 + 16 * sections.len() + contents + 32;
    let mut bytes = b"atbpttCK\x04\0\0\0".to_vec();
    bytes.extend((sections.len() as u32).to_le_bytes());
    bytes.extend((length as u64).to_le_bytes());
    for (name, contents) in sections {
        let mut padded = [0; 8];
        padded[..name.len()].copy_from_slice(name);
        bytes.extend(padded);
        bytes.extend((contents.len() as u64).to_le_bytes());
    }
    for (_, contents) in sections {
        bytes.extend(*contents);
    }
    let digest = Sha256::digest(&bytes);
    bytes.extend(digest);
    bytes
}

/// The model that the seeds' weights belong to.
pub fn model(device: &Device) -> LanguageModel<LstmLayer> {
    let config = LanguageModelConfig::new(3).with_hidden(1).with_dropout(0.0);
    config.init(device).expect("a small model")
}

fn check(checkpoint: &Checkpoint) {
    let bytes = checkpoint.to_bytes().expect("its own bytes");
    let again = Checkpoint::from_bytes(&bytes).expect("its own file");
    assert_eq!(again.to_bytes().expect("its own bytes"), bytes);
    assert_eq!(again.settings(), checkpoint.settings());
    assert_eq!(again.reports(), checkpoint.reports());
    assert_eq!(again.policy(), checkpoint.policy());
    assert_eq!(again.identity(), checkpoint.identity());
    assert_eq!(
        (again.step(), again.epochs()),
        (checkpoint.step(), checkpoint.epochs())
    );

    let _ = checkpoint.best_epoch();
    for report in checkpoint.reports() {
        let _ = (
            report.to_string(),
            report.tokens_per_second(),
            report.probe_share(),
        );
    }
    let (refused, _) = checkpoint.identity().differences(&Identity::new());
    refused.iter().for_each(check_message);
    restore_policies(checkpoint);

    // Code of Burn's that panics is caught inside; libFuzzer's hook would end the process before.
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    static MODEL: OnceLock<LanguageModel<LstmLayer>> = OnceLock::new();
    let template = MODEL.get_or_init(|| model(&Device::flex())).clone();
    let loaded = checkpoint.model(template);
    panic::set_hook(hook);
    if let Err(error) = loaded {
        check_message(&error);
    }
}

/// A policy that takes a state over goes on within its own bounds.
fn restore_policies(checkpoint: &Checkpoint) {
    let adaptive = AdaptiveKConfig::new(0.5).with_k0(4).with_k_max(9);
    let artbp = ArtbpConfig::new(4).with_longest(9);
    let policies: [Box<dyn TruncationPolicy>; 4] = [
        Box::new(adaptive.init().expect("in range")),
        Box::new(FixedKConfig::new(4).init().expect("in range")),
        Box::new(RandomLengthConfig::new(4).init().expect("in range")),
        Box::new(artbp.init().expect("in range")),
    ];
    let mut taken = 0;
    for mut policy in policies {
        if policy.restore(checkpoint.policy().clone()).is_err() {
            continue;
        }
        taken += 1;
        for update in 0..3 {
            let bounds = 1..=policy.k_max();
            assert!(bounds.contains(&policy.k()), "{policy:?}");
            let window = policy.next_window();
            assert!(bounds.contains(&window.k), "{policy:?}");
            assert!(window.step_scale > 0.0 && window.step_scale.is_finite());
            assert!(window.compensation.len() < window.k);
            let at = Position { epoch: 1, update };
            let _ = policy.monitor().probes_due(at);
            let estimate = policy.monitor().last_estimate();
            assert!(estimate.is_none_or(|e| !e.relative_bias(policy.k()).is_nan()));
            let (probes, scheme) = (Vec::new(), Scheme::Chunked);
            policy.update(at, Measurement::Norms { probes, scheme });
        }
    }
    assert!(taken <= 1, "one state for several kinds of policy");
}
