//! Tables in the form that the guide shows: centred headings, numbers to the right, and a footer whose empty cells are one.
//!
//! It counts characters, not columns of a terminal: a table with names in wide scripts is ragged, and right all the same.

use std::iter;

use super::text;

/// Rows under headings. Every row has as many cells as there are headings, and so has the footer.
#[derive(Clone, Debug, Default)]
pub struct Table {
    pub headings: Vec<&'static str>,
    pub rows: Vec<Vec<String>>,
    /// The first column is at least so wide.
    pub first_width_min: usize,
    pub footer: Option<Vec<String>>,
}

impl Table {
    pub fn new<const N: usize>(headings: [&'static str; N], rows: impl IntoIterator<Item = [String; N]>) -> Table {
        let rows = rows.into_iter().map(|row| row.iter().map(|cell| text::line(cell)).collect()).collect();
        Table { headings: headings.to_vec(), rows, first_width_min: 0, footer: None }
    }

    /// Ends with a line end.
    pub fn render(&self) -> String {
        let widths = self.widths();
        let rule = widths.iter().map(|w| format!("+{}", "-".repeat(w + 2))).chain(iter::once("+\n".to_owned())).collect::<String>();
        let heading = line(self.headings.iter().zip(&widths).map(|(cell, w)| centred(cell, *w)));
        let rows = self.rows.iter().map(|row| line(row.iter().zip(&widths).map(|(cell, w)| aligned(cell, *w)))).collect::<String>();
        let body = if rows.is_empty() { String::new() } else { format!("{rows}{rule}") };
        let footer = self.footer.as_ref().map(|cells| format!("{}{rule}", footer(cells, &widths))).unwrap_or_default();
        format!("{rule}{heading}{rule}{body}{footer}")
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.headings.iter().map(|cell| length(cell)).collect();
        for row in self.rows.iter().chain(&self.footer) {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(length(cell));
            }
        }
        if let Some(first) = widths.first_mut() {
            *first = (*first).max(self.first_width_min);
        }
        widths
    }
}

fn line(cells: impl Iterator<Item = String>) -> String {
    let cells: Vec<String> = cells.collect();
    format!("| {} |\n", cells.join(" | "))
}

/// The bars between empty cells, and before the first that is not, are left out.
fn footer(cells: &[String], widths: &[usize]) -> String {
    let mut out = String::from("|");
    for (at, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let bar = if at == 0 {
            ""
        } else if cells[at - 1].is_empty() {
            " "
        } else {
            "|"
        };
        out += &format!("{bar} {cell:>width$} ");
    }
    out + "|\n"
}

fn aligned(cell: &str, width: usize) -> String {
    let numeric = !cell.is_empty() && cell.bytes().all(|b| b.is_ascii_digit());
    if numeric { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
}

fn centred(cell: &str, width: usize) -> String {
    let left = width.saturating_sub(length(cell)) / 2;
    format!("{:left$}{cell:<rest$}", "", rest = width - left)
}

fn length(cell: &str) -> usize {
    cell.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_without_rows_is_its_headings() {
        assert_eq!(Table::new(["A", "BC"], []).render(), "+---+----+\n| A | BC |\n+---+----+\n");
    }

    #[test]
    fn a_cell_cannot_break_its_row() {
        let table = Table::new(["A"], [["x\ny\x07".to_owned()]]);
        assert_eq!(table.render().lines().nth(3), Some("| x y\\x07 |"));
    }
}
