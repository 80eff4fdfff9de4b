//! The embedded directory: an LDIF file (RFC 2849), held in memory.
//!
//! [`parse`] is strict: a file that is read differently by two programs would route differently. What it cannot read it
//! refuses with lines and cures.

use std::{
    collections::HashMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use arc_swap::ArcSwap;
use base64::{Engine, engine::general_purpose::STANDARD};
use parking_lot::Mutex;
use sha1::{Digest, Sha1};
use subtle::ConstantTimeEq;

use super::{
    DirectoryError,
    forest::{AnyOf, News, Source},
    organisation::Organisation,
    schema::{self, Record, attribute, fold_dn, is_within},
};

/// Reads a file as a directory.
///
/// # Errors
/// [`DirectoryError::Unusable`]: unreadable, or larger than 64 MiB. [`DirectoryError::Malformed`]: not LDIF.
pub fn open(path: impl AsRef<Path>) -> Result<Organisation, DirectoryError> {
    Ok(Organisation::new(Source::Ldif(Records::open(path.as_ref())?), []))
}

/// A file's records, and when it was written.
fn read(path: &Path) -> Result<(Vec<Record>, Option<SystemTime>), DirectoryError> {
    let unusable = |problem| DirectoryError::Unusable { place: path.display().to_string(), problem };
    let file = File::open(path).map_err(|error| unusable(format!("it cannot be opened: {error}")))?;
    let written = file.metadata().and_then(|metadata| metadata.modified()).ok();
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| unusable(format!("it cannot be read: {error}")))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let problem = "it is larger than 64 MiB; a directory of that size belongs into LDAP servers: write \
                       `[directory.ldap] urls = [...]` instead of `[directory] ldif = \"...\"`";
        return Err(unusable(problem.to_owned()));
    }
    let records = parse(&bytes).map_err(|errors| DirectoryError::Malformed {
        mistakes: errors
            .iter()
            .map(|ParseError { line, problem }| format!("{}:{line}: {problem}", path.display()))
            .collect(),
    })?;
    Ok((records, written))
}

/// Where and why bytes are not LDIF.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct ParseError {
    /// The line, counted from 1, on which the faulty (possibly folded) line starts.
    pub line: usize,
    /// What is wrong and how to mend it.
    pub problem: Problem,
}

/// What can be wrong with a line of LDIF.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A continuation without a line to continue.
    #[error("a line that starts with a space continues the one before it, and there is none; remove the space")]
    NothingToContinue,
    /// RFC 2849: `version-number = 1*DIGIT ; version-number MUST be "1"`.
    #[error("only LDIF version 1 exists; write `version: 1` as the first line, or leave it out")]
    Version,
    /// A line without a colon.
    #[error("it has no colon; write `attribute: value`, `attribute:: base64`, or start a comment with #")]
    NoColon,
    /// An attribute name with other characters than RFC 4512 allows.
    #[error("the text before the colon is no attribute name; names have letters, digits, `-`, `.` and `;` only")]
    AttributeName,
    /// The first line of a record is not its `dn:`.
    #[error(
        "a record must start with `dn:`; if a search tool wrote this file, tell it to leave out its own remarks (-LLL)"
    )]
    NoDn,
    /// A second `dn:` in one record.
    #[error("a second dn in one record; put an empty line before it")]
    SecondDn,
    /// The root, or text without an equals sign.
    #[error("the dn is not a distinguished name; write it as CN=...,DC=...")]
    BadDn,
    /// A DN that an earlier record has.
    #[error("the record of line {first} has the same dn; merge the two")]
    RepeatedDn {
        /// Where the earlier one starts.
        first: usize,
    },
    /// A record without attributes.
    #[error("the record has no attributes; add some or remove it")]
    EmptyRecord,
    /// A change record.
    #[error("this is a file of changes; only files of whole records can be used (export with slapcat or ldifde)")]
    Change,
    /// `attribute:< url`.
    #[error("values from other files (`:<`) are not read; write the value into this file, as base64 after `::`")]
    Url,
    /// RFC 2849's `SAFE-STRING`.
    #[error("the value has bytes that LDIF allows only as base64; write it after `::`")]
    Unsafe,
    /// Not base64 after `::`.
    #[error("the value after `::` is not base64")]
    Base64,
    /// A DN in other than UTF-8.
    #[error("the dn is not UTF-8")]
    DnNotUtf8,
}

