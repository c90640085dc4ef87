//! Tables in the form that the guide shows: centred headings, numbers to the right, and a footer
//! whose empty cells are one. The crate tabled draws them.
//!
//! Columns are as wide as a terminal shows them, also in scripts whose characters are two columns
//! wide or none. On a terminal a table is no wider than that: free text is wrapped between words,
//! and where that is not enough, each row stands as a block of lines, a cell a line. Only a word
//! that is too wide for a block goes on below, such as a path; an id never is, and can be copied.

use tabled::{
    builder::Builder,
    grid::util::string::get_string_width,
    settings::{
        Alignment, Modify, Style, Theme,
        object::{Cell, Columns, Rows},
        style::{Border, HorizontalLine},
    },
};

use super::text;

/// A heading, and how the cells below it stand.
#[derive(Clone, Copy, Debug)]
pub enum Column {
    /// To the left, on one line.
    Text(&'static str),
    /// To the right, on one line.
    Number(&'static str),
    /// To the left; its words may go on below. One column of a table at the most.
    Prose(&'static str),
}

pub use Column::{Number, Prose, Text};

/// Rows under headings. Every row has as many cells as there are headings, and so has the footer.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<Column>,
    rows: Vec<Vec<String>>,
    /// Blank cells are one with the cell that follows, and as wide as they are.
    footer: Option<Vec<String>>,
}

impl Column {
    fn heading(self) -> &'static str {
        let (Text(heading) | Number(heading) | Prose(heading)) = self;
        heading
    }

    /// A cell of it on lines that are no wider than that.
    fn wrapped(self, cell: &str, width: usize) -> String {
        if !matches!(self, Prose(_)) || get_string_width(cell) <= width {
            return cell.to_owned();
        }
        let mut lines: Vec<String> = Vec::new();
        for word in cell.split_whitespace().flat_map(|word| pieces(word, width.max(ID_WIDTH))) {
            match lines.last_mut() {
                Some(line) if get_string_width(line) + 1 + get_string_width(&word) <= width => {
                    *line += &format!(" {word}");
                }
                _ => lines.push(word),
            }
        }
        lines.join("\n")
    }
}

impl Table {
    pub fn new<const N: usize>(
        columns: [Column; N],
        rows: impl IntoIterator<Item = [String; N]>,
    ) -> Table {
        let rows =
            rows.into_iter().map(|row| row.iter().map(|cell| text::line(cell)).collect()).collect();
        Table { columns: columns.to_vec(), rows, footer: None }
    }

    pub fn with_footer<const N: usize>(self, cells: [String; N]) -> Table {
        Table { footer: Some(cells.into()), ..self }
    }

    /// Ends with a line end. `columns` is how wide it may be, where there is a bound.
    pub fn render(&self, columns: Option<usize>) -> String {
        let mut table = self.grid(usize::MAX);
        if let Some(columns) = columns
            && table.total_width() > columns
            && !self.rows.is_empty()
        {
            table = match self.prose_within(table.total_width() - columns) {
                Some(width) => self.grid(width),
                None => self.blocks(columns),
            };
        }
        format!("{table}\n")
    }

    /// A row a line, but for prose, which is wrapped at a width.
    fn grid(&self, prose: usize) -> tabled::Table {
        let mut all = Builder::default();
        all.push_record(self.columns.iter().map(|column| column.heading()));
        for row in self.rows.iter().chain(&self.footer) {
            all.push_record(
                self.columns.iter().zip(row).map(|(column, cell)| column.wrapped(cell, prose)),
            );
        }
        let mut table = all.build();
        let end = 1 + self.rows.len();
        table.with(ruled([1].into_iter().chain(self.footer.is_some().then_some(end))));
        for (at, column) in self.columns.iter().enumerate() {
            if matches!(column, Number(_)) {
                table.with(Modify::new(Columns::one(at)).with(Alignment::right()));
            }
        }
        table.with(Modify::new(Rows::first()).with(Alignment::center()));
        if let Some(cells) = &self.footer {
            table.with(Modify::new(Rows::one(end)).with(Alignment::right()));
            for at in (0..cells.len()).filter(|at| cells[*at].trim().is_empty()) {
                table.with(Modify::new(Cell::new(end, at)).with(Border::new().right(' ')));
            }
        }
        table
    }

    /// How wide prose is in a grid that is so much narrower; none where that would break words.
    fn prose_within(&self, excess: usize) -> Option<usize> {
        let at = self.columns.iter().position(|column| matches!(column, Prose(_)))?;
        let cells = || self.rows.iter().map(|row| row[at].as_str());
        let heading = get_string_width(self.columns[at].heading());
        let width = cells().map(get_string_width).max()?.max(heading);
        let least = cells().map(longest_word).max()?.max(heading);
        width.checked_sub(excess).filter(|left| *left >= least)
    }

