//! The cipher of everything that is sealed: AES-256-GCM-SIV (RFC 8452).
//!
//! It bears what other ciphers do not: two messages under one nonce reveal whether they are equal,
//! and no more. So a nonce may follow from what is sealed, and the same content is the same bytes
//! whoever seals it, and whenever.

use aes_gcm_siv::{
    Aes256GcmSiv, KeyInit as _, Nonce,
    aead::{Aead as _, Payload},
};

/// A key that is ready for use.
pub struct Cipher(Aes256GcmSiv);

pub const NONCE_BYTES: usize = 12;
/// By how much the tag makes longer what is sealed.
pub const TAG_BYTES: usize = 16;

impl Cipher {
    pub fn new(key: &[u8; 32]) -> Cipher {
        Cipher(Aes256GcmSiv::new(&(*key).into()))
    }

    /// Seals a message, and binds it to `with`, which is not part of it.
    pub fn seal(&self, nonce: [u8; NONCE_BYTES], with: &[u8], message: &[u8]) -> Vec<u8> {
        let payload = Payload { msg: message, aad: with };
        let sealed = self.0.encrypt(&Nonce::from(nonce), payload);
        sealed.expect("a message is far shorter than the 64 GiB that the cipher takes")
    }

    /// The message, if all three are those of its seal.
    pub fn open(&self, nonce: [u8; NONCE_BYTES], with: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        self.0.decrypt(&Nonce::from(nonce), Payload { msg: sealed, aad: with }).ok()
    }
}

/// The nonce that a hash begins with.
pub fn nonce(hash: &[u8; 32]) -> [u8; NONCE_BYTES] {
    hash[..NONCE_BYTES].try_into().expect("12 of 32 bytes")
}
