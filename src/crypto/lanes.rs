//! SHA-384 of several messages at once.
//!
//! One message can only be hashed step after step, and most of a processor's vector unit is idle meanwhile. Four messages side by
//! side, one in each 64-bit lane of an AVX2 register, take about as long as one and a half: two to three times the rate, and twice that where AVX-512
//! brings rotations and three-way logic to the same registers. The technique is known as multi-buffer hashing (Gueron and Krasnov, "Simultaneous Hashing of Multiple Messages", 2012).
//!
//! Messages may differ in length: a lane whose message ends takes the next. On processors without AVX2, and for what is left over when
//! a single message is not finished yet, the `sha2` crate's own compression function does the work. Constants and steps are those of FIPS 180-4.

use sha2::block_api::compress512;

/// Bytes that the compression function takes at a time.
const STEP_BYTES: usize = 128;
type Step = [u8; STEP_BYTES];
type State = [u64; 8];

/// How many messages are worked on at once.
pub(super) const LANES: usize = 4;

/// Whether this processor hashes several messages in less time than one after the other.
#[cfg(target_arch = "x86_64")]
pub(super) fn are_together() -> bool {
    vector::Processor::detect().is_some()
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) fn are_together() -> bool {
    false
}

/// FIPS 180-4, 5.3.4.
const INITIAL: State = [
    0xcbbb_9d5d_c105_9ed8,
    0x629a_292a_367c_d507,
    0x9159_015a_3070_dd17,
    0x152f_ecd8_f70e_5939,
    0x6733_2667_ffc0_0b31,
    0x8eb4_4a87_6858_1511,
    0xdb0c_2e0d_64f9_8fa7,
    0x47b5_481d_befa_4fa4,
];

/// Steps between two looks for further messages while not all lanes are busy: some 0.1 ms.
const STEPS_AT_ONCE: usize = 512;

/// Hashes what `next` gives until it gives nothing and all is done; `done` gets each message with its digest, in any order.
///
/// `next` is asked whenever a lane is free, and told how many are busy: it may wait for a message, and should not for long when some are.
pub(super) fn sha384<M: AsRef<[u8]>>(
    mut next: impl FnMut(usize) -> Option<M>,
    mut done: impl FnMut(M, [u8; 48]),
) {
    let mut lanes: Vec<Lane<M>> = Vec::with_capacity(LANES);
    loop {
        while lanes.len() < LANES
            && let Some(message) = next(lanes.len())
        {
            lanes.push(Lane::new(message));
        }
        let Some(steps) = lanes.iter().map(Lane::steps_left).min() else {
            return;
        };
        let steps = steps.min(STEPS_AT_ONCE);
        if lanes.len() == 1 || !step_together(&mut lanes, steps) {
            for lane in &mut lanes {
                lane.step_alone(steps);
            }
        }
        for at in (0..lanes.len()).rev() {
            if lanes[at].steps_left() == 0 {
                let lane = lanes.swap_remove(at);
                let digest = lane.finish();
                done(lane.message, digest);
            }
        }
    }
}

/// One message on its way.
struct Lane<M> {
    message: M,
    state: State,
    /// Whole steps that were taken.
    taken: usize,
}

impl<M: AsRef<[u8]>> Lane<M> {
    fn new(message: M) -> Self {
        Self {
            message,
            state: INITIAL,
            taken: 0,
        }
    }

    /// The whole steps of the message that are still to be taken, and what follows the last whole step.
    fn rest(&self) -> (&[Step], &[u8]) {
        let (steps, tail) = self.message.as_ref().as_chunks();
        (&steps[self.taken..], tail)
    }

    fn steps_left(&self) -> usize {
        self.rest().0.len()
    }

    fn step_alone(&mut self, steps: usize) {
        let mut state = self.state;
        compress512(&mut state, &self.rest().0[..steps]);
        self.state = state;
        self.taken += steps;
    }

    /// Pads the message as FIPS 180-4, 5.1.2, has it.
    fn finish(&self) -> [u8; 48] {
        let (_, tail) = self.rest();
        let mut last = [[0; STEP_BYTES]; 2];
        let padded = last.as_flattened_mut();
        padded[..tail.len()].copy_from_slice(tail);
        padded[tail.len()] = 0x80;
        let steps = (tail.len() + 1 + 16).div_ceil(STEP_BYTES);
        let end = steps * STEP_BYTES;
        let bits = self.message.as_ref().len() as u128 * 8;
        padded[end - 16..end].copy_from_slice(&bits.to_be_bytes());
        let mut state = self.state;
        compress512(&mut state, &last[..steps]);
        let mut digest = [0; 48];
        for (out, word) in digest.chunks_exact_mut(8).zip(state) {
            out.copy_from_slice(&word.to_be_bytes());
        }
        digest
    }
}

