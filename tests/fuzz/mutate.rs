//! How one input becomes another, and how a failing one becomes small.

use devicedb::base::clock::Random;

/// No input grows beyond this.
const BYTES_MAX: usize = 64 << 10;
/// Numbers at which lengths and counters break.
const NUMBERS: [u64; 12] =
    [0, 1, 2, 127, 128, 255, 256, 1 << 16, (1 << 31) - 1, 1 << 31, 1 << 63, u64::MAX];
/// What texts are taken apart by.
const SIGNS: &[u8] = b" \n\t\"\\,:.=-+[]{}/0";

/// One of the corpus with a few changes; now and then nothing but chance.
pub fn input(corpus: &[Vec<u8>], rng: &mut Random) -> Vec<u8> {
    if corpus.is_empty() || rng.below(20) == 0 {
        let bytes = rng.below(200);
        return (0..bytes).map(|_| rng.next_u64() as u8).collect();
    }
    let mut input = pick(corpus, rng).clone();
    // Most inputs stay close to one that is taken: only those come far.
    for _ in 0..1 + rng.below(8).min(rng.below(8)) {
        change(&mut input, corpus, rng);
    }
    input.truncate(BYTES_MAX);
    input
}

fn change(input: &mut Vec<u8>, corpus: &[Vec<u8>], rng: &mut Random) {
    let at = place(input, rng);
    let run = at..(at + short(rng)).min(input.len());
    match rng.below(11) {
        0 => input.truncate(at),
        1 => input.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << rng.below(8)),
        2 => input.iter_mut().skip(at).take(1).for_each(|byte| *byte = rng.next_u64() as u8),
        3 => drop(input.drain(run)),
        4 => {
            let again = input[run.clone()].to_vec();
            input.splice(at..at, again);
        }
        5 => {
            let other = pick(corpus, rng);
            let from = place(other, rng);
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        6 => {
            let other = pick(corpus, rng);
            let from = place(other, rng);
            let piece = &other[from..(from + short(rng)).min(other.len())];
            input.splice(run, piece.iter().copied());
        }
        7 => number(input, at, rng),
        8 => {
            // A length that is off by a little.
            let by = [1, 2, 0xFF, 0xFE][rng.below(4) as usize];
            if let Some(byte) = input.get_mut(at) {
                *byte = byte.wrapping_add(by);
            }
        }
        9 => input.insert(at, SIGNS[rng.below(SIGNS.len() as u64) as usize]),
        _ => drop(input.splice(at..at, (0..short(rng)).map(|_| 0))),
    }
}

/// An interesting number: as fixed bytes of either end, as a varint, or in decimal.
fn number(input: &mut Vec<u8>, at: usize, rng: &mut Random) {
    let n = NUMBERS[rng.below(NUMBERS.len() as u64) as usize]
        .wrapping_add(rng.below(3))
        .wrapping_sub(1);
    let bytes = match rng.below(5) {
        0 => n.to_be_bytes().to_vec(),
        1 => n.to_le_bytes().to_vec(),
        2 => (n as u32).to_be_bytes().to_vec(),
        3 => varint(n),
        _ => n.to_string().into_bytes(),
    };
    let end = if rng.below(2) == 0 { at } else { (at + bytes.len()).min(input.len()) };
    input.splice(at..end, bytes);
}

fn varint(mut n: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while n >= 0x80 {
        bytes.push(n as u8 | 0x80);
        n >>= 7;
    }
    bytes.push(n as u8);
    bytes
}

fn pick<'a>(corpus: &'a [Vec<u8>], rng: &mut Random) -> &'a Vec<u8> {
    &corpus[rng.below(corpus.len() as u64) as usize]
}

fn place(input: &[u8], rng: &mut Random) -> usize {
    rng.below(input.len() as u64 + 1) as usize
}

fn short(rng: &mut Random) -> usize {
    let most = 1 << rng.below(8);
    1 + rng.below(most) as usize
}

/// Leaves out what the failure does not need, in ever smaller runs.
pub fn shrink(mut input: Vec<u8>, fails: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let mut tries = 4000;
    let mut run = input.len().div_ceil(2);
    while run > 0 {
        let mut at = 0;
        while at < input.len() && tries > 0 {
            tries -= 1;
            let mut smaller = input.clone();
            smaller.drain(at..(at + run).min(input.len()));
            if fails(&smaller) { input = smaller } else { at += run }
        }
        run /= 2;
    }
    input
}
