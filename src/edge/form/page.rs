//! The pages of the form: whole in themselves, without scripts, for every size of window and for eyes of every kind.

use std::{borrow::Cow, sync::LazyLock, time::Duration};

use html_escape::{encode_double_quoted_attribute, encode_text};

use super::{destination::HOME, logon::Computer, place::POST_PATH};
use crate::{
    config::{LogonForm, UserName},
    edge::respond::{Answer, page_policy},
};

/// What the form says above its fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Nothing,
    /// Why the form is there again, although nothing went wrong.
    Note(&'static str),
    /// What went wrong, and what to do about it.
    Problem(Cow<'static, str>),
}

/// What stands in the form.
pub(super) struct Fields<'f> {
    pub(super) said: Said,
    pub(super) destination: &'f str,
    pub(super) token: &'f str,
    /// What the user has written before; the password has to be written again.
    pub(super) user: &'f str,
    pub(super) computer: Computer,
}

/// The form itself.
pub(super) fn form(status: u16, fields: &Fields<'_>, settings: &LogonForm) -> Answer {
    let attribute = |text| encode_double_quoted_attribute(text).into_owned();
    let is_wrong = matches!(fields.said, Said::Problem(_));
    let (asks, such_as) = match settings.user_name {
        UserName::WithDomain => ("Domain\\user name", "Such as contoso\\ana, or your e\u{2011}mail address"),
        UserName::Email => ("E-mail address", "Such as ana@contoso.com"),
        UserName::Bare => ("User name", "Such as ana, or your e\u{2011}mail address"),
    };
    let invalid = if is_wrong && !fields.user.is_empty() { " aria-invalid=\"true\"" } else { "" };
    let focus = |is_first: bool| if is_first { " autofocus" } else { "" };
    let checked = |computer: Computer| if fields.computer == computer { " checked" } else { "" };
    let content = fill(
        FORM,
        &[
            ("said", &said(&fields.said)),
            ("action", POST_PATH),
            ("destination", &attribute(fields.destination)),
            ("token", &attribute(fields.token)),
            ("asks", asks),
            ("such_as", such_as),
            ("user", &attribute(fields.user)),
            ("user_attributes", focus(fields.user.is_empty())),
            ("password_attributes", &format!("{invalid}{}", focus(!fields.user.is_empty()))),
            ("public", checked(Computer::Public)),
            ("public_time", &words(settings.public_timeout)),
            ("private", checked(Computer::Private)),
            ("private_time", &words(settings.private_timeout)),
        ],
    );
    // What is wrong is heard first by whoever hears the page.
    page(status, if is_wrong { "Not signed in. Try again" } else { "Sign in to your mail" }, &content)
}

fn said(said: &Said) -> String {
    match said {
        Said::Nothing => String::new(),
        Said::Note(text) => format!("<p class=\"said note\" role=\"status\">{}</p>\n", encode_text(text)),
        Said::Problem(text) => format!("<p class=\"said\" role=\"alert\">{}</p>\n", encode_text(text)),
    }
}

/// Somebody has logged off.
pub(super) fn signed_out() -> Answer {
    let title = "You have signed out";
    let text = "If others use this computer, close all windows of the browser now.";
    let mut answer = page(200, title, &content(title, text, "Sign in again"));
    answer.headers.push(("Clear-Site-Data", "\"cache\"".into())); // messages that were read
    answer
}

/// To what a page has asked for by itself, or in a part of it, after its user was logged off. The status is Exchange's
/// `Login Timeout`, by which OWA knows that it must be loaded anew.
pub(super) fn login_timeout() -> Answer {
    let title = "Please sign in";
    page(440, title, &content(title, "You are not signed in, or not any more.", "Sign in"))
}

fn content(title: &str, text: &str, link: &str) -> String {
    // In a frame of OWA's, the link opens the whole window.
    format!("<h1>{title}</h1>\n<p>{text}</p>\n<a class=\"button\" href=\"{HOME}\" target=\"_top\">{link}</a>")
}

fn page(status: u16, title: &str, content: &str) -> Answer {
    Answer {
        status,
        headers: vec![
            ("Cache-Control", "no-store".into()),
            ("Content-Security-Policy", CONTENT_SECURITY_POLICY.clone()),
            // Not `no-referrer`: a browser would then not say which site posts the form.
            ("Referrer-Policy", "same-origin".into()),
            ("X-Content-Type-Options", "nosniff".into()),
            ("X-Frame-Options", "DENY".into()),
        ],
        content_type: "text/html; charset=utf-8",
        body: fill(PAGE, &[("title", title), ("content", content)]),
    }
}

