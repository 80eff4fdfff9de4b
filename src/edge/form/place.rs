//! Which paths are the form's own: those that Exchange's forms-based authentication has, so that bookmarks, and links in
//! pages of the servers, go on working.

use std::borrow::Cow;

use url::form_urlencoded;

/// A part of the form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The form itself.
    Form,
    /// Where it is posted to.
    Post,
    /// Where somebody logs off.
    Logoff,
}

impl Place {
    /// What is at this path, which is decoded. Whatever comes after the query's `?` is not part of it.
    pub(super) fn of(path: &str) -> Option<Place> {
        let path = &*without_mailbox(path);
        let places = [(&FORM[..], Place::Form), (&POST[..], Place::Post), (&LOGOFF[..], Place::Logoff)];
        places
            .into_iter()
            .find(|(paths, _)| paths.iter().any(|known| path.eq_ignore_ascii_case(known)))
            .map(|(_, place)| place)
    }
}

/// The path without the mailbox that is opened by it: `/owa/bruno@contoso.com/logoff.owa` logs off, too.
fn without_mailbox(path: &str) -> Cow<'_, str> {
    let mut segments = path.splitn(4, '/');
    match (segments.next(), segments.next(), segments.next(), segments.next()) {
        (Some(""), Some(directory), Some(mailbox), Some(rest)) if mailbox.contains('@') => {
            format!("/{directory}/{rest}").into()
        }
        _ => path.into(),
    }
}

/// Whether what is at this path, which is decoded, is for everybody, logged on or not: a load balancer's question, or a
/// calendar that somebody has published.
pub(super) fn is_open(path: &str) -> bool {
    let starts_with = |start: &str| path.get(..start.len()).is_some_and(|it| it.eq_ignore_ascii_case(start));
    let mut segments = path.split('/').skip(2); // those within the virtual directory
    let is_health = segments.next().is_some_and(|it| it.eq_ignore_ascii_case("healthcheck.htm"));
    is_health && segments.next().is_none() || starts_with("/owa/calendar/")
}

/// How Outlook Web Access of 2003 logs off (from memory).
pub(super) fn is_logoff_of_2003(query: Option<&str>) -> bool {
    let mut parameters = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    parameters.any(|(name, value)| name.eq_ignore_ascii_case("Cmd") && value.eq_ignore_ascii_case("logoff"))
}

/// Exchange 2007 and later; 2003 ([S38c] and [S38d] in the project's reference).
const FORM: [&str; 2] = [FORM_PATH, "/exchweb/bin/auth/owalogon.asp"];
/// Exchange 2007; 2010 SP1 and later; 2003.
const POST: [&str; 3] = [POST_PATH, "/owa/auth.owa", "/exchweb/bin/auth/owaauth.dll"];
/// Exchange 2007 and later, from its pages and from its logon form (from memory).
const LOGOFF: [&str; 2] = ["/owa/auth/logoff.aspx", "/owa/logoff.owa"];

/// Where the form is, for those who are sent there.
pub(super) const FORM_PATH: &str = "/owa/auth/logon.aspx";
/// Where it is posted to.
pub(super) const POST_PATH: &str = "/owa/auth/owaauth.dll";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exchanges_own_paths_are_known_without_case_and_nothing_beside_them() {
        for (path, place) in [
            ("/owa/auth/logon.aspx", Some(Place::Form)),
            ("/OWA/Auth/Logon.aspx", Some(Place::Form)),
            ("/exchweb/bin/auth/owalogon.asp", Some(Place::Form)),
            ("/owa/auth/owaauth.dll", Some(Place::Post)),
            ("/owa/auth.owa", Some(Place::Post)),
            ("/owa/logoff.owa", Some(Place::Logoff)),
            ("/owa/auth/logoff.aspx", Some(Place::Logoff)),
            ("/owa/bruno@contoso.com/logoff.owa", Some(Place::Logoff)),
            ("/OWA/bruno@contoso.com/auth/Logoff.aspx", Some(Place::Logoff)),
            ("/owa/bruno@contoso.com/", None),
            ("/owa/bruno@contoso.com/ana@contoso.com/logoff.owa", None),
            ("/owa/bruno/logoff.owa", None),
            ("/ecp/bruno@contoso.com/logoff.owa", None),
            ("/owa/", None),
            ("/owa/auth/logon.aspx/", None),
            ("/owa/auth/logon.aspxx", None),
            ("/owa/auth/", None),
        ] {
            assert_eq!(Place::of(path), place, "{path}");
        }
    }

    #[test]
    fn load_balancers_and_whoever_reads_a_published_calendar_need_not_log_on() {
        for (path, is) in [
            ("/owa/healthcheck.htm", true),
            ("/ECP/HealthCheck.htm", true),
            ("/owa/calendar/1a2b@contoso.com/3c4d/calendar.html", true),
            ("/OWA/Calendar/", true),
            ("/owa/x/healthcheck.htm", false),
            ("/owa/healthcheck.htm/x", false),
            ("/owa/xhealthcheck.htm", false),
            ("/owa/calendar", false),
            ("/owa/calendars/", false),
            ("/ecp/calendar/", false),
            ("/owa/x/calendar/", false),
            ("/owa/", false),
        ] {
            assert_eq!(is_open(path), is, "{path}");
        }
    }
}
