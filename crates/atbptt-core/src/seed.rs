//! Seeds from seeds: every draw of a run has one of its own, a function of the run's seed and of what the draw is for. No
//! generator's state needs saving, and a run that goes on draws what it would have drawn without a stop.

/// The constant that successive SplitMix64 states differ by: 2⁶⁴ over the golden ratio.
pub const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;

/// SplitMix64's output function (Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014): a
/// bijection of 64-bit words whose every output bit depends on every input bit.
pub const fn scramble(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A seed for the draw that `words` stand for, such as the update and the purpose; `words` in another order give another seed.
pub fn mix(seed: u64, words: impl IntoIterator<Item = u64>) -> u64 {
    let words = words.into_iter();
    words.fold(seed, |z, word| {
        scramble(z.wrapping_add(word).wrapping_add(GAMMA))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first outputs of SplitMix64 from state 1234567, as published with the reference implementation's test vectors.
    #[test]
    fn scrambled_states_are_those_of_splitmix64() {
        let mut state = 1_234_567u64;
        let mut next = || {
            state = state.wrapping_add(GAMMA);
            scramble(state)
        };
        assert_eq!(
            [next(), next(), next()],
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }

    #[test]
    fn every_word_and_their_order_matter() {
        let seeds = [mix(1, [2, 3]), mix(1, [3, 2]), mix(2, [2, 3]), mix(1, [2])];
        for (i, seed) in seeds.iter().enumerate() {
            assert!(!seeds[..i].contains(seed));
        }
        assert_eq!(mix(1, []), 1);
    }
}
