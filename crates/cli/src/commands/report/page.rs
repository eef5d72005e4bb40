//! The page: one file with its data, its style and its scripts.

use super::content::Content;
use anyhow::Result;

const PAGE: &str = include_str!("../../../assets/report/page.html");
const STYLE: &str = include_str!("../../../assets/report/style.css");
const SCRIPT: &str = include_str!("../../../assets/report/report.js");
/// Chart.js 4 (MIT); its licence lies beside it and in the page.
const CHARTS: &str = include_str!("../../../assets/report/chart.umd.min.js");

/// The page of `content`. The same content gives the same bytes.
///
/// # Errors
/// Where the content cannot be written as JSON.
pub fn render(content: &Content) -> Result<String> {
    // A name in the data must not end the element that holds it.
    let data = serde_json::to_string(content)?.replace('<', "\\u003c");
    let parts = [
        ("{{style}}", STYLE),
        ("{{charts}}", CHARTS),
        ("{{script}}", SCRIPT),
        // Last: what is in it is not looked at again.
        ("{{data}}", &data),
    ];
    let page = PAGE.replace("{{version}}", env!("CARGO_PKG_VERSION"));
    Ok(parts.into_iter().fold(page, |page, (mark, text)| page.replacen(mark, text, 1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::report::content::Training;

    #[test]
    fn names_cannot_break_out_of_the_data() {
        let name = "</script><script>alert(1)</script>{{data}}".to_owned();
        let content =
            Content { trainings: vec![Training { name, epochs: vec![] }], ..Default::default() };
        let page = render(&content).expect("renders");
        assert!(!page.contains("<script>alert"));
        assert_eq!(page.matches("</script>").count(), PAGE.matches("</script>").count());
        for mark in ["{{version}}", "{{style}}", "{{charts}}", "{{script}}"] {
            assert!(!page.contains(mark), "{mark} is left");
        }
        assert!(!page.contains("http://") && !page.contains("src=\"http"), "loads something");
    }
}
