//! One command as a client writes it (RFC 3501 section 9), and as clients write it in fact: with 8-bit bytes, backslashes
//! that escape nothing, several spaces.

use crate::{
    mail::dialogue::{LINE_MAX_BYTES, LITERAL_MAX_BYTES},
    secret::Secret,
};

/// A command, as far as it has come. What it is given are the lines of it, without their ends, and the literals between
/// them. It is never printed: a password may be in it.
pub struct Command {
    /// What the answer begins with; `None` if that must not be sent back.
    pub tag: Option<Vec<u8>>,
    /// What is to be done.
    pub name: Name,
    /// With what; `None` if it cannot be understood.
    pub arguments: Option<Vec<Secret>>,
    /// What it has come to, announced literals included.
    bytes: usize,
}

/// What a client can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    Authenticate,
    Capability,
    Id,
    Login,
    Logout,
    Noop,
    StartTls,
    /// It exists, but only after the logon.
    AfterLogon,
    /// It does not exist.
    Unknown,
}

/// A literal, as the end of a line announces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Literal {
    /// How long it will be; as long as can be where the number is none.
    pub length: usize,
    /// Whether it comes unasked (RFC 7888).
    pub is_coming: bool,
}

impl Command {
    /// Begins with the first line, which may end in a literal.
    pub fn begin(line: &[u8]) -> (Self, Option<Literal>) {
        let (text, literal) = split_literal(line);
        let (tag, text) = split_word(text);
        let (name, text) = split_word(after_spaces(text));
        let tag = Some(tag).filter(|tag| is_tag(tag)).map(<[u8]>::to_vec);
        let mut command = Self { tag, name: Name::of(name), arguments: Some(Vec::new()), bytes: 0 };
        command.take(text, line.len(), literal);
        (command, literal)
    }

    /// Takes the literal that was announced.
    pub fn push_literal(&mut self, literal: &[u8]) {
        self.arguments = self.arguments.take().filter(|_| !literal.contains(&0)).map(|mut arguments| {
            arguments.push(Secret::new(literal));
            arguments
        });
    }

    /// Goes on with what follows the literal.
    pub fn push_line(&mut self, line: &[u8]) -> Option<Literal> {
        let (text, literal) = split_literal(line);
        if text.first().is_some_and(|byte| *byte != b' ') {
            self.arguments = None;
        }
        self.take(text, line.len(), literal);
        literal
    }

    /// Whether it is longer than may be.
    pub fn is_too_long(&self) -> bool {
        self.bytes > COMMAND_MAX_BYTES
    }

    fn take(&mut self, text: &[u8], line_bytes: usize, literal: Option<Literal>) {
        self.bytes = self.bytes.saturating_add(line_bytes).saturating_add(literal.map_or(0, |literal| literal.length));
        // Before a literal stands a space; what stands there in a list or as a literal8 is of no command before the logon.
        let is_apart = literal.is_none() || text.is_empty() || text.ends_with(b" ");
        self.arguments = self.arguments.take().filter(|_| is_apart).and_then(|arguments| with_words(arguments, text));
    }
}

impl Name {
    fn of(name: &[u8]) -> Self {
        let name = name.to_ascii_uppercase();
        match name.as_slice() {
            b"AUTHENTICATE" => Self::Authenticate,
            b"CAPABILITY" => Self::Capability,
            b"ID" => Self::Id,
            b"LOGIN" => Self::Login,
            b"LOGOUT" => Self::Logout,
            b"NOOP" => Self::Noop,
            b"STARTTLS" => Self::StartTls,
            name if AFTER_LOGON.iter().any(|known| known.as_bytes() == name) => Self::AfterLogon,
            _ => Self::Unknown,
        }
    }
}

/// Takes the announcement of a literal off the end of a line. In front of it stands a space, or what a list or a literal8
/// (RFC 3516) puts there; `pass{5}` is an atom, if a careless one.
fn split_literal(line: &[u8]) -> (&[u8], Option<Literal>) {
    let announced = || {
        let inside = line.strip_suffix(b"}")?;
        let (before, number) = inside.split_at(inside.iter().rposition(|byte| *byte == b'{')?);
        let number = number.get(1..)?;
        let is_meant = matches!(before.last(), Some(b' ' | b'(' | b'~'))
            && number.iter().all(|byte| byte.is_ascii_digit() || b"+-".contains(byte))
            && number.iter().any(u8::is_ascii_digit);
        let (digits, is_coming) = number.strip_suffix(b"+").map_or((number, false), |digits| (digits, true));
        let length = str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).unwrap_or(usize::MAX);
        is_meant.then_some((before, Literal { length, is_coming }))
    };
    announced().map_or((line, None), |(before, literal)| (before, Some(literal)))
}

