//! Why a line is not imported: where in the line, which field, and what mends it.

use serde_json::value::RawValue;

/// What is wrong with a line. It never repeats what the line says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) what: String,
    pub(crate) field: Option<String>,
    /// In bytes from the beginning of the line, from 1.
    pub(crate) column: u64,
    pub(crate) mend: String,
}

impl Refusal {
    pub(crate) fn new(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Refusal { what: what.into(), field: None, column: 1, mend: mend.into() }
    }

    pub(crate) fn column(mut self, column: usize) -> Self {
        self.column = u64::try_from(column).unwrap_or(u64::MAX).max(1);
        self
    }

    pub(crate) fn field(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }
}

/// An object within the text of a line, so that refusals can say where they are.
#[derive(Clone, Copy)]
pub(crate) struct Spot<'a> {
    /// The whole line.
    line: &'a str,
    /// What stands before the names of its fields: empty, or `messages[3].`
    prefix: &'a str,
}

impl<'a> Spot<'a> {
    pub(crate) fn whole(line: &'a str) -> Self {
        Spot { line, prefix: "" }
    }

    /// The same line, in an object that is named by `prefix`.
    pub(crate) fn within(self, prefix: &'a str) -> Self {
        Spot { prefix, ..self }
    }

    /// Names a field as it is found from the line on.
    pub(crate) fn name(&self, field: &str) -> String {
        format!("{}{field}", self.prefix)
    }

    /// Where a piece of the line begins.
    pub(crate) fn column(&self, piece: &str) -> usize {
        let (from, line) = (piece.as_ptr() as usize, self.line.as_ptr() as usize);
        // What is no piece of the line is told to be at its beginning.
        let at = from.checked_sub(line).filter(|at| *at <= self.line.len());
        at.map_or(1, |at| at.saturating_add(1))
    }

    /// A field whose value cannot be taken.
    pub(crate) fn wrong(
        &self,
        field: &str,
        value: &RawValue,
        what: &str,
        mend: impl Into<String>,
    ) -> Refusal {
        let field = self.name(field);
        Refusal::new(format!("{field} {what}"), mend).column(self.column(value.get())).field(field)
    }

    /// A field that has to be there.
    pub(crate) fn missing(&self, field: &str, object: &str, mend: impl Into<String>) -> Refusal {
        let field = self.name(field);
        let what = format!("the field {field} is missing");
        Refusal::new(what, mend).column(self.column(object)).field(field)
    }
}
