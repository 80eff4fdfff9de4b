//! Where somebody goes who has logged on: what they have asked for at first, on this host and nowhere else.

use super::place::{Place, is_logoff_of_2003};
use crate::edge::path;

/// The path and query to go to, by what the form says was asked for.
pub(super) fn safe<'a>(asked: &'a str, host: Option<&str>) -> &'a str {
    let target = host.and_then(|host| of_this_host(asked, host)).unwrap_or(asked);
    if is_safe(target) { target } else { HOME }
}

/// The path and query of a URL of this very host, as Exchange's own form has it and bookmarks of it.
fn of_this_host<'a>(asked: &'a str, host: &str) -> Option<&'a str> {
    let (scheme, rest) = asked.split_at_checked("https://".len())?;
    let (authority, target) = rest.split_at_checked(host.len())?;
    let is_ours = scheme.eq_ignore_ascii_case("https://") && authority.eq_ignore_ascii_case(host);
    is_ours.then_some(target)
}

fn is_safe(target: &str) -> bool {
    const LONGEST: usize = 4096;
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    // What browsers drop (tabs, line breaks) or take for a slash (a backslash) could make another host of a path.
    target.len() <= LONGEST
        && target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
        && !is_logoff_of_2003(query)
        && path::decode(path).is_ok_and(|path| !path.contains("//") && Place::of(&path).is_none())
}

/// Where OWA begins.
pub(super) const HOME: &str = "/owa/";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_on_this_host_is_gone_to() {
        for (asked, to) in [
            ("/owa/", "/owa/"),
            ("/owa/?ae=Item&a=Open&id=Rg%2bA%3d", "/owa/?ae=Item&a=Open&id=Rg%2bA%3d"),
            ("/exchange/duarte/Inbox/", "/exchange/duarte/Inbox/"),
            ("/ecp/?rfr=owa", "/ecp/?rfr=owa"),
            ("/owa/?url=https://evil.example/", "/owa/?url=https://evil.example/"),
            ("https://mail.contoso.com/owa/?x=1", "/owa/?x=1"),
            ("HTTPS://Mail.Contoso.com/ecp/", "/ecp/"),
        ] {
            assert_eq!(safe(asked, Some("mail.contoso.com")), to, "{asked}");
        }
        assert_eq!(safe("https://mail.contoso.com:8443/ecp/", Some("mail.contoso.com:8443")), "/ecp/");
    }

    #[test]
    fn nobody_is_sent_anywhere_else() {
        for attack in [
            "",
            "owa/",
            "//evil.example",
            "//evil.example/owa/",
            "///evil.example",
            "/owa//evil.example",
            "/%2f/evil.example",
            "/%2fevil.example",
            "/%5cevil.example",
            "/\\evil.example",
            "\\\\evil.example",
            "/owa/\\evil.example",
            "/owa/?x=\\",
            "/\t/evil.example",
            "/\n/evil.example",
            "/owa/\r\nSet-Cookie: a=b",
            "/owa/?a=\r\nSet-Cookie: a=b",
            "/owa/\0",
            " /owa/",
            "/owa/ ",
            "/owa/\u{e4}",
            "http://mail.contoso.com/owa/",
            "https://evil.example/owa/",
            "https://mail.contoso.com.evil.example/owa/",
            "https://mail.contoso.com@evil.example/",
            "https://mail.contoso.com:evil.example/",
            "https://mail.contoso.com//evil.example/",
            "https://mail.contoso.com\\evil.example/",
            "https://mail.contoso.com",
            "https:/mail.contoso.com/owa/",
            "javascript:alert(1)",
            "data:text/html,x",
            "/..//evil.example",
            "/owa/../ecp/",
            "/owa/%2e%2e/ecp/",
            "/%252fevil.example",
            "/owa/%",
            "/owa/#x",
            "?x",
            "/owa/auth/logoff.aspx",
            "/OWA/auth/LOGON.aspx?url=/owa/",
            "/owa/logoff.owa",
            "/owa/bruno%40contoso.com/logoff.owa",
            "/exchange/duarte/?Cmd=logoff",
            "/exchange/duarte/?x=1&cmd=Logoff",
        ] {
            assert_eq!(safe(attack, Some("mail.contoso.com")), HOME, "{attack:?}");
            assert_eq!(safe(attack, None), HOME, "{attack:?}");
        }
        assert_eq!(safe(&format!("/owa/{}", "a".repeat(5000)), None), HOME);
    }
}
