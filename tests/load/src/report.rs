//! Figures as a Markdown table.

/// Rows of figure, value, goal.
#[derive(Default)]
pub(crate) struct Report(Vec<[String; 3]>);

impl Report {
    pub(crate) fn row(
        &mut self,
        figure: impl Into<String>,
        value: impl Into<String>,
        goal: impl Into<String>,
    ) {
        let row = [figure.into(), value.into(), goal.into()];
        eprintln!("==> {}: {}", row[0], row[1]);
        self.0.push(row);
    }

    pub(crate) fn print(&self) {
        println!("| figure | value | goal |\n|---|---|---|");
        for [figure, value, goal] in &self.0 {
            println!("| {figure} | {value} | {goal} |");
        }
    }
}
