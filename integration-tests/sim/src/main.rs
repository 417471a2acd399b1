//! `cargo sim`: runs seeds.

fn main() {
    let seed: u64 = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let n: u64 = std::env::args().nth(2).and_then(|s| s.parse().ok()).unwrap_or(1);
    let mut tally = grayfin_sim::tally::Tally::default();
    for s in seed..seed + n {
        let o = grayfin_sim::run::run(s, None, n == 1);
        for l in &o.trace {
            println!("{l}");
        }
        tally.add(&o.tally);
        if !o.broken.is_empty() {
            println!("seed {s}: {:?} at {} ms", o.broken, o.virtual_ms);
        }
    }
    for (k, v) in tally.all() {
        println!("{v:>8} {k}");
    }
}
