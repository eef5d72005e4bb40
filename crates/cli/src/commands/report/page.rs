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
    use copriv_trainer::train::Method;
    use proptest::prelude::*;

    fn page_of(name: String) -> String {
        let trainings = vec![Training { name, epochs: vec![], search: None }];
        render(&Content { trainings, ..Default::default() }).expect("renders")
    }

    #[test]
    fn a_page_is_whole_and_loads_nothing() {
        let page = page_of("run".into());
        for mark in ["{{version}}", "{{style}}", "{{charts}}", "{{script}}", "{{data}}"] {
            assert!(!page.contains(mark), "{mark} is left");
        }
        for loader in ["src=\"", "@import", "url(", "<link"] {
            assert!(!page.replace(CHARTS, "").contains(loader), "{loader} loads something");
        }
    }

    #[test]
    fn every_method_has_a_colour_of_its_own() {
        let (_, colours) = SCRIPT.split_once("const METHOD_COLORS = {").expect("a table");
        let (colours, _) = colours.split_once("};").expect("ends");
        let pairs = colours.split(',').filter_map(|pair| pair.split_once(':'));
        let pairs: Vec<_> = pairs.map(|(name, colour)| (name.trim(), colour.trim())).collect();
        let mut used = vec![];
        for name in Method::ALL.map(Method::name).into_iter().chain(["unpruned"]) {
            let colour =
                pairs.iter().find(|pair| pair.0 == name).unwrap_or_else(|| panic!("{name}")).1;
            let colour = colour.trim_matches('"');
            // For light pages and for dark ones.
            assert_eq!(STYLE.matches(&format!("{colour}: #")).count(), 2, "{colour}");
            assert!(!used.contains(&colour), "{colour}");
            used.push(colour);
        }
    }

    proptest! {
        #[test]
        fn names_come_back_and_cannot_break_out(name in "(</?script>|<!--|\\{\\{data\\}\\}|[\\PC]){0,6}") {
            let page = page_of(name.clone());
            prop_assert_eq!(page.matches("</script>").count(), PAGE.matches("</script>").count());
            let start = page.find("application/json\">").expect("has data") + 18;
            let data = page[start..].split("</script>").next().expect("ends");
            let data: serde_json::Value = serde_json::from_str(data).expect("is JSON");
            prop_assert_eq!(&data["trainings"][0]["name"], &serde_json::json!(name));
        }
    }
}
