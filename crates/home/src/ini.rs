//! Config files by the rules of Python's ConfigParser, for which deployed files are written and which no Rust library
//! follows: continuation lines, no comments after values, and `%(name)s` references.

use std::collections::HashMap;

use crate::lines;
use crate::loggable::loggable_name;
use crate::problem::ConfigProblem;

/// The section whose values can be referenced from every section.
const DEFAULT: &str = "DEFAULT";
/// The deepest nesting of references.
const MAX_DEPTH: usize = 10;
/// The largest number of references in a value: references to references multiply quickly.
const MAX_REFERENCES: usize = 1000;
/// The longest value after references are replaced, in bytes.
const MAX_LENGTH: usize = 1 << 16;

/// A value and its position in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IniValue {
    /// The name of the option, as written.
    pub name: String,
    /// The text, before references are replaced.
    pub text: String,
    /// The line number, from 1; 0 if the value is not from the file.
    pub line: usize,
}

/// A config file.
#[derive(Debug, Default)]
pub struct IniDocument {
    sections: HashMap<String, Vec<IniValue>>,
}

impl IniDocument {
    /// Reads the text of a file, which problems call `name`.
    ///
    /// # Errors
    ///
    /// All problems of the text.
    pub fn parse(text: &[u8], name: &str) -> Result<Self, Vec<ConfigProblem>> {
        let mut reader = IniReader::new(name);
        let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
        for (index, line) in lines::split(text).enumerate() {
            match std::str::from_utf8(line) {
                Ok(line) => reader.line(index + 1, line),
                Err(_) => reader.problem(index + 1, "the line is not UTF-8"),
            }
        }
        reader.finish()
    }

    /// Returns the values of a section, in the order of the file.
    pub fn section(&self, name: &str) -> &[IniValue] {
        self.sections.get(name).map_or(&[], Vec::as_slice)
    }

    /// Returns a section whose name differs only in case.
    pub fn other_case_of(&self, name: &str) -> Option<&str> {
        self.sections.keys().find(|key| key.eq_ignore_ascii_case(name) && *key != name).map(String::as_str)
    }

    /// Sets a value that overrides the file.
    pub fn set(&mut self, section: &str, name: &str, text: &str) {
        let values = self.sections.entry(section.to_owned()).or_default();
        values.retain(|value| !value.name.eq_ignore_ascii_case(name));
        values.push(IniValue { name: name.to_owned(), text: text.to_owned(), line: 0 });
    }

    /// Replaces `%(name)s` by the value of that option, which is looked up in the section, in `others` and in
    /// `[DEFAULT]`, and `%%` by `%`. Any other `%` is kept.
    ///
    /// # Errors
    ///
    /// A reference to an unknown option, or too many references.
    pub fn interpolate(
        &self,
        section: &str,
        text: &str,
        others: &dyn Fn(&str) -> Option<String>,
    ) -> Result<String, String> {
        self.resolve(section, text, others, 0, &mut 0)
    }

    fn resolve(
        &self,
        section: &str,
        text: &str,
        others: &dyn Fn(&str) -> Option<String>,
        depth: usize,
        references: &mut usize,
    ) -> Result<String, String> {
        if depth > MAX_DEPTH || *references > MAX_REFERENCES {
            return Err("its references are circular or nested too deeply".to_owned());
        }
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some(after) = rest.strip_prefix("%%") {
                out.push('%');
                rest = after;
            } else if let Some((name, after)) = reference(rest) {
                let found = self.lookup(section, name, others).ok_or_else(|| {
                    let name = name.escape_debug();
                    format!("%({name})s refers to an unknown option: for a plain % write %%")
                })?;
                *references += 1;
                out.push_str(&self.resolve(section, &found, others, depth + 1, references)?);
                if out.len() > MAX_LENGTH {
                    return Err("its references make the value too long".to_owned());
                }
                rest = after;
            } else {
                out.push('%');
                rest = &rest[1..];
            }
        }
        out.push_str(rest);
        Ok(out)
    }

    fn lookup(&self, section: &str, name: &str, others: &dyn Fn(&str) -> Option<String>) -> Option<String> {
        let named = |section: &str| {
            let mut values = self.section(section).iter();
            values.find(|value| value.name.eq_ignore_ascii_case(name)).map(|value| value.text.clone())
        };
        named(section).or_else(|| others(name)).or_else(|| named(DEFAULT))
    }
}

