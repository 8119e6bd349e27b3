//! The verifier against those who would get past it. Keys and tokens are made here.

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::encoding::encode;
use super::{Expected, KeyFault, KeySet, PrivateKey, PublicKey, TOKEN_MAX, TokenFault, now, peek};

fn pem(der: &[u8]) -> String {
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der))
}

fn ed25519() -> PrivateKey {
    PrivateKey::generate().expect("random numbers").0
}

fn p256() -> PrivateKey {
    let der = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).expect("a key");
    PrivateKey::from_pem(&pem(der.as_ref())).expect("PKCS #8")
}

fn rsa() -> PrivateKey {
    let pair = KeyPair::generate(KeySize::Rsa2048).expect("a key");
    let der: aws_lc_rs::encoding::Pkcs8V1Der<'static> = pair.as_der().expect("DER");
    PrivateKey::from_pem(&pem(der.as_ref())).expect("PKCS #8")
}

fn jwks(keys: &[Value]) -> Vec<PublicKey> {
    KeySet::read(&json!({ "keys": keys }).to_string()).expect("a JWKS")
}

fn set(keys: Vec<PublicKey>) -> KeySet {
    KeySet::of(keys).expect("a set")
}

fn good() -> Value {
    json!({"sub": "alice", "aud": "mmapd", "iss": "us", "exp": now() + 60, "capabilities": ["FileRead"]})
}

fn expected() -> Expected {
    Expected { audiences: vec!["mmapd".into()], issuers: vec!["us".into()], leeway: std::time::Duration::ZERO }
}

fn fault(keys: &KeySet, token: &str) -> TokenFault {
    keys.verify(token, &expected(), now()).expect_err("it has to be refused")
}

#[test]
fn a_token_of_each_kind_of_key_holds_by_jwks_and_by_pem() {
    for key in [ed25519(), p256(), rsa()] {
        let token = key.sign(&json!({"alg": key.algorithm().as_str()}), &good()).expect("a token");
        let by_pem = set(KeySet::read(&key.public_pem().expect("PEM")).expect("PEM"));
        assert_eq!(by_pem.verify(&token, &expected(), now()).expect("it holds").claims.sub, "alice", "{key:?}");
        let Ok(jwk) = key.public_jwk(Some("k1")) else { continue };
        let named = key.sign(&json!({"alg": key.algorithm().as_str(), "kid": "k1"}), &good()).expect("a token");
        let by_jwks = set(jwks(&[jwk]));
        by_jwks.verify(&named, &expected(), now()).expect("a token that names its key holds");
        by_jwks.verify(&token, &expected(), now()).expect("and so does one that names none");
        by_pem.verify(&named, &expected(), now()).expect("and one that names what PEM cannot say");
    }
}

#[test]
fn an_algorithm_that_is_not_the_keys_is_refused_whatever_the_header_says() {
    let (key, other) = (rsa(), p256());
    let public = key.public_pem().expect("PEM");
    let keys = set(KeySet::read(&public).expect("PEM"));
    let unsigned = |alg: &str| format!("{}.{}.", encode(json!({ "alg": alg }).to_string()), encode(good().to_string()));
    for alg in ["none", "None", "NONE", "", "HS256", "RS384", "PS256", "ES384"] {
        assert_eq!(fault(&keys, &unsigned(alg)), TokenFault::Algorithm, "{alg}");
    }
    // The classic: the public key's bytes as an HMAC's secret.
    let secret = hmac::Key::new(hmac::HMAC_SHA256, public.as_bytes());
    let message = format!("{}.{}", encode(json!({"alg": "HS256"}).to_string()), encode(good().to_string()));
    let token = format!("{message}.{}", encode(hmac::sign(&secret, message.as_bytes())));
    assert_eq!(fault(&keys, &token), TokenFault::Algorithm);
    for alg in ["ES256", "EdDSA"] {
        let token = key.sign(&json!({ "alg": alg }), &good()).expect("a token");
        assert_eq!(fault(&keys, &token), TokenFault::UnknownKey, "no key of {alg}");
    }
    let named = set(jwks(&[other.public_jwk(Some("k")).expect("a JWK")]));
    let confused = key.sign(&json!({"alg": "RS256", "kid": "k"}), &good()).expect("a token");
    assert_eq!(fault(&named, &confused), TokenFault::KeyConfusion);
}

#[test]
fn a_signature_by_another_key_or_of_other_bytes_is_wrong() {
    let (key, other) = (ed25519(), ed25519());
    let keys = set(jwks(&[key.public_jwk(Some("k")).expect("a JWK")]));
    let header = json!({"alg": "EdDSA", "kid": "k"});
    assert_eq!(fault(&keys, &other.sign(&header, &good()).expect("a token")), TokenFault::Signature);
    let token = key.sign(&header, &good()).expect("a token");
    let parts: Vec<&str> = token.split('.').collect();
    let more = json!({"sub": "root", "aud": "mmapd", "iss": "us", "exp": now() + 60});
    assert_eq!(fault(&keys, &format!("{}.{}.{}", parts[0], encode(more.to_string()), parts[2])), TokenFault::Signature);
    assert_eq!(fault(&keys, &format!("{}.{}.", parts[0], parts[1])), TokenFault::Signature);
    let unknown = key.sign(&json!({"alg": "EdDSA", "kid": "other"}), &good()).expect("a token");
    assert_eq!(fault(&keys, &unknown), TokenFault::UnknownKey);
    assert_eq!(fault(&KeySet::default(), &token), TokenFault::UnknownKey);
    let critical = key.sign(&json!({"alg": "EdDSA", "crit": ["b64"], "b64": false}), &good()).expect("a token");
    assert_eq!(fault(&keys, &critical), TokenFault::Critical);
}

