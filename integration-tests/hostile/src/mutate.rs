//! Mutations by a seed: the same seed makes the same bytes on every machine.

/// Numbers that readers trip over.
const NUMBERS: [u32; 8] = [0, 1, 0x7f, 0x80, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x4000_0001];

/// Text that readers of text trip over.
const WORDS: [&[u8]; 12] = [
    b"\n",
    b"\0",
    b"=",
    b"[",
    b"{",
    b"\"",
    b"\\u0000",
    b"9999999999999999999999",
    b"-1",
    b"\xff\xfe",
    b"\xf0\x9f\x92\xa9",
    b",,,,",
];

/// A mutation lengthens its input by this much at most.
const GROWTH_MAX: usize = 32_768;

/// A small generator.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Begins with a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns a number below `sides`, which must not be 0.
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let sides = u64::try_from(sides.max(1)).unwrap_or(u64::MAX);
        usize::try_from((mixed ^ (mixed >> 31)) % sides).unwrap_or(0)
    }
}

/// Changes the input in one to four places.
pub fn mutated(input: &[u8], dice: &mut Dice) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=dice.roll(4) {
        once(&mut bytes, dice);
    }
    bytes
}

fn once(bytes: &mut Vec<u8>, dice: &mut Dice) {
    let at = dice.roll(bytes.len().saturating_add(1)).min(bytes.len());
    match dice.roll(9) {
        0 => bytes.truncate(at),
        1 | 2 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 1 << dice.roll(8);
            }
        }
        3 => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = u8::try_from(dice.roll(256)).unwrap_or(0);
            }
        }
        4 => {
            let number = NUMBERS.get(dice.roll(NUMBERS.len())).copied().unwrap_or_default();
            let new = if dice.roll(2) == 0 { number.to_le_bytes() } else { number.to_be_bytes() };
            for (offset, byte) in new.into_iter().enumerate() {
                if let Some(place) = bytes.get_mut(at.saturating_add(offset)) {
                    *place = byte;
                }
            }
        }
        5 => {
            let word = WORDS.get(dice.roll(WORDS.len())).copied().unwrap_or_default();
            drop(bytes.splice(at..at, word.iter().copied()));
        }
        6 => {
            let end = at.saturating_add(dice.roll(40)).min(bytes.len());
            drop(bytes.drain(at..end));
        }
        7 => {
            let end = at.saturating_add(dice.roll(200)).min(bytes.len());
            let part: Vec<u8> = bytes.get(at..end).unwrap_or_default().to_vec();
            drop(bytes.splice(at..at, part));
        }
        _ => {
            // Depth: the same opening again and again.
            let byte = bytes.get(at).copied().unwrap_or(b'[');
            let most = GROWTH_MAX.min(64 << dice.roll(10));
            let times = dice.roll(most);
            drop(bytes.splice(at..at, std::iter::repeat_n(byte, times)));
        }
    }
}
