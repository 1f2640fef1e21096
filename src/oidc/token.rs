//! A token's text: its three parts, what stands in them, and its signature.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};

use crate::model::app::Secret;
use crate::model::oidc;

/// The longest token that is read, in bytes.
const TOKEN_MAX: usize = 16 * 1024;
/// The longest key id, in bytes.
const KEY_ID_MAX: usize = 512;

/// What is taken: signatures by a key that the issuer alone has. A shared secret (HS…) is none, and `none` even less.
const ALGORITHMS: [(&str, Algorithm, KeyAlgorithm); 9] = [
    ("RS256", Algorithm::RS256, KeyAlgorithm::RS256),
    ("RS384", Algorithm::RS384, KeyAlgorithm::RS384),
    ("RS512", Algorithm::RS512, KeyAlgorithm::RS512),
    ("PS256", Algorithm::PS256, KeyAlgorithm::PS256),
    ("PS384", Algorithm::PS384, KeyAlgorithm::PS384),
    ("PS512", Algorithm::PS512, KeyAlgorithm::PS512),
    ("ES256", Algorithm::ES256, KeyAlgorithm::ES256),
    ("ES384", Algorithm::ES384, KeyAlgorithm::ES384),
    ("EdDSA", Algorithm::EdDSA, KeyAlgorithm::EdDSA),
];

/// A token of the right form. Nothing in it is to be believed before its signature was found right.
pub struct Token {
    text: Secret,
    wanted: Wanted,
    claims: Map<String, Value>,
}

/// The key that a token says it was signed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    key_id: String,
    algorithm: Algorithm,
    key_algorithm: KeyAlgorithm,
}

/// Why a text is no token that could open anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unusable(&'static str);

/// Whether a bearer's credential is an ID token, rather than a token of this installation's own: three parts in base64url, the
/// first of them a JSON object. It need not be a good one.
pub fn is_token(text: &str) -> bool {
    parts(text).is_some_and(|(header, _, _)| object(header).is_some())
}

fn parts(text: &str) -> Option<(&str, &str, &str)> {
    let base64url = |part: &str| part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    let (header, rest) = text.split_once('.')?;
    let (claims, signature) = rest.split_once('.')?;
    (base64url(header) && base64url(claims) && base64url(signature)).then_some((header, claims, signature))
}

fn object(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

impl Token {
    /// Reads a token.
    ///
    /// # Errors
    /// When it could not open anything, whatever the rules and keys.
    pub fn read(text: &Secret) -> Result<Self, Unusable> {
        if text.expose().len() > TOKEN_MAX {
            return Err(Unusable("it is too long"));
        }
        let (header, claims, signature) = parts(text.expose()).ok_or(Unusable("it does not have three parts"))?;
        let header = object(header).ok_or(Unusable("its header is no JSON object"))?;
        let claims = object(claims).ok_or(Unusable("its claims are no JSON object"))?;
        if signature.is_empty() {
            return Err(Unusable("it is not signed"));
        }
        // Extensions that have to be understood, and none is.
        if header.contains_key("crit") {
            return Err(Unusable("its header has crit"));
        }
        let named = header.get("alg").and_then(Value::as_str);
        let (_, algorithm, key_algorithm) = ALGORITHMS
            .into_iter()
            .find(|(name, ..)| named == Some(name))
            .ok_or(Unusable("its alg is not one of RS, PS, ES (256, 384) and EdDSA"))?;
        let key_id = header.get("kid").and_then(Value::as_str).filter(|id| id.len() <= KEY_ID_MAX);
        let key_id = key_id.ok_or(Unusable("its header names no key (kid)"))?.to_owned();
        Ok(Self { text: text.clone(), wanted: Wanted { key_id, algorithm, key_algorithm }, claims })
    }

    /// What it claims.
    pub fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }

    /// Whom it is about, for records and logs.
    pub fn who(&self) -> String {
        oidc::who(&self.claims)
    }

    pub(super) fn issuer(&self) -> Option<&str> {
        self.claims.get("iss").and_then(Value::as_str)
    }

    pub(super) fn wanted(&self) -> &Wanted {
        &self.wanted
    }

    /// Whether this key, which must be the wanted one, has signed it.
    pub(super) fn signed_by(&self, key: &Jwk) -> bool {
        let Some((message, signature)) = self.text.expose().rsplit_once('.') else { return false };
        let Ok(key) = DecodingKey::from_jwk(key) else { return false };
        jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key, self.wanted.algorithm).unwrap_or(false)
    }
}

