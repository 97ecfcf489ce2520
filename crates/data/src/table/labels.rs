//! Names of classes and their numbers.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Row, Table};
use crate::{DataError, Result};

/// The classes of a column: which names it has, and the number of each.
///
/// Whole numbers `0..n` stay as they are; other labels are numbered in alphabetic order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labels {
    names: Vec<String>,
}

impl Labels {
    /// Classes of given names; the first is 0.
    ///
    /// # Errors
    /// [`DataError::Invalid`] for no name, or one that is there twice.
    pub fn new<S: Into<String>>(names: impl IntoIterator<Item = S>) -> Result<Self> {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        let distinct: BTreeSet<&String> = names.iter().collect();
        if names.is_empty() || distinct.len() < names.len() {
            let expected = "one or more names, each once".into();
            let found = format!("[{}]", names.join(", "));
            return Err(DataError::Invalid { name: "labels", expected, found });
        }
        Ok(Self { names })
    }

    /// The labels that occur in a column: strings, whole numbers, or lists of them.
    ///
    /// # Errors
    /// [`DataError::Row`] for a label of another kind or a row that cannot be read, [`DataError::Invalid`] without rows.
    pub fn of_column(table: &Table, column: usize) -> Result<Self> {
        let mut names = BTreeSet::new();
        for row in table.rows() {
            let row = row?;
            for value in listed(row.value(column)?) {
                names.insert(name(value).ok_or_else(|| unfit(&row, column, value))?);
            }
        }
        let numbers: Option<Vec<usize>> = names.iter().map(|name| name.parse().ok()).collect();
        match numbers.and_then(|numbers| numbers.into_iter().max()) {
            // Classes that a split happens to lack keep their numbers too, within reason.
            Some(last) if last < 2 * names.len() + 8 => Self::new((0..=last).map(|i| i.to_string())),
            _ => Self::new(names),
        }
    }

    /// Number of classes.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Never: there is at least one class.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The names, by number.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The class of a row's column.
    ///
    /// # Errors
    /// [`DataError::Row`] if the label is unknown.
    pub fn id(&self, row: &Row, column: usize) -> Result<usize> {
        self.find(row, column, row.value(column)?)
    }

    /// The classes of a row's column which is a list: one for each word.
    ///
    /// # Errors
    /// [`DataError::Row`] if it is no list, or a label is unknown.
    pub fn ids(&self, row: &Row, column: usize) -> Result<Vec<usize>> {
        listed(row.value(column)?).map(|value| self.find(row, column, value)).collect()
    }

    fn find(&self, row: &Row, column: usize, value: &Value) -> Result<usize> {
        let name = name(value).ok_or_else(|| unfit(row, column, value))?;
        self.names.iter().position(|known| *known == name).ok_or_else(|| {
            let known = self.names.iter().take(20).map(String::as_str).collect::<Vec<_>>().join(", ");
            row.error(format!("the label `{name}` is not among the {} known ones ({known})", self.len()))
        })
    }
}

/// The elements of a list, the words of a string with spaces being no list, or the value itself.
fn listed(value: &Value) -> impl Iterator<Item = &Value> {
    match value {
        Value::Array(values) => values.iter(),
        other => std::slice::from_ref(other).iter(),
    }
}

fn name(value: &Value) -> Option<String> {
    match value {
        Value::String(name) => Some(name.clone()),
        Value::Bool(flag) => Some(usize::from(*flag).to_string()),
        Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
        _ => None,
    }
}

fn unfit(row: &Row, column: usize, value: &Value) -> DataError {
    row.error(format!("column {column} must hold a label, a string or a whole number, found {value}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TableSource;

    fn table(rows: &str) -> (tempfile::TempDir, Table) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(dir.path().join("a.jsonl"), rows).expect("written");
        let table = TableSource::new(["a.jsonl"], ["y"]).open(dir.path(), Some(dir.path())).expect("a table");
        (dir, table)
    }

    #[test]
    fn names_are_numbered_alphabetically_and_numbers_stay() {
        let (_dir, names) = table("{\"y\":\"spam\"}\n{\"y\":\"ham\"}\n{\"y\":\"spam\"}\n");
        let labels = Labels::of_column(&names, 0).expect("labels");
        assert_eq!(labels.names(), ["ham", "spam"]);
        assert_eq!(labels.id(&names.row(0).expect("a row"), 0).expect("known"), 1);
        let (_dir, numbers) = table("{\"y\":10}\n{\"y\":2}\n{\"y\":0}\n");
        let labels = Labels::of_column(&numbers, 0).expect("labels");
        assert_eq!((labels.len(), labels.id(&numbers.row(0).expect("a row"), 0).expect("known")), (11, 10));
        let (_dir, lists) = table("{\"y\":[\"O\",\"B\"]}\n{\"y\":[\"I\"]}\n");
        let labels = Labels::of_column(&lists, 0).expect("labels");
        assert_eq!(labels.ids(&lists.row(0).expect("a row"), 0).expect("known"), [2, 0]);
    }

    #[test]
    fn unknown_and_unfit_labels_are_errors() {
        let (_dir, table) = table("{\"y\":\"ham\"}\n{\"y\":null}\n");
        let error = Labels::of_column(&table, 0).expect_err("null").to_string();
        assert!(error.contains("line 2"), "{error}");
        let labels = Labels::new(["spam"]).expect("labels");
        let error = labels.id(&table.row(0).expect("a row"), 0).expect_err("unknown").to_string();
        assert!(error.contains("`ham`") && error.contains("spam"), "{error}");
        assert!(Labels::new(["a", "a"]).is_err() && Labels::new([""; 0]).is_err());
    }
}
