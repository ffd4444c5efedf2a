//! What makes two requests with one `Idempotency-Key` the same: method, path, and body by JSON value.

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::Value;

/// SHA-256 over method, path and the body in a canonical form: object keys sorted, numbers by value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of a request; `body` is absent for one without a body.
    pub fn of(method: &str, path: &str, body: Option<&Value>) -> Self {
        let mut context = Context::new(&SHA256);
        part(&mut context, b'm', method.as_bytes());
        part(&mut context, b'p', path.as_bytes());
        if let Some(body) = body {
            feed(&mut context, body);
        }
        let mut hash = [0u8; 32];
        hash.copy_from_slice(context.finish().as_ref());
        Self(hash)
    }
}

/// A tagged, length-prefixed part, so that no two different inputs feed the same bytes.
fn part(context: &mut Context, tag: u8, bytes: &[u8]) {
    context.update(&[tag]);
    context.update(&(bytes.len() as u64).to_be_bytes());
    context.update(bytes);
}

fn feed(context: &mut Context, value: &Value) {
    match value {
        Value::Null => part(context, b'0', b""),
        Value::Bool(flag) => part(context, b'b', &[u8::from(*flag)]),
        Value::String(text) => part(context, b's', text.as_bytes()),
        Value::Number(number) => part(context, b'n', canonical(number).as_bytes()),
        Value::Array(items) => {
            part(context, b'a', &(items.len() as u64).to_be_bytes());
            items.iter().for_each(|item| feed(context, item));
        }
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_by_key(|(name, _)| *name);
            part(context, b'o', &(sorted.len() as u64).to_be_bytes());
            for (name, value) in sorted {
                part(context, b'k', name.as_bytes());
                feed(context, value);
            }
        }
    }
}

/// `1`, `1.0` and `1e0` are one number.
fn canonical(number: &serde_json::Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 9e15 => format!("{float:.0}"),
        _ => number.to_string(),
    }
}

impl Serialize for Fingerprint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Fingerprint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let bytes = URL_SAFE_NO_PAD
            .decode(text.as_bytes())
            .map_err(D::Error::custom)?;
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| D::Error::custom("a fingerprint has 32 bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(body: &Value) -> Fingerprint {
        Fingerprint::of("POST", "/api/v1/tasks", Some(body))
    }

    #[test]
    fn bodies_are_compared_by_value() {
        let text = r#"{"b": [1.0, {"y": null, "x": true}], "a": "t"}"#;
        let same: Value = serde_json::from_str(text).unwrap();
        assert_eq!(
            of(&json!({"a": "t", "b": [1, {"x": true, "y": null}]})),
            of(&same)
        );
        assert_ne!(of(&json!({"a": "t"})), of(&json!({"a": "u"})));
        assert_ne!(of(&json!({"a": null})), of(&json!({})));
        assert_ne!(of(&json!(["ab", "c"])), of(&json!(["a", "bc"])));
    }

    #[test]
    fn method_and_path_count() {
        let body = json!({});
        assert_ne!(of(&body), Fingerprint::of("PUT", "/api/v1/tasks", Some(&body)));
        assert_ne!(of(&body), Fingerprint::of("POST", "/api/v1/tasks/x", Some(&body)));
        assert_ne!(of(&body), Fingerprint::of("POST", "/api/v1/tasks", None));
    }
}