#[test]
fn what_a_token_says_is_checked_with_leeway_for_its_times_only() {
    let key = ed25519();
    let keys = set(KeySet::read(&key.public_pem().expect("PEM")).expect("PEM"));
    let token = |change: Value| {
        let mut claims = good();
        for (name, value) in change.as_object().expect("an object") {
            claims[name.as_str()] = value.clone();
        }
        claims.as_object_mut().expect("an object").retain(|_, value| *value != json!("gone"));
        key.sign(&json!({"alg": "EdDSA"}), &claims).expect("a token")
    };
    let at = now();
    for (change, wanted) in [
        (json!({"exp": at - 40}), TokenFault::Expired(40)),
        (json!({"exp": at}), TokenFault::Expired(0)),
        (json!({"nbf": at + 40}), TokenFault::NotYet(40)),
        (json!({"aud": "others"}), TokenFault::Audience),
        (json!({"aud": []}), TokenFault::Audience),
        (json!({"aud": "gone"}), TokenFault::Missing("aud")),
        (json!({"iss": "them"}), TokenFault::Issuer),
        (json!({"iss": "gone"}), TokenFault::Missing("iss")),
        (json!({"exp": "gone"}), TokenFault::Missing("exp")),
        (json!({"sub": "gone"}), TokenFault::Missing("sub")),
    ] {
        assert_eq!(keys.verify(&token(change), &expected(), at).expect_err("refused"), wanted);
    }
    for wrong in [json!({"sub": ""}), json!({"sub": 7}), json!({"paths": null}), json!({"iss": ["us"]})] {
        let refused = keys.verify(&token(wrong.clone()), &expected(), at).expect_err("refused");
        assert!(matches!(refused, TokenFault::Claims(_)), "{wrong}: {refused}");
    }
    let lenient = Expected { leeway: std::time::Duration::from_secs(30), ..expected() };
    assert_eq!(keys.verify(&token(json!({"exp": at - 29})), &lenient, at).expect("it holds").until, at + 1);
    assert!(keys.verify(&token(json!({"exp": at - 30})), &lenient, at).is_err());
    keys.verify(&token(json!({"nbf": at + 30, "aud": ["others", "mmapd"]})), &lenient, at).expect("it holds");
}

#[test]
fn garbage_is_refused_and_never_a_panic() {
    let keys = set(KeySet::read(&ed25519().public_pem().expect("PEM")).expect("PEM"));
    let head = encode(json!({"alg": "EdDSA"}).to_string());
    for garbage in
        ["", ".", "..", "...", "a.b.c", "é.é.é", "bm90IGpzb24.bm90IGpzb24.", &format!("{head}=.{head}.{head}")]
    {
        assert!(matches!(fault(&keys, garbage), TokenFault::NotAToken | TokenFault::Header), "{garbage}");
    }
    assert_eq!(fault(&keys, &format!("{head}.{head}.{head}")), TokenFault::Signature);
    assert_eq!(fault(&keys, &"x".repeat(TOKEN_MAX + 1)), TokenFault::TooLong(TOKEN_MAX + 1));
    let deep = encode("[".repeat(4000));
    assert!(peek(&format!("{head}.{deep}.")).is_err());
}

#[test]
fn keys_that_are_secret_weak_malformed_or_doubled_are_refused() {
    let (private, text) = PrivateKey::generate().expect("a key");
    assert_eq!(KeySet::read(&text).expect_err("private"), KeyFault::Secret);
    let jwk = private.public_jwk(Some("k")).expect("a JWK");
    let read = |keys: Value| KeySet::read(&json!({ "keys": keys }).to_string());
    let with = |name: &str, value: Value| {
        let mut jwk = jwk.clone();
        jwk[name] = value;
        read(json!([jwk]))
    };
    assert_eq!(with("d", json!("AA")).expect_err("private"), KeyFault::Secret);
    assert_eq!(read(json!([{"kty": "oct", "k": "AA"}])).expect_err("secret"), KeyFault::Secret);
    assert!(matches!(with("x", json!("AAAA")).expect_err("short"), KeyFault::Malformed(..)));
    for other in [json!("enc"), json!("other")] {
        assert_eq!(with("use", other).expect_err("nothing left"), KeyFault::None);
    }
    assert_eq!(with("alg", json!("ES256")).expect_err("nothing left"), KeyFault::None);
    let short = json!([{"kty": "RSA", "kid": "r", "n": encode([0xff; 128]), "e": "AQAB"}]);
    assert_eq!(read(short).expect_err("1024 bits"), KeyFault::Weak("r".to_owned()));
    let twice = jwks(&[jwk.clone(), ed25519().public_jwk(Some("k")).expect("a JWK")]);
    assert_eq!(KeySet::of(twice).expect_err("one id for two"), KeyFault::Twice("k".to_owned()));
    assert_eq!(set(jwks(&[jwk.clone(), jwk.clone()])).keys().len(), 1);
    for text in
        ["", "{}", "[]", "{\"keys\": 7}", "garbage", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"]
    {
        assert!(KeySet::read(text).is_err(), "{text:?}");
    }
}
