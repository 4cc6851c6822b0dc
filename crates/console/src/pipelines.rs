//! Pipelines: all of them, and one.

use std::fmt::Write as _;

use askama::Template;
use askama::filters::Safe;
use penstock_flow::read::pipelines::{PipelineView, StepView};

use crate::batches::{Line, LineCells};
use crate::layout::Page;
use crate::show::{bytes, escaped, in_groups, number};

/// All pipelines that the key may use.
#[derive(Template)]
#[template(path = "pipelines.html")]
pub struct Pipelines {
    /// Its frame.
    pub page: Page,
    /// The pipelines, by name.
    pub pipelines: Vec<PipelineView>,
}

impl Pipelines {
    fn required(&self, view: &PipelineView) -> usize {
        view.columns.iter().filter(|column| column.required).count()
    }
}

/// One pipeline.
#[derive(Template)]
#[template(path = "pipeline.html")]
pub struct PipelinePage<'a> {
    /// Its frame.
    pub page: Page,
    /// The pipeline.
    pub view: PipelineView,
    /// Its newest batches.
    pub lines: Vec<Line<'a>>,
}

impl PipelinePage<'_> {
    fn admin(&self) -> bool {
        self.page.viewer.as_ref().is_some_and(|viewer| viewer.admin)
    }

    fn picture(&self) -> Safe<String> {
        picture(&self.view.steps)
    }

    fn most_rows(&self) -> String {
        number(self.view.max_rows)
    }

    fn in_groups(&self, text: &str) -> String {
        in_groups(text)
    }

    fn grouped(&self, count: &u32) -> String {
        number(*count)
    }

    fn most_bytes(&self) -> String {
        bytes(self.view.max_bytes)
    }

    fn cells<'b>(&self, line: &'b Line<'b>) -> Result<Safe<String>, askama::Error> {
        LineCells { line, admin: self.admin(), now: self.page.now }.render().map(Safe)
    }
}

/// A box of the picture, in its own units.
const BOX: (usize, usize) = (150, 44);
/// From one box to the next.
const STRIDE: usize = 190;

/// The steps as boxes in a row, with arrows between them.
fn picture(steps: &[StepView]) -> Safe<String> {
    let names = ["file"].into_iter().chain(steps.iter().map(|step| step.name.as_str())).chain(["result"]);
    let count = steps.len() + 2;
    let width = (count - 1) * STRIDE + BOX.0 + 2;
    let mut svg = format!(
        r#"<svg class="steps" viewBox="0 0 {width} {}" width="{width}" role="img" aria-label="file, {} steps, result">"#,
        BOX.1 + 2,
        steps.len()
    );
    for (index, name) in names.enumerate() {
        let (left, middle) = (index * STRIDE + 1, BOX.1 / 2 + 1);
        let end = if index == 0 || index + 1 == count { " end" } else { "" };
        // Nothing fails when text is added to a text.
        let _ = write!(
            svg,
            r#"<rect class="box{end}" x="{left}" y="1" width="{}" height="{}" rx="8"/><text x="{}" y="{}">{}</text>"#,
            BOX.0,
            BOX.1,
            left + BOX.0 / 2,
            middle + 5,
            escaped(&shortened(name))
        );
        if index + 1 < count {
            let from = left + BOX.0 + 5;
            let to = left + STRIDE - 6;
            let _ = write!(svg, r#"<path class="arrow" d="M{from} {middle}H{to}m-6 -5l6 5l-6 5"/>"#);
        }
    }
    svg.push_str("</svg>");
    Safe(svg)
}

fn shortened(name: &str) -> String {
    const MOST: usize = 18;
    if name.chars().count() <= MOST {
        return name.to_owned();
    }
    name.chars().take(MOST - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_a_box_for_each_step_and_no_markup_of_others() {
        let step = |name: &str| StepView { name: name.into(), dependency: "d".into(), path: "/".into() };
        let Safe(svg) = picture(&[step("find"), step("<script>alert(1)</script>")]);
        assert_eq!(svg.matches("<rect").count(), 4);
        assert_eq!(svg.matches("class=\"arrow\"").count(), 3);
        assert!(!svg.contains("<script"), "{svg}");
        assert!(svg.contains("&lt;script&gt;"), "{svg}");
    }
}