/// Parses LDIF content records (RFC 2849).
///
/// # Errors
/// The first [`MISTAKES_MAX`] mistakes, by line. A record that does not start as it should is one mistake, whatever its
/// attributes. Never panics, whatever the bytes.
pub fn parse(bytes: &[u8]) -> Result<Vec<Record>, Vec<ParseError>> {
    let (lines, mut mistakes) = logical_lines(bytes);
    let mut reader = Reader::default();
    let mut of_records = 0;
    for (line, text) in lines {
        let Err(mistake) = reader.read(line, &text) else { continue };
        // A file of changes has it in every record.
        let hopeless = mistake.problem == Problem::Change;
        mistakes.push(mistake);
        of_records += 1;
        if hopeless || of_records == MISTAKES_MAX {
            break;
        }
    }
    mistakes.extend(reader.close().err());
    if mistakes.is_empty() {
        return Ok(reader.records);
    }
    mistakes.sort_by_key(|mistake| mistake.line);
    mistakes.truncate(MISTAKES_MAX);
    Err(mistakes)
}

#[derive(Default)]
struct Reader {
    records: Vec<Record>,
    lines_of_dns: HashMap<String, usize>,
    started: bool,
    block: Block,
}

/// Where in the file the reader is.
#[derive(Default)]
enum Block {
    /// Between records.
    #[default]
    None,
    /// In the record that starts in that line.
    Good(usize, Record),
    /// In a record with a mistake.
    Bad,
}

impl Reader {
    fn read(&mut self, line: usize, text: &[u8]) -> Result<(), ParseError> {
        if text.is_empty() {
            return self.close();
        }
        let read = self.read_attribute(line, text).map_err(|problem| ParseError { line, problem });
        if read.is_err() {
            self.block = Block::Bad;
        }
        read
    }

    fn read_attribute(&mut self, line: usize, text: &[u8]) -> Result<(), Problem> {
        let may_be_version = !std::mem::replace(&mut self.started, true);
        let (name, value) = attribute_and_value(text)?;
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted);
        if may_be_version && is("version") {
            return if value == b"1" { Ok(()) } else { Err(Problem::Version) };
        }
        match &mut self.block {
            Block::Bad => {}
            Block::Good(..) if is("dn") => return Err(Problem::SecondDn),
            Block::Good(..) if is("changetype") || is("control") => return Err(Problem::Change),
            Block::Good(_, record) => record.push(name, value),
            Block::None if !is("dn") => return Err(Problem::NoDn),
            Block::None => {
                let dn = String::from_utf8(value).map_err(|_| Problem::DnNotUtf8)?;
                if !dn.contains('=') {
                    return Err(Problem::BadDn);
                }
                if let Some(&first) = self.lines_of_dns.get(&fold_dn(&dn)) {
                    return Err(Problem::RepeatedDn { first });
                }
                self.lines_of_dns.insert(fold_dn(&dn), line);
                self.block = Block::Good(line, Record::new(dn));
            }
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), ParseError> {
        let Block::Good(line, record) = std::mem::take(&mut self.block) else { return Ok(()) };
        if record.attributes().next().is_none() {
            return Err(ParseError { line, problem: Problem::EmptyRecord });
        }
        self.records.push(record);
        Ok(())
    }
}

/// Lines unfolded, comments left out, each with the number of its first physical line; and the lines that continue
/// nothing. RFC 2849 ends a line with LF or CR LF, and continues it on the next if that starts with one space.
fn logical_lines(bytes: &[u8]) -> (Vec<(usize, Vec<u8>)>, Vec<ParseError>) {
    let mut lines: Vec<(usize, Vec<u8>)> = Vec::new();
    let mut mistakes = Vec::new();
    let mut in_comment = false;
    for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match line.split_first() {
            Some((b' ', _)) if in_comment => {}
            Some((b' ', continued)) => match lines.last_mut() {
                Some((_, text)) if !text.is_empty() => text.extend_from_slice(continued),
                Some(_) | None if mistakes.len() == MISTAKES_MAX => {}
                Some(_) | None => mistakes.push(ParseError { line: number, problem: Problem::NothingToContinue }),
            },
            Some((b'#', _)) => in_comment = true,
            Some(_) | None => {
                in_comment = false;
                lines.push((number, line.to_vec()));
            }
        }
    }
    (lines, mistakes)
}