/// Takes `steps` steps of each lane. `false`: this processor can't, and nothing was done.
#[cfg(target_arch = "x86_64")]
fn step_together<M: AsRef<[u8]>>(lanes: &mut [Lane<M>], steps: usize) -> bool {
    let Some(processor) = vector::Processor::detect() else {
        return false;
    };
    let Some(first) = lanes.first() else {
        return true;
    };
    // A lane without a message repeats the first one's and is not looked at afterwards.
    let mut messages = [&first.rest().0[..steps]; LANES];
    let mut states = [INITIAL; LANES];
    for (lane, (message, state)) in lanes.iter().zip(messages.iter_mut().zip(&mut states)) {
        *message = &lane.rest().0[..steps];
        *state = lane.state;
    }
    vector::steps(processor, messages, &mut states);
    for (lane, state) in lanes.iter_mut().zip(states) {
        lane.state = state;
        lane.taken += steps;
    }
    true
}

#[cfg(not(target_arch = "x86_64"))]
fn step_together<M: AsRef<[u8]>>(_: &mut [Lane<M>], _: usize) -> bool {
    false
}

#[cfg(target_arch = "x86_64")]
mod vector {
    use pulp::x86::{V3, V4};
    use pulp::{NullaryFnOnce, u64x4};

    use super::{LANES, State, Step};

    /// FIPS 180-4, 4.2.3.
    const ROUNDS: [u64; 80] = [
        0x428a_2f98_d728_ae22,
        0x7137_4491_23ef_65cd,
        0xb5c0_fbcf_ec4d_3b2f,
        0xe9b5_dba5_8189_dbbc,
        0x3956_c25b_f348_b538,
        0x59f1_11f1_b605_d019,
        0x923f_82a4_af19_4f9b,
        0xab1c_5ed5_da6d_8118,
        0xd807_aa98_a303_0242,
        0x1283_5b01_4570_6fbe,
        0x2431_85be_4ee4_b28c,
        0x550c_7dc3_d5ff_b4e2,
        0x72be_5d74_f27b_896f,
        0x80de_b1fe_3b16_96b1,
        0x9bdc_06a7_25c7_1235,
        0xc19b_f174_cf69_2694,
        0xe49b_69c1_9ef1_4ad2,
        0xefbe_4786_384f_25e3,
        0x0fc1_9dc6_8b8c_d5b5,
        0x240c_a1cc_77ac_9c65,
        0x2de9_2c6f_592b_0275,
        0x4a74_84aa_6ea6_e483,
        0x5cb0_a9dc_bd41_fbd4,
        0x76f9_88da_8311_53b5,
        0x983e_5152_ee66_dfab,
        0xa831_c66d_2db4_3210,
        0xb003_27c8_98fb_213f,
        0xbf59_7fc7_beef_0ee4,
        0xc6e0_0bf3_3da8_8fc2,
        0xd5a7_9147_930a_a725,
        0x06ca_6351_e003_826f,
        0x1429_2967_0a0e_6e70,
        0x27b7_0a85_46d2_2ffc,
        0x2e1b_2138_5c26_c926,
        0x4d2c_6dfc_5ac4_2aed,
        0x5338_0d13_9d95_b3df,
        0x650a_7354_8baf_63de,
        0x766a_0abb_3c77_b2a8,
        0x81c2_c92e_47ed_aee6,
        0x9272_2c85_1482_353b,
        0xa2bf_e8a1_4cf1_0364,
        0xa81a_664b_bc42_3001,
        0xc24b_8b70_d0f8_9791,
        0xc76c_51a3_0654_be30,
        0xd192_e819_d6ef_5218,
        0xd699_0624_5565_a910,
        0xf40e_3585_5771_202a,
        0x106a_a070_32bb_d1b8,
        0x19a4_c116_b8d2_d0c8,
        0x1e37_6c08_5141_ab53,
        0x2748_774c_df8e_eb99,
        0x34b0_bcb5_e19b_48a8,
        0x391c_0cb3_c5c9_5a63,
        0x4ed8_aa4a_e341_8acb,
        0x5b9c_ca4f_7763_e373,
        0x682e_6ff3_d6b2_b8a3,
        0x748f_82ee_5def_b2fc,
        0x78a5_636f_4317_2f60,
        0x84c8_7814_a1f0_ab72,
        0x8cc7_0208_1a64_39ec,
        0x90be_fffa_2363_1e28,
        0xa450_6ceb_de82_bde9,
        0xbef9_a3f7_b2c6_7915,
        0xc671_78f2_e372_532b,
        0xca27_3ece_ea26_619c,
        0xd186_b8c7_21c0_c207,
        0xeada_7dd6_cde0_eb1e,
        0xf57d_4f7f_ee6e_d178,
        0x06f0_67aa_7217_6fba,
        0x0a63_7dc5_a2c8_98a6,
        0x113f_9804_bef9_0dae,
        0x1b71_0b35_131c_471b,
        0x28db_77f5_2304_7d84,
        0x32ca_ab7b_40c7_2493,
        0x3c9e_be0a_15c9_bebc,
        0x431d_67c4_9c10_0d4c,
        0x4cc5_d4be_cb3e_42b6,
        0x597f_299c_fc65_7e2a,
        0x5fcb_6fab_3ad6_faec,
        0x6c44_198c_4a47_5817,
    ];

