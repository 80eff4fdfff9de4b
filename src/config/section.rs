//! A TOML document read table by table and key by key, so that one reading finds every mistake.
//!
//! Deserializing into structs would stop at the first. Here a mistake is noted with its place and reading goes on; a
//! key that nobody asked for by the time its table is left is unknown.

use std::{cell::RefCell, collections::BTreeSet, path::Path};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::mistake::{ConfigErrors, Mistake, closest};

/// What is wrong with one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The problem.
    pub problem: String,
    /// Its cure.
    pub cure: String,
}

/// Shorthand for [`Wrong`].
pub fn wrong(problem: impl Into<String>, cure: impl Into<String>) -> Wrong {
    Wrong { problem: problem.into(), cure: cure.into() }
}

/// A parsed file and the mistakes found in it so far.
pub struct Document<'t> {
    path: &'t Path,
    text: &'t str,
    root: Spanned<DeTable<'t>>,
    mistakes: RefCell<Vec<(usize, Mistake)>>,
}

/// A table of the document, or the absence of one, which has no keys.
pub struct Section<'d> {
    document: &'d Document<'d>,
    name: String,
    offset: usize,
    table: Option<&'d DeTable<'d>>,
    asked: RefCell<BTreeSet<&'d str>>,
}

impl<'t> Document<'t> {
    /// Parses a file's text. Where it is not TOML, those places are the only mistakes: reading on in a document with
    /// holes would invent others.
    pub fn parse(path: &'t Path, text: &'t str) -> Result<Self, ConfigErrors> {
        let (root, errors) = DeTable::parse_recoverable(text);
        let document = Document { path, text, root, mistakes: RefCell::default() };
        for error in errors {
            // Only the parser's message: its Display would show the line, and with it a secret that does not belong there.
            document.note(
                error.span().map_or(text.len(), |span| span.start),
                "",
                wrong(format!("this is not TOML: {}", error.message()), "correct the syntax (https://toml.io)"),
            );
        }
        document.mistakes().map(|()| document)
    }

    /// The top level.
    pub fn root<'d>(&'d self) -> Section<'d>
    where
        't: 'd,
    {
        self.section(String::new(), 0, Some(self.root.get_ref()))
    }

    /// Everything found so far, in the order of the file.
    pub fn mistakes(&self) -> Result<(), ConfigErrors> {
        let mut found = self.mistakes.borrow().clone();
        found.sort_by_key(|(offset, _)| *offset);
        if found.is_empty() {
            return Ok(());
        }
        Err(ConfigErrors { mistakes: found.into_iter().map(|(_, mistake)| mistake).collect() })
    }

    fn section<'d>(&'d self, name: String, offset: usize, table: Option<&'d DeTable<'t>>) -> Section<'d> {
        Section { document: self, name, offset, table, asked: RefCell::default() }
    }

    fn note(&self, offset: usize, name: &str, wrong: Wrong) {
        let before = self.text.get(..offset).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let place = format!("{}:{line}:{column}", self.path.display());
        let place = if name.is_empty() { place } else { format!("{place}: {name}") };
        self.mistakes.borrow_mut().push((offset, Mistake { place, problem: wrong.problem, cure: wrong.cure }));
    }
}

impl<'d> Section<'d> {
    /// Whether the file has this table.
    pub fn is_present(&self) -> bool {
        self.table.is_some()
    }

    /// Whether the table has this key.
    pub fn has(&self, key: &'static str) -> bool {
        self.find(key).is_some()
    }

    /// Whether a key's value is a list.
    pub fn is_list(&self, key: &'static str) -> bool {
        self.find(key).is_some_and(|value| value.get_ref().is_array())
    }

