//! Cookies as they come in `Cookie` fields (RFC 6265 section 4.2.1).

use http::{HeaderMap, header::COOKIE};

/// The value of the first cookie of this name.
pub(super) fn find<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h [u8]> {
    headers.get_all(COOKIE).iter().find_map(|field| value(field.as_bytes(), name))
}

/// The same, in one field's value.
pub(super) fn value<'c>(cookies: &'c [u8], name: &str) -> Option<&'c [u8]> {
    cookies.split(|byte| *byte == b';').find_map(|pair| {
        let pair = pair.trim_ascii();
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        (&pair[..equals] == name.as_bytes()).then_some(&pair[equals + 1..])
    })
}

/// What is left of a `Cookie` field's value for the server, which has no use for ours. `None`: none of ours is in it.
pub(super) fn without(cookies: &[u8], ours: &[&str]) -> Option<Vec<u8>> {
    let is_ours = |pair: &&[u8]| {
        let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
        ours.iter().any(|ours| name == ours.as_bytes())
    };
    let pairs: Vec<_> = cookies.split(|byte| *byte == b';').map(<[u8]>::trim_ascii).collect();
    let others: Vec<_> = pairs.iter().copied().filter(|pair| !is_ours(pair)).collect();
    (others.len() < pairs.len()).then(|| others.join(&b"; "[..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_found_among_others() {
        for cookies in ["a=1", "b=2; a=1", "b=2;a=1; a=3", " a=1 ;c", "ab=2; a=1"] {
            assert_eq!(value(cookies.as_bytes(), "a"), Some(&b"1"[..]), "{cookies}");
        }
        for cookies in ["", "a", "b=a=1", "aa=1", "A=1"] {
            assert_eq!(value(cookies.as_bytes(), "a"), None, "{cookies}");
        }
    }

    #[test]
    fn servers_never_see_ours() {
        let ours = ["x", "y"];
        assert_eq!(without(b"a=b; c=d", &ours), None);
        assert_eq!(without(b"a=b; x=1;c=d", &ours), Some(b"a=b; c=d".to_vec()));
        assert_eq!(without(b"y=2; a=b; x=1; x", &ours), Some(b"a=b".to_vec()));
        assert_eq!(without(b"x=1", &ours), Some(Vec::new()));
        assert_eq!(without(b"x =1; a=b", &ours), Some(b"a=b".to_vec()), "however it is spelt");
    }
}