fn split_word(text: &[u8]) -> (&[u8], &[u8]) {
    text.split_at(text.iter().position(|byte| *byte == b' ').unwrap_or(text.len()))
}

fn after_spaces(text: &[u8]) -> &[u8] {
    let spaces = text.iter().take_while(|byte| **byte == b' ').count();
    text.get(spaces..).unwrap_or_default()
}

/// RFC 3501 section 9: what an atom may consist of, `]` too, `+` not.
fn is_tag(tag: &[u8]) -> bool {
    let is_fit = |byte: &u8| byte.is_ascii_graphic() && !b"(){%*\"\\+".contains(byte);
    (1..=TAG_MAX_BYTES).contains(&tag.len()) && tag.iter().all(is_fit)
}

/// The arguments, and with them the atoms and quoted strings of this text; `None` if it does not consist of such.
fn with_words(mut arguments: Vec<Secret>, text: &[u8]) -> Option<Vec<Secret>> {
    let mut rest = after_spaces(text);
    while let Some(first) = rest.first() {
        let (word, after) = if *first == b'"' { split_quoted(rest)? } else { split_atom(rest)? };
        if after.first().is_some_and(|byte| *byte != b' ') {
            return None;
        }
        arguments.push(word);
        rest = after_spaces(after);
    }
    Some(arguments)
}

/// What stands between the quotes. A backslash before anything but a quote and a backslash stands for itself: people write
/// `"CONTOSO\duarte"`.
fn split_quoted(text: &[u8]) -> Option<(Secret, &[u8])> {
    let mut content = Vec::new();
    let mut rest = text.strip_prefix(b"\"")?;
    loop {
        rest = match rest {
            [b'"', after @ ..] => return Some((Secret::new(content), after)),
            [b'\\', escaped @ (b'"' | b'\\'), after @ ..] => {
                content.push(*escaped);
                after
            }
            [0 | b'\r', ..] | [] => return None,
            [byte, after @ ..] => {
                content.push(*byte);
                after
            }
        };
    }
}

/// An atom, and more than the standard calls one: nothing is gained by refusing a password over its brackets.
fn split_atom(text: &[u8]) -> Option<(Secret, &[u8])> {
    let (atom, after) = split_word(text);
    let is_fit = !atom.starts_with(b"{") && !atom.iter().any(u8::is_ascii_control);
    is_fit.then(|| (Secret::new(atom), after))
}

/// The longest tag. Clients' have some ten.
const TAG_MAX_BYTES: usize = 64;

/// The longest command: a line, and a name and a password as literals.
const COMMAND_MAX_BYTES: usize = LINE_MAX_BYTES + 2 * LITERAL_MAX_BYTES;

