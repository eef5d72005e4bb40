//! `--set KEY=VALUE`: changes to a configuration before it is read.

/// Sets `a.b.c=value` in the document; tables on the way are made where they are missing.
pub(super) fn apply(table: &mut toml::Table, setting: &str) -> Result<(), String> {
    let (path, text) = setting.split_once('=').ok_or("expected KEY=VALUE")?;
    let mut keys: Vec<&str> = path.trim().split('.').collect();
    let last = keys.pop().unwrap_or_default();
    if last.is_empty() || keys.iter().any(|key| key.is_empty()) {
        return Err(format!("{path:?} is no key"));
    }
    let mut table = table;
    for key in keys {
        let entry = table.entry(key).or_insert_with(|| toml::Table::new().into());
        table = entry.as_table_mut().ok_or_else(|| format!("{key} is no table"))?;
    }
    table.insert(last.into(), parse_value(text.trim()));
    Ok(())
}

/// A TOML value, or else the text itself.
fn parse_value(text: &str) -> toml::Value {
    let parsed = format!("value = {text}").parse::<toml::Table>();
    let value = parsed.ok().and_then(|mut table| table.remove("value"));
    value.unwrap_or_else(|| text.into())
}