fn attribute_and_value(line: &[u8]) -> Result<(&str, Vec<u8>), Problem> {
    let colon = line.iter().position(|byte| *byte == b':').ok_or(Problem::NoColon)?;
    let (name, rest) = line.split_at(colon);
    let name = std::str::from_utf8(name).map_err(|_| Problem::AttributeName)?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b';');
    if name.is_empty() || !name.bytes().all(allowed) {
        return Err(Problem::AttributeName);
    }
    let value = match rest {
        [_, b':', base64 @ ..] => STANDARD.decode(filled(base64)).map_err(|_| Problem::Base64)?,
        [_, b'<', ..] => return Err(Problem::Url),
        [_, text @ ..] => safe_string(filled(text))?.to_vec(),
        [] => return Err(Problem::NoColon),
    };
    Ok((name, value))
}

/// `FILL = *SPACE`.
fn filled(text: &[u8]) -> &[u8] {
    let spaces = text.iter().take_while(|byte| **byte == b' ').count();
    text.get(spaces..).unwrap_or_default()
}

/// `SAFE-STRING`: ASCII without NUL, LF and CR, not starting with a space, a colon or `<`.
fn safe_string(text: &[u8]) -> Result<&[u8], Problem> {
    let starts_safe = !matches!(text.first(), Some(b' ' | b':' | b'<'));
    let safe = text.iter().all(|byte| byte.is_ascii() && !matches!(byte, 0 | b'\n' | b'\r'));
    if starts_safe && safe { Ok(text) } else { Err(Problem::Unsafe) }
}

/// A file's records in memory; read again when the file is written anew.
pub(super) struct Records {
    path: PathBuf,
    index: ArcSwap<Index>,
    /// When the file was written, as it was read last, whether it was good or not.
    written: Mutex<Option<SystemTime>>,
}

/// Records, indexed by what people are searched by.
struct Index {
    all: Arc<Vec<Record>>,
    folded_dns: Vec<String>,
    by_dn: HashMap<String, usize>,
    by_value: HashMap<(&'static str, Vec<u8>), Vec<usize>>,
}

impl Index {
    fn new(records: Vec<Record>) -> Self {
        let folded_dns: Vec<String> = records.iter().map(|record| fold_dn(&record.dn)).collect();
        let by_dn = folded_dns.iter().cloned().zip(0..).collect();
        let mut by_value: HashMap<_, Vec<usize>> = HashMap::new();
        for (id, record) in records.iter().enumerate() {
            for &searched in SEARCHED {
                for value in record.values(searched) {
                    let ids = by_value.entry((searched, folded(searched, value))).or_default();
                    if ids.last() != Some(&id) {
                        ids.push(id);
                    }
                }
            }
        }
        Index { all: Arc::new(records), folded_dns, by_dn, by_value }
    }

    fn record(&self, folded_dn: &str) -> Option<&Record> {
        self.all.get(*self.by_dn.get(folded_dn)?)
    }
}

impl Records {
    fn open(path: &Path) -> Result<Self, DirectoryError> {
        let (records, written) = read(path)?;
        let index = ArcSwap::from_pointee(Index::new(records));
        Ok(Records { path: path.to_owned(), index, written: Mutex::new(written) })
    }

    /// The records of these classes.
    pub(super) fn of_classes(&self, classes: &[&str]) -> Vec<Record> {
        let index = self.index.load();
        index.all.iter().filter(|record| classes.iter().any(|class| record.is(class))).cloned().collect()
    }

    /// The records that match, each once, at most `limit`.
    pub(super) fn matching(&self, base: Option<&str>, any_of: &AnyOf, limit: usize) -> Vec<Record> {
        let (index, base) = (self.index.load(), base.map(fold_dn).unwrap_or_default());
        let mut ids: Vec<usize> = any_of
            .equalities()
            .iter()
            .filter_map(|(attribute, value)| index.by_value.get(&(*attribute, folded(attribute, value))))
            .flatten()
            .copied()
            .filter(|id| index.folded_dns.get(*id).is_some_and(|dn| is_within(dn, &base)))
            .collect();
        ids.sort_unstable();
        ids.dedup();
        ids.into_iter().take(limit).filter_map(|id| index.all.get(id)).cloned().collect()
    }

