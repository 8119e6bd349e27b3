//! The token verifier and the reader of keys. Whatever the text: what the key's owner did not sign is refused, and so is
//! what it signed but is not as it has to be; a file of keys is read or refused with a sentence.

use std::sync::OnceLock;

use mmap_token::{Audience, Claims, Expected, KeySet, PrivateKey, Verified, peek};
use serde_json::{Value, json};

/// Seconds since 1970: any, as nothing here reads a clock.
const NOW: u64 = 1_800_000_000;

struct World {
    owner: PrivateKey,
    keys: KeySet,
    expected: Expected,
    /// One that holds.
    token: String,
}

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let (owner, _) = PrivateKey::generate().unwrap();
        let jwks = json!({"keys": [owner.public_jwk(Some("k1")).unwrap()]}).to_string();
        let keys = KeySet::of(KeySet::read(&jwks).unwrap()).unwrap();
        let expected = Expected { audiences: vec!["mmapd".to_owned()], ..Expected::default() };
        let claims = Claims {
            sub: "someone".to_owned(),
            capabilities: vec!["FileRead".to_owned()],
            paths: None,
            aud: Some(Audience::One("mmapd".to_owned())),
            iss: None,
            exp: NOW + 60,
            nbf: None,
            iat: None,
        };
        let token = owner.mint(Some("k1"), &claims).unwrap();
        World { owner, keys, expected, token }
    })
}

/// The first byte says what is done with the others.
pub fn token(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else { return };
    match kind % 4 {
        0 => foreign(rest),
        1 => signed(rest),
        2 => changed(rest),
        _ => keys(rest),
    }
}

fn verify(token: &str) -> Option<Verified> {
    let World { keys, expected, .. } = world();
    keys.verify(token, expected, NOW).ok()
}

/// A token that nobody signed.
fn foreign(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = peek(text);
    assert!(verify(text).is_none(), "taken: {text:?}");
}

/// A token with any header and claims, signed as it has to be.
fn signed(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Some((header, claims)) = text.split_once('\0') else { return };
    let parsed = (serde_json::from_str::<Value>(header), serde_json::from_str::<Value>(claims));
    let (Ok(header), Ok(claims)) = parsed else { return };
    let Some(Verified { claims: said, until, .. }) = verify(&world().owner.sign(&header, &claims).unwrap()) else {
        return;
    };
    assert_eq!(header["alg"], "EdDSA");
    assert!(header.get("crit").is_none_or(Value::is_null), "{header}");
    // An id that no key of the set has leaves no key to try: this set's only one has an id.
    assert!(header.get("kid").is_none_or(|id| id.is_null() || id == "k1"), "{header}");
    assert_eq!(claims["sub"], said.sub.as_str());
    assert!(!said.sub.is_empty(), "{claims}");
    assert!(said.exp >= NOW && until >= NOW, "{claims}");
    assert!(said.nbf.is_none_or(|from| from <= NOW), "{claims}");
    assert!(claims["aud"] == "mmapd" || claims["aud"].as_array().is_some_and(|all| all.contains(&json!("mmapd"))));
}

/// The token that holds, with a byte put in the place of another.
fn changed(bytes: &[u8]) {
    let [high, low, byte, ..] = bytes else { return };
    let mut token = world().token.clone().into_bytes();
    let place = usize::from(u16::from_be_bytes([*high, *low])) % token.len();
    let is_same = std::mem::replace(&mut token[place], *byte) == *byte;
    let Ok(text) = String::from_utf8(token) else { return };
    assert_eq!(verify(&text).is_some(), is_same, "{text}");
}

fn keys(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match KeySet::read(text) {
        Ok(keys) => {
            assert!(!keys.is_empty());
            let _ = KeySet::of(keys);
        }
        Err(why) => assert!(!why.to_string().is_empty()),
    }
}
