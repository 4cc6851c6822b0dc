//! Associated data and messages made of several names: each after its length, so that no two of them read alike.

/// The names after a label, which no other kind of thing has.
pub fn encoded(label: &str, names: &[&[u8]]) -> Vec<u8> {
    let mut out = label.as_bytes().to_vec();
    for name in names {
        out.extend_from_slice(&(name.len() as u64).to_be_bytes());
        out.extend_from_slice(name);
    }
    out
}
