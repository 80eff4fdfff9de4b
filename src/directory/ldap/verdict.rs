//! What a refused bind says of the password and its account.

use crate::directory::{Unusable, Verdict};

/// Active Directory gives the reason for `invalidCredentials` as a Windows error in the diagnostic text, in hexadecimal
/// ([MS-ADTS] 5.1.1.1.1; Samba writes the same): `80090308: LdapErr: DSID-0C09042A, comment: AcceptSecurityContext error,
/// data 775, v4563`. Whatever else a server writes there: the password was wrong.
pub(super) fn of_refusal(diagnostic: &str) -> Verdict {
    let code = diagnostic.split_once(BEFORE_CODE).and_then(|(_, rest)| Some(rest.split_once(',')?.0));
    match code {
        Some("530" | "531" | "52f") => Verdict::Unusable(Unusable::LogonRestricted),
        Some("532") => Verdict::Unusable(Unusable::PasswordExpired),
        Some("533") => Verdict::Unusable(Unusable::AccountDisabled),
        Some("701") => Verdict::Unusable(Unusable::AccountExpired),
        Some("773") => Verdict::Unusable(Unusable::PasswordMustChange),
        Some("775") => Verdict::Unusable(Unusable::AccountLocked),
        // 525 (nobody of that name), 52e (a wrong password), and whatever is not known.
        Some(_) | None => Verdict::Wrong,
    }
}

const BEFORE_CODE: &str = "AcceptSecurityContext error, data ";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn active_directory_and_samba_say_why_a_password_cannot_be_used() {
        let windows = |code| format!("80090308: LdapErr: DSID-0C09042A, comment: {BEFORE_CODE}{code}, v4563\0");
        let samba = |code| format!("80090308: LdapErr: DSID-0C0903A9, comment: {BEFORE_CODE}{code}, v1db1");
        for (code, verdict) in [
            ("525", Verdict::Wrong),
            ("52e", Verdict::Wrong),
            ("52f", Verdict::Unusable(Unusable::LogonRestricted)),
            ("530", Verdict::Unusable(Unusable::LogonRestricted)),
            ("531", Verdict::Unusable(Unusable::LogonRestricted)),
            ("532", Verdict::Unusable(Unusable::PasswordExpired)),
            ("533", Verdict::Unusable(Unusable::AccountDisabled)),
            ("701", Verdict::Unusable(Unusable::AccountExpired)),
            ("773", Verdict::Unusable(Unusable::PasswordMustChange)),
            ("775", Verdict::Unusable(Unusable::AccountLocked)),
            ("0", Verdict::Wrong),
        ] {
            assert_eq!((of_refusal(&windows(code)), of_refusal(&samba(code))), (verdict, verdict), "{code}");
        }
    }

    #[test]
    fn whatever_else_a_server_writes_the_password_was_wrong() {
        for text in [
            "",
            "Invalid credentials",
            "data 775, v4563",
            "AcceptSecurityContext error, data 775",
            "AcceptSecurityContext error, data 7750, v4563",
            "AcceptSecurityContext error, data  775, v4563",
            "AcceptSecurityContext error, data 0775, v4563",
            "AcceptSecurityContext error, data ",
            "AcceptSecurityContext error, data ,,,",
            "AcceptSecurityContext error, data 52e, v1 AcceptSecurityContext error, data 775, v1",
        ] {
            assert_eq!(of_refusal(text), Verdict::Wrong, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_a_password_right(text: String, code: String) {
            prop_assert_ne!(of_refusal(&text), Verdict::Right);
            prop_assert_ne!(of_refusal(&format!("{BEFORE_CODE}{code}")), Verdict::Right);
        }
    }
}
