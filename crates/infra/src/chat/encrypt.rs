//! The encryption of push messages: RFC 8291 over the `aes128gcm` content coding (RFC 8188), in one record.

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use gravity_domain::chat::PushKeys;

/// Push services take 4,096 bytes: less header, tag and delimiter.
pub(super) const LONGEST: usize = 4_096 - 86 - 16 - 1;
const RECORD_SIZE: u32 = 4_096;

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

fn expand<const N: usize>(key: &Prk, info: &[&[u8]]) -> Result<[u8; N], Unspecified> {
    let mut out = [0; N];
    key.expand(info, Length(N))?.fill(&mut out)?;
    Ok(out)
}

/// Encrypts `plain` to `keys` under a key pair of its own.
pub(super) fn encrypt(plain: &[u8], keys: &PushKeys) -> Result<Vec<u8>, Unspecified> {
    let own = PrivateKey::generate(&ECDH_P256)?;
    let mut salt = [0; 16];
    aws_lc_rs::rand::fill(&mut salt)?;
    encrypt_with(plain, keys, &own, salt)
}

fn encrypt_with(
    plain: &[u8],
    keys: &PushKeys,
    own: &PrivateKey,
    salt: [u8; 16],
) -> Result<Vec<u8>, Unspecified> {
    let is_point = keys.p256dh.len() == 65 && keys.p256dh[0] == 4;
    if !is_point || keys.auth.len() != 16 || plain.len() > LONGEST {
        return Err(Unspecified);
    }
    let own_public = own.compute_public_key()?;
    let theirs = UnparsedPublicKey::new(&ECDH_P256, keys.p256dh.as_slice());
    let input: [u8; 32] = agree(own, theirs, Unspecified, |shared| {
        let info: [&[u8]; 3] = [b"WebPush: info\0", &keys.p256dh, own_public.as_ref()];
        expand(&Salt::new(HKDF_SHA256, &keys.auth).extract(shared), &info)
    })?;
    let key = Salt::new(HKDF_SHA256, &salt).extract(&input);
    let content_key: [u8; 16] = expand(&key, &[b"Content-Encoding: aes128gcm\0"])?;
    let nonce: [u8; 12] = expand(&key, &[b"Content-Encoding: nonce\0"])?;

    let mut record = plain.to_vec();
    // The delimiter of the last record.
    record.push(2);
    let sealing = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &content_key)?);
    sealing.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut record)?;

    let mut message = salt.to_vec();
    message.extend_from_slice(&RECORD_SIZE.to_be_bytes());
    message.push(65);
    message.extend_from_slice(own_public.as_ref());
    message.append(&mut record);
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    fn bytes(text: &str) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(text).unwrap()
    }

    fn keys() -> PushKeys {
        PushKeys {
            p256dh: bytes(
                "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
            ),
            auth: bytes("BTBZMqHH6r4Tts7J_aSIgg"),
        }
    }

    #[test]
    fn the_example_of_rfc_8291_comes_out_byte_for_byte() {
        let own =
            PrivateKey::from_private_key(&ECDH_P256, &bytes("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"))
                .unwrap();
        let salt = bytes("DGv6ra1nlYgDCS1FRnbzlw").try_into().unwrap();
        let plain = b"When I grow up, I want to be a watermelon";
        let message = encrypt_with(plain, &keys(), &own, salt).unwrap();
        let expected = concat!(
            "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27ml",
            "mlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPT",
            "pK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN",
        );
        assert_eq!(URL_SAFE_NO_PAD.encode(message), expected);
    }

    #[test]
    fn no_two_messages_are_alike_and_the_longest_fits() {
        let plain = vec![b'x'; LONGEST];
        let one = encrypt(&plain, &keys()).unwrap();
        assert_ne!(one, encrypt(&plain, &keys()).unwrap());
        assert_eq!(one.len(), 4_096);
        assert!(encrypt(&vec![b'x'; LONGEST + 1], &keys()).is_err());
    }

    #[test]
    fn keys_that_are_none_are_refused() {
        let mut off_curve = keys();
        off_curve.p256dh[64] ^= 1;
        let mut short = keys();
        short.auth.pop();
        let mut cut = keys();
        cut.p256dh.truncate(33);
        for bad in [off_curve, short, cut] {
            assert!(encrypt(b"x", &bad).is_err());
        }
    }
}