/// Commands that the servers have, and clients may send too early.
const AFTER_LOGON: [&str; 34] = [
    "APPEND",
    "CHECK",
    "CLOSE",
    "COMPRESS",
    "COPY",
    "CREATE",
    "DELETE",
    "DELETEACL",
    "ENABLE",
    "EXAMINE",
    "EXPUNGE",
    "FETCH",
    "GETACL",
    "GETQUOTA",
    "GETQUOTAROOT",
    "IDLE",
    "LIST",
    "LISTRIGHTS",
    "LSUB",
    "MOVE",
    "MYRIGHTS",
    "NAMESPACE",
    "RENAME",
    "SEARCH",
    "SELECT",
    "SETACL",
    "SETQUOTA",
    "SORT",
    "STATUS",
    "STORE",
    "SUBSCRIBE",
    "UID",
    "UNSELECT",
    "UNSUBSCRIBE",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_and_a_password_come_in_every_form_in_which_clients_write_them() {
        for (line, arguments) in [
            (&b"a LOGIN duarte Pass-word1"[..], [&b"duarte"[..], b"Pass-word1"]),
            (b"a  login   duarte   Pass-word1  ", [b"duarte", b"Pass-word1"]),
            (br#"a LOGIN "duarte" "Pass word1""#, [b"duarte", b"Pass word1"]),
            (br"a LOGIN CONTOSO\duarte p\\q", [br"CONTOSO\duarte", br"p\\q"]),
            (br#"a LOGIN "CONTOSO\duarte" "\"\\""#, [br"CONTOSO\duarte", br#""\"#]),
            (br#"a LOGIN "CONTOSO\\duarte" """#, [br"CONTOSO\duarte", b""]),
            (br#"a LOGIN "" """#, [b"", b""]),
            (b"a LOGIN \"p\xe9dro\" \xfftab", [b"p\xe9dro", b"\xfftab"]),
            (b"a LOGIN (duarte) pa{s}s*\"%]", [b"(duarte)", b"pa{s}s*\"%]"]),
            (b"a LOGIN duarte pass{5}", [b"duarte", b"pass{5}"]),
            (b"a LOGIN \"a\tb\" c", [b"a\tb", b"c"]),
        ] {
            let (command, literal) = Command::begin(line);
            assert_eq!((command.name, literal), (Name::Login, None), "{}", line.escape_ascii());
            assert_eq!(exposed(&command), Some(arguments.map(<[u8]>::to_vec).to_vec()), "{}", line.escape_ascii());
        }
    }

    #[test]
    fn what_is_no_list_of_arguments_is_not_taken_for_one() {
        for line in [
            &br#"a LOGIN "duarte"#[..],
            br#"a LOGIN "duarte\""#,
            br#"a LOGIN "duarte"x y"#,
            br#"a LOGIN "a""b""#,
            b"a LOGIN a b\x01",
            b"a LOGIN a\rb c",
            b"a LOGIN \ra b",
            b"a LOGIN a b \r",
            b"a LOGIN \"a\0\" b",
            b"a LOGIN \"a\r\" b",
            b"a LOGIN {} b",
            b"a LOGIN {5} b",
            b"a LOGIN {5",
            b"a LOGIN ~{5}",
            b"a LOGIN ({5}",
        ] {
            assert_eq!(exposed(&Command::begin(line).0), None, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn a_literal_is_announced_by_the_end_of_a_line() {
        for (line, length, is_coming) in [
            ("a LOGIN {6}", 6, false),
            ("a LOGIN {6+}", 6, true),
            ("a LOGIN duarte {0}", 0, false),
            ("a ID ({4}", 4, false),
            ("a APPEND INBOX ~{4}", 4, false),
            ("a {4+}", 4, true),
            ("a LOGIN {4294967296}", 4_294_967_296, false),
            ("a LOGIN {99999999999999999999}", usize::MAX, false),
            ("a LOGIN {99999999999999999999+}", usize::MAX, true),
            ("a LOGIN {-5}", usize::MAX, false),
            ("a LOGIN {-5+}", usize::MAX, true),
            ("a LOGIN {5++}", usize::MAX, true),
        ] {
            assert_eq!(Command::begin(line.as_bytes()).1, Some(Literal { length, is_coming }), "{line}");
        }
        for line in ["a LOGIN {6} ", "a LOGIN {}", "a LOGIN {+}", "a LOGIN {6", "a LOGIN 6}", "a LOGIN {x6}", "{6}", ""]
        {
            assert_eq!(Command::begin(line.as_bytes()).1, None, "{line}");
        }
    }

    #[test]
    fn a_command_goes_on_after_its_literals() {
        let (mut command, _) = Command::begin(b"a LOGIN {6}");
        command.push_literal(b"dua rt");
        assert_eq!(command.push_line(b" {4+}"), Some(Literal { length: 4, is_coming: true }));
        command.push_literal(b"\xff\r\n\"");
        assert_eq!(command.push_line(b""), None);
        assert_eq!(exposed(&command), Some(vec![b"dua rt".to_vec(), b"\xff\r\n\"".to_vec()]));
    }

    #[test]
    fn a_literal_holds_no_zero_and_is_followed_by_a_space() {
        for (literal, line) in [(&b"dua\0te"[..], &b" b"[..]), (b"duarte", b"b")] {
            let (mut command, _) = Command::begin(b"a LOGIN {6}");
            command.push_literal(literal);
            command.push_line(line);
            assert_eq!(exposed(&command), None);
        }
    }

    #[test]
    fn only_a_tag_of_the_standard_is_sent_back() {
        let longest = "t".repeat(TAG_MAX_BYTES);
        for tag in ["a", "A001", "1.2", "]", "a-_#&'/:;<=>?@[^`|}~!$,", &longest] {
            let (command, _) = Command::begin(format!("{tag} NOOP").as_bytes());
            assert_eq!(command.tag.as_deref(), Some(tag.as_bytes()));
        }
        for tag in
            ["", "+", "a+", "*", "a\\b", "\"a\"", "(a", "a)", "a{", "%", "a\tb", "a\rb", "é", &format!("{longest}t")]
        {
            assert_eq!(Command::begin(format!("{tag} NOOP").as_bytes()).0.tag, None, "{tag}");
        }
    }

    #[test]
    fn a_command_of_many_small_literals_becomes_too_long() {
        let (mut command, _) = Command::begin(b"a ID ({1+}");
        let mut pieces = 0;
        while !command.is_too_long() {
            command.push_literal(b"x");
            command.push_line(b" {1+}");
            pieces += 1;
        }
        assert!(pieces < COMMAND_MAX_BYTES);
    }

    #[test]
    fn known_commands_stand_in_order() {
        assert!(AFTER_LOGON.is_sorted());
    }

    fn exposed(command: &Command) -> Option<Vec<Vec<u8>>> {
        let arguments = command.arguments.as_ref()?;
        Some(arguments.iter().map(|argument| argument.expose().to_vec()).collect())
    }
}