    /// What has changed since the file was last read.
    ///
    /// # Errors
    /// The file as it is now cannot be used. Told once; what was read before stays in force.
    pub(super) fn news(&self) -> Result<News, DirectoryError> {
        let written = std::fs::metadata(&self.path).and_then(|metadata| metadata.modified()).ok();
        // Gone: most likely about to be replaced.
        if written.is_none() || *self.written.lock() == written {
            return Ok(News::default());
        }
        *self.written.lock() = written;
        let new = Index::new(read(&self.path)?.0);
        let old = self.index.load_full();
        let is_person = |record: &&Record| SEARCHED.iter().any(|attribute| !record.values(attribute).is_empty());
        let changed = |(record, dn): (&Record, &String)| (old.record(dn) != Some(record)).then(|| record.clone());
        let people = new.all.iter().zip(&new.folded_dns).filter(|(record, _)| is_person(record)).filter_map(changed);
        let may_have_missed = old.folded_dns.iter().any(|dn| new.record(dn).is_none()); // somebody was removed
        let news = News { people: people.collect(), may_have_missed, topology: true };
        self.index.store(Arc::new(new));
        Ok(news)
    }

    /// The file, for messages.
    pub(super) fn place(&self) -> String {
        self.path.display().to_string()
    }

    /// Every record, for checks of the whole file.
    pub(super) fn all(&self) -> Arc<Vec<Record>> {
        self.index.load().all.clone()
    }

    /// Whether one of the record's `userPassword` values is this password's hash.
    ///
    /// # Errors
    /// [`DirectoryError::Unusable`]: none is, but one is of a scheme this cannot compare.
    pub(super) fn check_password(&self, dn: &str, password: &str) -> Result<bool, DirectoryError> {
        let index = self.index.load();
        let Some(record) = index.record(&fold_dn(dn)) else { return Ok(false) };
        let mut unreadable = false;
        for stored in record.values(attribute::USER_PASSWORD) {
            match ssha(stored) {
                Some((hash, salt)) => {
                    let actual = Sha1::new().chain_update(password).chain_update(salt).finalize();
                    if bool::from(actual.as_slice().ct_eq(&hash)) {
                        return Ok(true);
                    }
                }
                None => unreadable = true,
            }
        }
        if unreadable {
            return Err(DirectoryError::Unusable {
                place: format!("{}: {}", self.path.display(), record.dn),
                problem: "its userPassword is not {SSHA}, the only scheme the embedded directory compares; make one \
                          with `slappasswd -h {SSHA}`"
                    .to_owned(),
            });
        }
        Ok(false)
    }
}

/// `{SSHA}` and base64 of SHA-1(password, salt) followed by the salt.
fn ssha(stored: &[u8]) -> Option<([u8; SHA1_BYTES], Vec<u8>)> {
    let (scheme, base64) = stored.split_at_checked(SSHA.len())?;
    if !scheme.eq_ignore_ascii_case(SSHA) {
        return None;
    }
    let decoded = STANDARD.decode(base64).ok()?;
    let (hash, salt) = decoded.split_first_chunk()?;
    Some((*hash, salt.to_vec()))
}

/// As the directory compares: text without case, octets as they are.
fn folded(attribute: &str, value: &[u8]) -> Vec<u8> {
    match std::str::from_utf8(value) {
        Ok(text) if !matches!(attribute, schema::attribute::MAILBOX_GUID | schema::attribute::MASTER_ACCOUNT_SID) => {
            text.trim().to_lowercase().into_bytes()
        }
        Ok(_) | Err(_) => value.to_vec(),
    }
}

const SEARCHED: &[&str] = &[
    attribute::USER_PRINCIPAL_NAME,
    attribute::PROXY_ADDRESSES,
    attribute::SAM_ACCOUNT_NAME,
    attribute::MAIL_NICKNAME,
    attribute::MAILBOX_GUID,
    attribute::MASTER_ACCOUNT_SID,
];

/// How many mistakes are told of one file.
pub const MISTAKES_MAX: usize = 20;
/// 64 MiB: some 60,000 people, and a bound on what a mistaken path can take of the memory.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
const SHA1_BYTES: usize = 20;
const SSHA: &[u8] = b"{SSHA}";

#[cfg(test)]
#[allow(clippy::expect_used)] // a failing `expect` is a failing test
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn record(dn: &str, attributes: &[(&str, &[u8])]) -> Record {
        let mut record = Record::new(dn);
        for (name, value) in attributes {
            record.push(name, *value);
        }
        record
    }

