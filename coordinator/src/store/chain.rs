//! SHA-256 for the events' hash chain, which the core builds and checks.

use sha2::{Digest, Sha256};

/// Returns the SHA-256 of bytes in hex: the hasher that the core is given everywhere.
pub fn sha256_hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_hash_is_sha_256() {
        // The second test vector of FIPS 180.
        assert_eq!(
            super::sha256_hex(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