/// Puts values where a template has their names, `{{name}}`. What looks like a name in a value stays as it is.
fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut parts = template.split("{{");
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once("}}").unwrap_or((part, ""));
        filled.push_str(values.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value));
        filled.push_str(rest);
    }
    filled
}

/// A time as people say it.
fn words(time: Duration) -> String {
    let minutes = time.as_secs() / 60;
    let (number, unit) = if minutes >= 2 * 1440 && minutes.is_multiple_of(1440) {
        (minutes / 1440, "day")
    } else if minutes >= 60 && minutes.is_multiple_of(60) {
        (minutes / 60, "hour")
    } else {
        (minutes.max(1), "minute")
    };
    format!("{number} {unit}{}", if number == 1 { "" } else { "s" })
}

const PAGE: &str = include_str!("page.html");
const FORM: &str = include_str!("form.html");

/// Nothing is loaded or run, and the form goes nowhere but here.
static CONTENT_SECURITY_POLICY: LazyLock<String> = LazyLock::new(|| {
    let style =
        PAGE.split_once("<style>").and_then(|(_, rest)| rest.split_once("</style>")).map_or("", |(style, _)| style);
    page_policy(style, "'self'", "; img-src data:")
});

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::form::logon::tests::form as settings;

    fn fields<'f>(user: &'f str, destination: &'f str) -> Fields<'f> {
        Fields { said: Said::Nothing, destination, token: "t", user, computer: Computer::Public }
    }

    #[test]
    fn nothing_that_is_written_becomes_part_of_the_page() {
        let attack = "\"><script>alert(1)</script><i a='";
        let mut fields = fields(attack, attack);
        fields.token = attack;
        fields.said = Said::Problem(attack.into());
        let body = form(200, &fields, &settings()).body;
        assert!(!body.contains("<script") && !body.contains("<i "), "{body}");
        assert!(
            body.contains("value=\"&quot;&gt;&lt;script&gt;") || body.contains("value=\"&quot;><script>"),
            "{body}"
        );
    }

    #[test]
    fn what_looks_like_a_name_of_the_template_is_only_text() {
        let body = form(200, &fields("{{token}}", "/owa/?{{content}}"), &settings()).body;
        assert!(body.contains("value=\"{{token}}\"") && body.contains("value=\"/owa/?{{content}}\""), "{body}");
        assert_eq!(body.matches("{{").count(), 2, "every name of the template has its value: {body}");
    }

    #[test]
    fn the_first_field_to_fill_has_the_focus() {
        let focused = |user| {
            let body = form(200, &fields(user, "/owa/"), &settings()).body;
            assert_eq!(body.matches(" autofocus").count(), 1, "{body}");
            let before = body.split(" autofocus").next().expect("there is one");
            before.rsplit("id=\"").next().expect("a field").split('"').next().map(str::to_owned)
        };
        assert_eq!(focused("").as_deref(), Some("username"));
        assert_eq!(focused("ana").as_deref(), Some("password"));
    }

    #[test]
    fn the_page_loads_and_runs_nothing() {
        for answer in [form(200, &fields("", "/owa/"), &settings()), signed_out(), login_timeout()] {
            let policy = answer.headers.iter().find(|(name, _)| *name == "Content-Security-Policy").expect("a policy");
            for part in
                ["default-src 'none'", "form-action 'self'", "base-uri 'none'", "frame-ancestors 'none'", "'sha256-"]
            {
                assert!(policy.1.contains(part), "{}", policy.1);
            }
            assert!(
                !answer.body.contains("<script")
                    && !answer.body.contains(" style=")
                    && !answer.body.contains("http://1")
            );
            assert!(answer.body.contains("<html lang=\"en\">") && answer.body.contains("</main>"));
        }
    }

    #[test]
    fn times_are_said_as_people_say_them() {
        let said = [1, 15, 60, 90, 1440, 2880, 3000, 10080].map(|minutes| words(Duration::from_secs(minutes * 60)));
        let expected = ["1 minute", "15 minutes", "1 hour", "90 minutes", "24 hours", "2 days", "50 hours", "7 days"];
        assert_eq!(said, expected);
    }
}
