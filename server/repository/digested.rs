//! Texts of a repository that a person can read: JSON whose last line is the blake3 of all bytes
//! before that line, as in a part's manifest.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    base::error::{Error, Kind, Result},
    part::chunk::Digest,
};

/// All that can be relied on of a newer one.
#[derive(Deserialize)]
struct Any {
    format: u32,
}

/// The digest is no field: it stands behind them.
pub fn encode(fields: &impl Serialize) -> Vec<u8> {
    let text = serde_json::to_string_pretty(fields).expect("texts and numbers are JSON");
    let body = text.strip_suffix("\n}").expect("it is an object with fields").to_owned() + ",\n";
    let digest = Digest(blake3::hash(body.as_bytes()).into());
    (body + &last_line(&digest)).into_bytes()
}

/// `Conflict` if a newer version made it, `Corrupt` if it is not what was made. What has been read
/// is checked by nothing but the types of its fields.
pub fn parse<T: DeserializeOwned>(text: &[u8], what: &str, newest: u32) -> Result<T> {
    let length = last_line(&Digest([0; 32])).len();
    let split = text.split_at_checked(text.len().saturating_sub(length));
    let (body, line) = split.unwrap_or((text, &[]));
    if line != last_line(&Digest(blake3::hash(body).into())).as_bytes() {
        return Err(Error::corrupt(
            "its digest, in its last line, is not that of the lines before: it was changed or cut \
             short after it was written",
        ));
    }
    // Without the digest's line the text is whole again.
    let body = body.strip_suffix(b",\n").unwrap_or(body);
    let whole = [body, b"\n}"].concat();
    let garbled = |e: serde_json::Error| {
        Error::corrupt(format!("it is not what this program writes: {e}")).with_source(e)
    };
    let Any { format } = serde_json::from_slice(&whole).map_err(garbled)?;
    if format > newest {
        return Err(Error::new(
            Kind::Conflict,
            format!(
                "a newer version made this {what}: format {format}, this program reads up to \
                 {newest}; use a newer program"
            ),
        ));
    }
    serde_json::from_slice(&whole).map_err(garbled)
}

fn last_line(digest: &Digest) -> String {
    format!("  \"digest\": \"{digest}\"\n}}\n")
}