    /// A cell a line, and a rule between rows.
    fn blocks(&self, columns: usize) -> tabled::Table {
        let headings = self.columns.iter().map(|column| get_string_width(column.heading()));
        let left = columns.saturating_sub(headings.max().unwrap_or(0) + BARS_OF_BLOCKS);
        let mut all = Builder::default();
        for row in &self.rows {
            for (column, cell) in self.columns.iter().zip(row) {
                all.push_record([column.heading(), &column.wrapped(cell, left)]);
            }
        }
        let mut table = all.build();
        table.with(ruled((1..self.rows.len()).map(|row| row * self.columns.len())));
        table
    }
}

/// A uuid's. Nothing is broken into less.
const ID_WIDTH: usize = "19a7e40e-adcc-4cc2-87a7-ae599272b050".len();

/// Bars and blanks around the two cells of a line.
const BARS_OF_BLOCKS: usize = "|  |  |".len();

/// Bars around, rules above these rows.
fn ruled(above: impl Iterator<Item = usize>) -> Theme {
    let mut theme = Theme::from_style(Style::ascii().remove_horizontal());
    for row in above {
        theme.insert_horizontal_line(row, HorizontalLine::full('-', '+', '+', '+'));
    }
    theme
}

/// A word that is too wide in several, behind a slash where it has one.
fn pieces(word: &str, width: usize) -> Vec<String> {
    let mut pieces = vec![String::new()];
    for c in word.chars() {
        let last = pieces.len() - 1;
        let piece = &mut pieces[last];
        let before = piece.len();
        piece.push(c);
        if before > 0 && get_string_width(piece) > width {
            let cut = piece[..before].rfind('/').map_or(before, |slash| slash + 1);
            let rest = piece.split_off(cut);
            pieces.push(rest);
        }
    }
    pieces
}

fn longest_word(cell: &str) -> usize {
    cell.split_whitespace().map(get_string_width).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells<const N: usize>(cells: [&str; N]) -> [String; N] {
        cells.map(str::to_owned)
    }

    /// Names in scripts that terminals show one, two and no columns wide a character.
    fn scripts() -> Table {
        let rows = [
            cells(["1", "Zürich", "plain"]),
            cells(["20", "Zu\u{308}rich", "a combining mark is no column"]),
            cells(["300", "東京支店", "two columns a character"]),
            cells(["4000", "ｶﾀｶﾅ", "half the width"]),
            cells(["5", "서울", "조선말 낱말 사이에서 나뉜다"]),
            cells(["6", "🏪🚚", "emoji 🏪 among words 🚚"]),
            cells(["7", "👩‍👩‍👧", "several characters, one picture"]),
            cells(["8", "שלום", "right to left"]),
            cells(["9", "", ""]),
        ];
        Table::new([Number("N"), Text("店名"), Prose("WHAT IT IS")], rows)
    }

    fn parts() -> Table {
        let away = "node 4678103818387409268 was away when the cut was made, and has no part";
        Table::new(
            [Number("NODE ID"), Text("STATUS"), Prose("REASON")],
            [
                cells(["4678103818387409268", "missing", away]),
                cells(["16681865894510149803", "completed", ""]),
            ],
        )
    }

    fn damaged() -> Table {
        let path = "/srv/snapshots/node-4678103818387409268/chunks/02/020908b7942b6204c7964a4664e1";
        let reason = format!("chunk {path} is missing; so are 5 more");
        let row = ["19a7e40e-adcc-4cc2-87a7-ae599272b050".into(), "damaged".into(), reason];
        Table::new([Text("UUID"), Text("STATUS"), Prose("REASON")], [row])
    }

    #[test]
    fn tables_stand_straight_in_every_script_and_at_every_width() {
        let mut story = String::new();
        for (name, table) in [("scripts", scripts()), ("parts", parts()), ("damaged", damaged())] {
            for columns in [None, Some(80), Some(48), Some(40)] {
                let bound = columns.map_or("any".to_owned(), |columns| columns.to_string());
                story += &format!("# {name}, {bound} columns\n{}", table.render(columns));
            }
        }
        crate::ctl::golden::check("table.txt", &story);
    }

    #[test]
    fn every_line_is_as_wide_as_the_first_and_no_wider_than_the_terminal() {
        for table in [scripts(), parts(), damaged()] {
            for columns in (52..200).map(Some).chain([None]) {
                let drawn = table.render(columns);
                let widths: Vec<usize> = drawn.lines().map(get_string_width).collect();
                assert!(widths.iter().all(|width| *width == widths[0]), "{drawn}");
                assert!(columns.is_none_or(|columns| widths[0] <= columns), "{columns:?}\n{drawn}");
            }
        }
    }

    #[test]
    fn no_id_is_broken() {
        for columns in 1..200 {
            let drawn = damaged().render(Some(columns));
            assert!(drawn.contains("19a7e40e-adcc-4cc2-87a7-ae599272b050"), "{drawn}");
            let drawn = parts().render(Some(columns));
            assert_eq!(drawn.matches("4678103818387409268").count(), 2, "{drawn}");
            assert_eq!(drawn.matches("16681865894510149803").count(), 1, "{drawn}");
        }
    }

    #[test]
    fn a_table_without_rows_is_its_headings() {
        let drawn = Table::new([Text("A"), Prose("BC")], []).render(Some(3));
        assert_eq!(drawn, "+---+----+\n| A | BC |\n+---+----+\n");
    }

    #[test]
    fn a_cell_cannot_break_its_row() {
        let table = Table::new([Text("A")], [["x\ny\x07".to_owned()]]);
        assert_eq!(table.render(None).lines().nth(3), Some("| x y\\x07 |"));
    }
}
