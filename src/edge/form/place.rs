//! Which paths are the form's own: those that Exchange's forms-based authentication has, so that bookmarks, and links in
//! pages of the servers, go on working.

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
        let places = [(&FORM[..], Place::Form), (&POST[..], Place::Post), (&LOGOFF[..], Place::Logoff)];
        places
            .into_iter()
            .find(|(paths, _)| paths.iter().any(|known| path.eq_ignore_ascii_case(known)))
            .map(|(_, place)| place)
    }
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
            ("/owa/", None),
            ("/owa/auth/logon.aspx/", None),
            ("/owa/auth/logon.aspxx", None),
            ("/owa/auth/", None),
        ] {
            assert_eq!(Place::of(path), place, "{path}");
        }
    }
}