    #[test]
    fn folded_lines_comments_base64_and_both_line_ends_are_read() {
        let text = "# a comment\n  that goes on\nversion: 1\r\ndn: CN=a,\n DC=b\nCN: A\ncn:: w6k=\n#in between\n\
                    description:   two\r\n   words\nempty:\n\n\n\ndn:: Q049w6ksREM9Yg==\ncn: x";
        assert_eq!(
            parse(text.as_bytes()),
            Ok(vec![
                record(
                    "CN=a,DC=b",
                    &[("CN", b"A"), ("cn", "é".as_bytes()), ("description", b"two  words"), ("empty", b"")]
                ),
                record("CN=é,DC=b", &[("cn", b"x")]),
            ])
        );
    }

    #[test]
    fn what_is_not_ldif_is_refused_with_its_line() {
        for (text, line, problem) in [
            (&b" x"[..], 1, Problem::NothingToContinue),
            (b"dn: a=b\nc: d\n\n x", 4, Problem::NothingToContinue),
            (b"version: 2\n", 1, Problem::Version),
            (b"dn: a=b\nc\n", 2, Problem::NoColon),
            (b"dn: a=b\nc d: e\n", 2, Problem::AttributeName),
            (b"dn: a=b\n: e\n", 2, Problem::AttributeName),
            (b"\xef\xbb\xbfdn: a=b\nc: d\n", 1, Problem::AttributeName),
            (b"dn: a=b\nc: d\n\nsearch: 2\n", 4, Problem::NoDn),
            (b"dn: a=b\nc: d\ndn: e=f\n", 3, Problem::SecondDn),
            (b"dn:\nc: d\n", 1, Problem::BadDn),
            (b"dn: a=b\nc: d\n\ndn: A = B\nc: d\n", 4, Problem::RepeatedDn { first: 1 }),
            (b"\ndn: a=b\n\n", 2, Problem::EmptyRecord),
            (b"dn: a=b", 1, Problem::EmptyRecord),
            (b"dn: a=b\nchangetype: add\nc: d\n", 2, Problem::Change),
            (b"dn: a=b\nc:< file:///etc/passwd\n", 2, Problem::Url),
            (b"dn: a=b\nc: \xc3\xa9\n", 2, Problem::Unsafe),
            (b"dn: a=b\nc: :d\n", 2, Problem::Unsafe),
            (b"dn: a=b\nc: d\n e\n \0\n", 2, Problem::Unsafe),
            (b"dn: a=b\nc:: d\n", 2, Problem::Base64),
            (b"dn:: /w==\nc: d\n", 1, Problem::DnNotUtf8),
        ] {
            assert_eq!(parse(text), Err(vec![ParseError { line, problem }]), "{}", text.escape_ascii());
        }
    }

    #[test]
    fn all_mistakes_are_told_up_to_a_limit_and_none_that_another_caused() {
        let text = b"dn: a=b\nc\nd: e\nf\n\n x\ng: h\ni: j\n\ndn: k=l\n\ndn: k=l\nm: n\n\ndn: A=B\nc: d\n";
        let found: Vec<_> = parse(text).expect_err("mistakes").into_iter().map(|one| (one.line, one.problem)).collect();
        assert_eq!(
            found,
            [
                (2, Problem::NoColon),
                (4, Problem::NoColon),
                (6, Problem::NothingToContinue),
                (7, Problem::NoDn),
                (10, Problem::EmptyRecord),
                (12, Problem::RepeatedDn { first: 10 }),
                (15, Problem::RepeatedDn { first: 1 }),
            ]
        );
        for line in ["no colon\n", "\n x\n", "x: y\n\n"] {
            assert_eq!(parse(line.repeat(1000).as_bytes()).expect_err("mistakes").len(), MISTAKES_MAX, "{line:?}");
        }
        let changes = "dn: a=b\nchangetype: delete\n\ndn: c=d\nchangetype: delete\n";
        assert_eq!(parse(changes.as_bytes()), Err(vec![ParseError { line: 2, problem: Problem::Change }]));
    }