    /// Reads a key's value. `None`: it is absent, or wrong, which is noted.
    pub fn get<T>(&self, key: &'static str, read: impl FnOnce(&DeValue<'_>) -> Result<T, Wrong>) -> Option<T> {
        let value = self.find(key)?;
        read(value.get_ref()).map_err(|wrong| self.document.note(value.span().start, &self.name_of(key), wrong)).ok()
    }

    /// Reads a key that must be there; its absence is noted with this cure.
    pub fn require<T>(
        &self,
        key: &'static str,
        cure: &str,
        read: impl FnOnce(&DeValue<'_>) -> Result<T, Wrong>,
    ) -> Option<T> {
        if !self.has(key) {
            self.note(wrong(format!("`{key}` is missing"), cure));
            return None;
        }
        self.get(key, read)
    }

    /// Reads a list, entry by entry. `None`: it is absent, no list, or one of its entries is wrong.
    pub fn list<T>(&self, key: &'static str, read: impl Fn(&DeValue<'_>) -> Result<T, Wrong>) -> Option<Vec<T>> {
        let entries = self.get(key, |value| match value.as_array() {
            Some(_) => Ok(()),
            None => Err(wrong(
                format!("a list is needed, not {}", kind(value)),
                format!("write {key} = [ ... ], with commas between the entries"),
            )),
        });
        entries?;
        let entries = self.find(key)?.get_ref().as_array()?;
        let read_entry = |(index, entry): (usize, &Spanned<DeValue<'_>>)| {
            let name = format!("{}[{}]", self.name_of(key), index + 1);
            read(entry.get_ref()).map_err(|wrong| self.document.note(entry.span().start, &name, wrong)).ok()
        };
        // All entries are read before the first wrong one makes the list `None`.
        entries.iter().enumerate().map(read_entry).collect::<Vec<_>>().into_iter().collect()
    }

    /// The table under a key; an absent one has no keys.
    pub fn section(&self, key: &'static str) -> Section<'d> {
        match self.find(key) {
            Some(value) => self.table_in(self.name_of(key), value),
            None => self.document.section(self.name_of(key), self.offset, None),
        }
    }

    /// The tables of a list written `[[key]]`.
    pub fn sections(&self, key: &'static str) -> Vec<Section<'d>> {
        let Some(value) = self.find(key) else {
            return Vec::new();
        };
        let Some(entries) = value.get_ref().as_array() else {
            let cure = format!("write [[{key}]], with two brackets, above each of them");
            self.note_at(key, wrong(format!("there can be several, so {} will not do", kind(value.get_ref())), cure));
            return Vec::new();
        };
        let named = |(index, entry)| self.table_in(format!("{}[{}]", self.name_of(key), index + 1), entry);
        entries.iter().enumerate().map(named).collect()
    }

    /// Every key with its table, for a table whose keys are free names.
    pub fn named_sections(&self) -> Vec<(&'d str, Section<'d>)> {
        self.free_keys().into_iter().map(|(key, value)| (key, self.table_in(self.name_of(key), value))).collect()
    }

    /// Reads every key, for a table whose keys are free names.
    pub fn each(&self, mut read: impl FnMut(&str, &DeValue<'_>) -> Result<(), Wrong>) {
        for (key, value) in self.free_keys() {
            if let Err(wrong) = read(key, value.get_ref()) {
                self.document.note(value.span().start, &self.name_of(&format!("\"{key}\"")), wrong);
            }
        }
    }

    /// Notes a mistake about the whole table.
    pub fn note(&self, wrong: Wrong) {
        self.document.note(self.offset, &self.name, wrong);
    }

    /// Notes a mistake about a key's value that shows only beside others.
    pub fn note_at(&self, key: &'static str, wrong: Wrong) {
        let offset = self.find(key).map_or(self.offset, |value| value.span().start);
        self.document.note(offset, &self.name_of(key), wrong);
    }

    fn find(&self, key: &'static str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.asked.borrow_mut().insert(key);
        self.table?.get(key)
    }

    fn free_keys(&self) -> Vec<(&'d str, &'d Spanned<DeValue<'d>>)> {
        let entries: Vec<_> =
            self.table.into_iter().flatten().map(|(key, value)| (key.get_ref().as_ref(), value)).collect();
        self.asked.borrow_mut().extend(entries.iter().map(|(key, _)| *key));
        entries
    }

    fn table_in(&self, name: String, value: &'d Spanned<DeValue<'d>>) -> Section<'d> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            let cure = format!("write [{name}] on a line of its own and the options below it");
            let problem = format!("a table is needed, not {}", kind(value.get_ref()));
            self.document.note(value.span().start, &name, wrong(problem, cure));
        }
        self.document.section(name, value.span().start, table)
    }

    fn name_of(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }
}

/// Leaving a section notes the keys nobody asked for. As a `Drop`, because it must also happen on an early return.
impl Drop for Section<'_> {
    fn drop(&mut self) {
        let asked = self.asked.borrow();
        for key in self.table.into_iter().flat_map(DeTable::keys) {
            let written = key.get_ref().as_ref();
            if asked.contains(written) {
                continue;
            }
            let cure = match closest(written, asked.iter().copied()) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("remove it; known here: {}", asked.iter().copied().collect::<Vec<_>>().join(", ")),
            };
            self.document.note(key.span().start, &self.name_of(written), wrong("there is no such option", cure));
        }
    }
}

/// What a value is, with its article.
pub fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "text",
        DeValue::Integer(_) => "a number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}
