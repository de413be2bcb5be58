//! Session tokens: what a guest shows to read metadata in version 2.
//!
//! ```text
//!  base64( nonce 12 | encrypted expiry 8 | tag 16 )      AES-256-GCM (NIST SP 800-38D)
//! ```
//!
//! The expiry is in milliseconds of the monotonic clock, little-endian. Nothing is kept for a token: the key, which is
//! made for this process and told to nobody, is what tells a token of ours. The microVM's name is authenticated with it.

use aes_gcm::aead::{AeadInPlace, KeyInit};
use aes_gcm::{Aes256Gcm, Key, Nonce, Tag};
use rustix::rand::{GetRandomFlags, getrandom};
use vm_config::InstanceId;

use super::base64;

/// The longest life, in seconds: 6 hours.
pub const MAX_TTL_S: u32 = 21600;
/// The shortest life, in seconds.
pub const MIN_TTL_S: u32 = 1;
/// What is longer is not looked at.
const MAX_TOKEN_LEN: usize = 70;
/// Tokens under one key: random nonces stay apart with that many (NIST SP 800-38D §8.3).
const TOKENS_PER_KEY: u64 = 1 << 32;

const NONCE_LEN: usize = 12;
const EXPIRY_LEN: usize = 8;
const TAG_LEN: usize = 16;
const LEN: usize = NONCE_LEN + EXPIRY_LEN + TAG_LEN;

/// Makes tokens and knows its own again.
pub struct Authority {
    /// Authenticated with every token.
    about: Vec<u8>,
    /// Made with the first token.
    cipher: Option<Aes256Gcm>,
    /// Tokens made with it.
    made: u64,
}

/// The host has no random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRandomness;

impl Authority {
    /// For the microVM `id`.
    #[must_use]
    pub fn new(id: &InstanceId) -> Self {
        Self {
            about: format!("microvmid={id}").into_bytes(),
            cipher: None,
            made: 0,
        }
    }

    /// A token that is good for `ttl_s` seconds from `now_ms` on.
    ///
    /// # Errors
    /// When the host has no random bytes.
    pub fn issue(&mut self, ttl_s: u32, now_ms: u64) -> Result<String, NoRandomness> {
        let expiry = now_ms.saturating_add(u64::from(ttl_s).saturating_mul(1000));
        let mut token = [0; LEN];
        let (nonce, rest) = token.split_at_mut(NONCE_LEN);
        fill(nonce)?;
        let (text, tag) = rest.split_at_mut(EXPIRY_LEN);
        text.copy_from_slice(&expiry.to_le_bytes());
        if self.made >= TOKENS_PER_KEY {
            self.cipher = None;
        }
        if self.cipher.is_none() {
            self.cipher = Some(new_cipher()?);
            self.made = 0;
        }
        let cipher = self.cipher.as_ref().ok_or(NoRandomness)?;
        let sealed = cipher
            .encrypt_in_place_detached(Nonce::from_slice(nonce), &self.about, text)
            .expect("eight bytes are not too long for the cipher");
        tag.copy_from_slice(&sealed);
        self.made = self.made.saturating_add(1);
        Ok(base64::encode(&token))
    }

    /// Whether `token` is one of ours, and good at `now_ms`.
    #[must_use]
    pub fn is_valid(&self, token: &str, now_ms: u64) -> bool {
        self.expiry(token).is_some_and(|expiry| now_ms < expiry)
    }

    fn expiry(&self, token: &str) -> Option<u64> {
        let cipher = self.cipher.as_ref()?;
        if token.len() > MAX_TOKEN_LEN {
            return None;
        }
        let mut bytes: [u8; LEN] = base64::decode(token)?;
        let (nonce, rest) = bytes.split_at_mut(NONCE_LEN);
        let (text, tag) = rest.split_at_mut(EXPIRY_LEN);
        let (nonce, tag) = (Nonce::from_slice(nonce), Tag::from_slice(tag));
        let opened = cipher.decrypt_in_place_detached(nonce, &self.about, text, tag);
        opened.ok()?;
        Some(u64::from_le_bytes((&*text).try_into().ok()?))
    }
}

fn new_cipher() -> Result<Aes256Gcm, NoRandomness> {
    let mut key = Key::<Aes256Gcm>::default();
    fill(&mut key)?;
    Ok(Aes256Gcm::new(&key))
}

/// Fills `bytes` at once, or not at all: the event loop does not wait for randomness.
fn fill(bytes: &mut [u8]) -> Result<(), NoRandomness> {
    match getrandom(&mut *bytes, GetRandomFlags::NONBLOCK) {
        Ok(count) if count == bytes.len() => Ok(()),
        _ => Err(NoRandomness),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authority(id: &str) -> Authority {
        Authority::new(&id.parse().unwrap())
    }

    #[test]
    fn a_token_is_good_until_its_time_is_up() {
        let mut authority = authority("a");
        let token = authority.issue(2, 1000).unwrap();
        assert_eq!(token.len(), 48);
        assert!(authority.is_valid(&token, 1000));
        assert!(authority.is_valid(&token, 2999));
        assert!(!authority.is_valid(&token, 3000));
        let forever = authority.issue(MAX_TTL_S, u64::MAX - 1).unwrap();
        assert!(authority.is_valid(&forever, u64::MAX - 1));
    }

    #[test]
    fn tokens_of_others_are_no_good() {
        let mut ours = authority("a");
        let token = ours.issue(100, 0).unwrap();
        let mut other = authority("a");
        assert!(!other.is_valid(&token, 0), "before the first token");
        other.issue(100, 0).unwrap();
        assert!(!other.is_valid(&token, 0), "another process");
        other.cipher.clone_from(&ours.cipher);
        assert!(other.is_valid(&token, 0));
        other.about = b"microvmid=b".to_vec();
        assert!(!other.is_valid(&token, 0), "another microVM");
    }

    #[test]
    fn no_changed_token_is_good() {
        let mut authority = authority("a");
        let token = authority.issue(100, 0).unwrap();
        for index in 0..token.len() {
            let mut changed = token.clone().into_bytes();
            changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(!authority.is_valid(&changed, 0), "{changed}");
        }
        let longer = format!("{token}AAAA");
        for odd in ["", "A", &token[..47], &longer, &"A".repeat(71), "é"] {
            assert!(!authority.is_valid(odd, 0), "{odd}");
        }
    }

    #[test]
    fn tokens_differ_and_their_key_is_replaced_in_time() {
        let mut authority = authority("a");
        let first = authority.issue(100, 0).unwrap();
        let second = authority.issue(100, 0).unwrap();
        assert_ne!(first, second);
        authority.made = TOKENS_PER_KEY;
        let third = authority.issue(100, 0).unwrap();
        assert!(authority.is_valid(&third, 0));
        assert!(!authority.is_valid(&second, 0));
    }
}