    #[test]
    fn a_file_that_is_too_large_is_refused_with_the_keys_to_write_instead() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.as_file().set_len(FILE_BYTES_MAX + 1).expect("a sparse file");
        let error = open(file.path()).err().expect("refused").to_string();
        assert!(error.contains("write `[directory.ldap] urls = [...]` instead of `[directory] ldif = "), "{error}");
    }

    #[test]
    fn a_bad_file_is_named_with_its_line_and_the_cure() {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(b"dn: a=b\nc d\n").expect("written");
        let error = open(file.path()).err().expect("refused").to_string();
        assert_eq!(error, format!("{}:2: {}", file.path().display(), Problem::NoColon));
        let error = open("/no/such/file.ldif").err().expect("refused").to_string();
        assert!(error.starts_with("/no/such/file.ldif: it cannot be opened"), "{error}");
    }

    #[test]
    fn only_ssha_passwords_are_compared_and_others_said_to_be_unusable() {
        let check = |stored: &[&[u8]], password| {
            let values: Vec<_> = stored.iter().map(|value| (attribute::USER_PASSWORD, *value)).collect();
            let records = Records {
                path: "file".into(),
                index: ArcSwap::from_pointee(Index::new(vec![record("CN=a,DC=b", &values)])),
                written: Mutex::default(),
            };
            records.check_password("cn=a, dc=b", password).map_err(|error| error.to_string())
        };
        let right = b"{SSHA}9sVsr08QVNkinz3uj72QpnvpYvQUQbBSipVZ8A==";
        assert_eq!(check(&[right], "Pass-word1"), Ok(true));
        assert_eq!(check(&[right], "pass-word1"), Ok(false));
        assert_eq!(check(&[], "Pass-word1"), Ok(false));
        assert_eq!(check(&[b"{CRYPT}x", right], "Pass-word1"), Ok(true));
        for other in [&b"{SSHA512}AAAA"[..], b"{CRYPT}$6$x", b"Pass-word1", b"{SSHA}AAAA", b"{SSHA}=", b""] {
            let error = check(&[other], "Pass-word1").expect_err("unusable");
            assert!(error.starts_with("file: CN=a,DC=b: its userPassword is not {SSHA}"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }

        #[test]
        fn no_near_ldif_makes_the_parser_panic(text in "((dn|a|version)(:|::|:<| )?[ -~\n]{0,9}\n? ?){0,12}") {
            let _ = parse(text.as_bytes());
        }

        #[test]
        fn records_written_as_ldif_are_read_as_they_were(
            names in proptest::collection::btree_set("[a-z]{1,8}=[^\u{0}]{0,20}", 1..6),
            values in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 1..6),
            width in 2..80usize,
        ) {
            let mut written = String::new();
            let mut records = Vec::new();
            let mut seen = std::collections::HashSet::new();
            for dn in names.iter().filter(|dn| seen.insert(fold_dn(dn))) {
                write(&mut written, "dn", dn.as_bytes(), width);
                let mut record = Record::new(dn.as_str());
                for value in &values {
                    write(&mut written, "description", value, width);
                    record.push("description", value.clone());
                }
                written.push('\n');
                records.push(record);
            }
            prop_assert_eq!(parse(written.as_bytes()), Ok(records));
        }
    }

    /// One attribute line, as base64 where RFC 2849 wants it, folded at a width.
    fn write(ldif: &mut String, name: &str, value: &[u8], width: usize) {
        let line = match std::str::from_utf8(value) {
            Ok(text) if !value.ends_with(b" ") && safe_string(value).is_ok() => format!("{name}: {text}"),
            Ok(_) | Err(_) => format!("{name}:: {}", STANDARD.encode(value)),
        };
        for (position, character) in line.chars().enumerate() {
            if position > 0 && position % width == 0 {
                ldif.push_str("\n ");
            }
            ldif.push(character);
        }
        ldif.push('\n');
    }
}