    /// What the processor has.
    #[derive(Clone, Copy)]
    pub(super) enum Processor {
        /// AVX2.
        V3(V3),
        /// AVX-512 for registers of 256 bits too.
        V4(V4),
    }

    impl Processor {
        pub(super) fn detect() -> Option<Self> {
            let newer = V4::try_new().map(Self::V4);
            newer.or_else(|| V3::try_new().map(Self::V3))
        }
    }

    /// The compression function of four messages. All have equally many steps.
    pub(super) fn steps(
        processor: Processor,
        messages: [&[Step]; LANES],
        states: &mut [State; LANES],
    ) {
        match processor {
            Processor::V3(simd) => simd.vectorize(Steps {
                simd,
                messages,
                states,
            }),
            // The same steps: the compiler finds the rotations and the logic of three operands in them.
            Processor::V4(wider) => wider.vectorize(Steps {
                simd: *wider,
                messages,
                states,
            }),
        }
    }

    struct Steps<'a> {
        simd: V3,
        messages: [&'a [Step]; LANES],
        states: &'a mut [State; LANES],
    }

    impl NullaryFnOnce for Steps<'_> {
        type Output = ();

        // Everything below must be inlined into the function that `vectorize` compiles for the processor.
        #[inline(always)]
        fn call(self) {
            let Self {
                simd,
                messages: [first, second, third, fourth],
                states,
            } = self;
            let mut state: [u64x4; 8] = std::array::from_fn(|word| {
                u64x4(
                    states[0][word],
                    states[1][word],
                    states[2][word],
                    states[3][word],
                )
            });
            for (((a, b), c), d) in first.iter().zip(second).zip(third).zip(fourth) {
                let words = std::array::from_fn(|at| {
                    u64x4(word(a, at), word(b, at), word(c, at), word(d, at))
                });
                let after = rounds(simd, state, words);
                state = std::array::from_fn(|at| simd.wrapping_add_u64x4(state[at], after[at]));
            }
            for (word, u64x4(a, b, c, d)) in state.into_iter().enumerate() {
                states[0][word] = a;
                states[1][word] = b;
                states[2][word] = c;
                states[3][word] = d;
            }
        }
    }

    #[inline(always)]
    fn word(step: &Step, at: usize) -> u64 {
        let (words, _) = step.as_chunks();
        u64::from_be_bytes(words[at])
    }

    /// FIPS 180-4, 6.4.2, steps 1 to 3. The message schedule is kept as a ring of 16 words.
    #[inline(always)]
    fn rounds(simd: V3, mut state: [u64x4; 8], mut words: [u64x4; 16]) -> [u64x4; 8] {
        for (sixteen, constants) in ROUNDS.as_chunks::<16>().0.iter().enumerate() {
            // Written out, so that each word and each variable has a register of its own where there are enough.
            macro_rules! take {
                ($($at:literal)*) => {$(
                    if sixteen > 0 {
                        extend::<$at>(simd, &mut words);
                    }
                    round::<$at>(simd, &mut state, words[$at], constants[$at]);
                )*};
            }
            take!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        }
        state
    }

    /// The word of the message schedule that follows the last 16, in the place of the oldest.
    #[inline(always)]
    fn extend<const AT: usize>(simd: V3, words: &mut [u64x4; 16]) {
        let (early, late) = (words[(AT + 1) % 16], words[(AT + 14) % 16]);
        let small0 = xor3(
            simd,
            rotate::<1, 63>(simd, early),
            rotate::<8, 56>(simd, early),
            simd.shr_const_u64x4::<7>(early),
        );
        let small1 = xor3(
            simd,
            rotate::<19, 45>(simd, late),
            rotate::<61, 3>(simd, late),
            simd.shr_const_u64x4::<6>(late),
        );
        let add = |x, y| simd.wrapping_add_u64x4(x, y);
        words[AT] = add(add(words[AT], small0), add(words[(AT + 9) % 16], small1));
    }

    /// One round. The variables a to h stay where they are: from one round to the next their names move on by one place.
    #[inline(always)]
    fn round<const AT: usize>(simd: V3, state: &mut [u64x4; 8], word: u64x4, constant: u64) {
        const { assert!(AT < 16) }
        let place = |name: usize| (name + 16 - AT) % 8;
        let [a, b, c, d, e, f, g, h] = std::array::from_fn(|name| state[place(name)]);
        let add = |x, y| simd.wrapping_add_u64x4(x, y);
        let big1 = xor3(
            simd,
            rotate::<14, 50>(simd, e),
            rotate::<18, 46>(simd, e),
            rotate::<41, 23>(simd, e),
        );
        let choice = simd.xor_u64x4(g, simd.and_u64x4(e, simd.xor_u64x4(f, g)));
        let constant = add(simd.splat_u64x4(constant), word);
        let first = add(add(h, constant), add(big1, choice));
        let big0 = xor3(
            simd,
            rotate::<28, 36>(simd, a),
            rotate::<34, 30>(simd, a),
            rotate::<39, 25>(simd, a),
        );
        let majority = simd.or_u64x4(simd.and_u64x4(a, b), simd.and_u64x4(c, simd.or_u64x4(a, b)));
        state[place(3)] = add(d, first);
        state[place(7)] = add(first, add(big0, majority));
    }

    #[inline(always)]
    fn xor3(simd: V3, x: u64x4, y: u64x4, z: u64x4) -> u64x4 {
        simd.xor_u64x4(simd.xor_u64x4(x, y), z)
    }

    /// Rotates right by `RIGHT` bits; `LEFT` is 64 - `RIGHT`.
    #[inline(always)]
    fn rotate<const RIGHT: i32, const LEFT: i32>(simd: V3, x: u64x4) -> u64x4 {
        const { assert!(RIGHT + LEFT == 64) }
        simd.or_u64x4(
            simd.shr_const_u64x4::<RIGHT>(x),
            simd.shl_const_u64x4::<LEFT>(x),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sha2::{Digest, Sha384};

    /// What the compression function makes of one step in each lane, with everything that this processor has.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn every_kind_of_register_gives_the_same() {
        let messages: [Vec<Step>; LANES] = std::array::from_fn(|lane| {
            let step = |at: usize| std::array::from_fn(|byte| (7 * lane + 31 * at + byte) as u8);
            (0..5).map(step).collect()
        });
        let expected: [State; LANES] = std::array::from_fn(|lane| {
            let mut state = INITIAL;
            compress512(&mut state, &messages[lane]);
            state
        });
        let kinds = [
            pulp::x86::V3::try_new().map(vector::Processor::V3),
            pulp::x86::V4::try_new().map(vector::Processor::V4),
        ];
        for processor in kinds.into_iter().flatten() {
            let mut states = [INITIAL; LANES];
            let slices = std::array::from_fn(|lane| messages[lane].as_slice());
            vector::steps(processor, slices, &mut states);
            assert_eq!(states, expected);
        }
    }

    fn all(messages: &[&[u8]]) -> Vec<[u8; 48]> {
        let mut digests = vec![[0; 48]; messages.len()];
        let mut waiting = messages.iter().enumerate().map(Numbered);
        sha384(
            |_| waiting.next(),
            |Numbered((at, _)), digest| digests[at] = digest,
        );
        digests
    }

    struct Numbered<'a>((usize, &'a &'a [u8]));

    impl AsRef<[u8]> for Numbered<'_> {
        fn as_ref(&self) -> &[u8] {
            self.0.1
        }
    }

    fn reference(message: &[u8]) -> [u8; 48] {
        Sha384::digest(message).into()
    }

    proptest! {
        #[test]
        fn equals_the_reference(messages in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 0..1500), 0..12,
        )) {
            let slices: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
            let expected: Vec<_> = slices.iter().map(|message| reference(message)).collect();
            prop_assert_eq!(all(&slices), expected);
        }
    }

    /// Padding is where lengths matter: every length around one and two steps, in every number of lanes.
    #[test]
    fn every_length_around_a_step() {
        let bytes: Vec<u8> = (0..=255).cycle().take(400).collect();
        for len in 0..300 {
            for count in 1..=LANES + 1 {
                let messages: Vec<&[u8]> =
                    (0..count).map(|lane| &bytes[lane..lane + len]).collect();
                let expected: Vec<_> = messages.iter().map(|message| reference(message)).collect();
                assert_eq!(all(&messages), expected, "{count} of {len} bytes");
            }
        }
        assert!(all(&[]).is_empty());
    }
}