/// Splits a text that begins with a reference `%(name)s` into the name and the rest.
fn reference(text: &str) -> Option<(&str, &str)> {
    text.strip_prefix("%(")?.split_once(")s").filter(|(name, _)| !name.contains(')'))
}

struct IniReader<'a> {
    name: &'a str,
    document: IniDocument,
    problems: Vec<ConfigProblem>,
    section: Option<String>,
    /// Whether a continuation line can follow.
    in_option: bool,
    indent: usize,
}

impl<'a> IniReader<'a> {
    fn new(name: &'a str) -> Self {
        Self {
            name,
            document: IniDocument::default(),
            problems: Vec::new(),
            section: None,
            in_option: false,
            indent: 0,
        }
    }

    fn problem(&mut self, line: usize, text: impl Into<String>) {
        self.problems.push(ConfigProblem {
            place: format!("{}:{line}", self.name),
            option: None,
            text: text.into(),
        });
    }

    fn values(&mut self) -> Option<&mut Vec<IniValue>> {
        let section = self.section.as_ref()?;
        Some(self.document.sections.entry(section.clone()).or_default())
    }

    fn line(&mut self, number: usize, line: &str) {
        let text = line.trim();
        if text.starts_with(['#', ';']) {
            return;
        }
        if text.is_empty() {
            // An empty line within a value belongs to the value; `finish` trims those at its end.
            if self.in_option
                && let Some(value) = self.values().and_then(|values| values.last_mut())
            {
                value.text.push('\n');
            }
            return;
        }
        let indent = line.chars().take_while(|character| character.is_whitespace()).count();
        if self.in_option && indent > self.indent {
            if let Some(value) = self.values().and_then(|values| values.last_mut()) {
                value.text.push('\n');
                value.text.push_str(text);
            }
            return;
        }
        self.indent = indent;
        self.in_option = false;
        if let Some(section) =
            text.strip_prefix('[').and_then(|text| text.rsplit_once(']')).map(|(name, _)| name)
            && !section.is_empty()
        {
            self.begin_section(number, section);
        } else if self.section.is_none() {
            self.problem(
                number,
                "text before the first section: put the options under a section, such as [server]",
            );
        } else {
            self.begin_option(number, text);
        }
    }

    fn begin_section(&mut self, number: usize, section: &str) {
        if section != DEFAULT && self.document.sections.contains_key(section) {
            self.problem(number, format!("duplicate section [{}]", loggable_name(section)));
        }
        self.document.sections.entry(section.to_owned()).or_default();
        self.section = Some(section.to_owned());
    }

    fn begin_option(&mut self, number: usize, text: &str) {
        let Some(at) = text.find(['=', ':']) else {
            return self.problem(number, "expected 'option = value', but there is no '='");
        };
        let (name, value) = (text[..at].trim_end(), text[at + 1..].trim_start());
        if name.is_empty() {
            return self.problem(number, "the option name before the '=' is missing");
        }
        let value = IniValue { name: name.to_owned(), text: value.to_owned(), line: number };
        let Some(values) = self.values() else { return };
        let earlier = values
            .iter()
            .find(|earlier| earlier.name.eq_ignore_ascii_case(&value.name))
            .map(|value| value.line);
        values.push(value);
        self.in_option = true;
        if let Some(earlier) = earlier {
            let name = loggable_name(name);
            self.problem(number, format!("duplicate option {name}, first set on line {earlier}"));
        }
    }

    fn finish(mut self) -> Result<IniDocument, Vec<ConfigProblem>> {
        if !self.problems.is_empty() {
            return Err(self.problems);
        }
        for value in self.document.sections.values_mut().flatten() {
            value.text.truncate(value.text.trim_end().len());
        }
        Ok(self.document)
    }
}

#[cfg(test)]
mod tests;