impl Wanted {
    /// Whether this is the key: it has the id, is made for the algorithm, and is there to check signatures.
    pub(super) fn is(&self, key: &Jwk) -> bool {
        use Algorithm as A;
        let common = &key.common;
        let made_for = match (&key.algorithm, self.algorithm) {
            (AlgorithmParameters::RSA(_), A::RS256 | A::RS384 | A::RS512 | A::PS256 | A::PS384 | A::PS512) => true,
            (AlgorithmParameters::EllipticCurve(key), A::ES256) => key.curve == EllipticCurve::P256,
            (AlgorithmParameters::EllipticCurve(key), A::ES384) => key.curve == EllipticCurve::P384,
            (AlgorithmParameters::OctetKeyPair(key), A::EdDSA) => key.curve == EllipticCurve::Ed25519,
            _ => false,
        };
        common.key_id.as_deref() == Some(&self.key_id)
            && made_for
            && common.key_algorithm.is_none_or(|algorithm| algorithm == self.key_algorithm)
            && common.public_key_use.as_ref().is_none_or(|use_of_it| *use_of_it == PublicKeyUse::Signature)
            && common.key_operations.as_ref().is_none_or(|may| may.contains(&KeyOperations::Verify))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(header: &Value, claims: &Value, signature: &str) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.{signature}", part(header), part(claims))
    }

    fn read(header: &Value) -> Result<Token, String> {
        Token::read(&Secret::new(text(header, &json!({"iss": "i"}), "c2ln"))).map_err(|error| error.to_string())
    }

    #[test]
    fn a_token_is_told_from_other_credentials() {
        let header = json!({"alg": "none"});
        assert!(is_token(&text(&header, &json!({}), "c2ln")) && is_token(&text(&header, &json!({}), "")));
        for other in ["", "a.b.c", "YQ.YQ.YQ", "e30.x", "e30.x.y.z", "e30.x.y z", "e30=.x.y", "lsj_01GZ_x", "W10.x.y"] {
            assert!(!is_token(other), "{other}");
        }
    }

    #[test]
    fn only_asymmetric_algorithms_are_taken() {
        for (name, ..) in ALGORITHMS {
            assert!(read(&json!({"alg": name, "kid": "k"})).is_ok(), "{name}");
        }
        for alg in ["none", "None", "", "HS256", "HS384", "HS512", "rs256", "ES256K", "ES512", "RSA-OAEP"] {
            assert!(read(&json!({"alg": alg, "kid": "k"})).is_err_and(|error| error.contains("alg")), "{alg}");
        }
        for (header, part) in [
            (json!({"kid": "k"}), "alg"),
            (json!({"alg": ["RS256"], "kid": "k"}), "alg"),
            (json!({"alg": "RS256"}), "kid"),
            (json!({"alg": "RS256", "kid": 7}), "kid"),
            (json!({"alg": "RS256", "kid": "k".repeat(513)}), "kid"),
            (json!({"alg": "RS256", "kid": "k", "crit": ["b64"], "b64": false}), "crit"),
        ] {
            assert!(read(&header).is_err_and(|error| error.contains(part)), "{header}");
        }
        for bad in ["e30.W10.c2ln", "e30.e30.", "x", &"e30.".repeat(9000)] {
            assert!(Token::read(&Secret::new(bad.to_owned())).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_algorithm_must_fit_the_key() {
        let rsa = json!({"kty": "RSA", "kid": "k", "n": "AQAB", "e": "AQAB"});
        let p256 = json!({"kty": "EC", "kid": "k", "crv": "P-256", "x": "AQ", "y": "AQ"});
        let p384 = json!({"kty": "EC", "kid": "k", "crv": "P-384", "x": "AQ", "y": "AQ"});
        let ed = json!({"kty": "OKP", "kid": "k", "crv": "Ed25519", "x": "AQ"});
        let oct = json!({"kty": "oct", "kid": "k", "k": "AQAB"});
        let with = |key: &Value, name: &str, value: Value| {
            let mut key = key.clone();
            key[name] = value;
            key
        };
        for (key, fitting) in [
            (rsa.clone(), &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"][..]),
            (p256.clone(), &["ES256"]),
            (p384, &["ES384"]),
            (ed, &["EdDSA"]),
            (oct, &[]),
            (with(&rsa, "alg", json!("RS256")), &["RS256"]),
            (with(&rsa, "alg", json!("HS256")), &[]),
            (with(&p256, "use", json!("sig")), &["ES256"]),
            (with(&p256, "use", json!("enc")), &[]),
            (with(&p256, "key_ops", json!(["verify"])), &["ES256"]),
            (with(&p256, "key_ops", json!(["sign"])), &[]),
            (with(&p256, "kid", json!("other")), &[]),
        ] {
            let jwk: Jwk = serde_json::from_value(key.clone()).expect("a key");
            let found = ALGORITHMS.iter().map(|(name, ..)| *name);
            let found: Vec<_> = found
                .filter(|name| read(&json!({"alg": name, "kid": "k"})).expect("a token").wanted().is(&jwk))
                .collect();
            assert_eq!(found, fitting, "{key}");
        }
    }
}
