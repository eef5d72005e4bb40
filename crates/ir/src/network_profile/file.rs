//! Network profiles as files.

use super::{ComputeRates, NetworkProfile};
use crate::OtKind;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// Why a network profile could not be read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ProfileError {
    #[error(
        "cannot read {}: a network is {} or a TOML file",
        path.display(),
        NetworkProfile::NAMES.join(", ")
    )]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {fault}", path.display())]
    NotToml { path: PathBuf, fault: Box<toml::de::Error> },
    #[error("{}: {key} is missing: expected {expected}", path.display())]
    MissingKey { path: PathBuf, key: String, expected: &'static str },
    #[error("{}: unknown key {key}; there are {}", path.display(), known.join(", "))]
    UnknownKey { path: PathBuf, key: String, known: &'static [&'static str] },
    #[error("{}: {key}: expected {expected}, found {found}", path.display())]
    BadValue { path: PathBuf, key: String, expected: &'static str, found: String },
}

const KEYS: &[&str] = &["client_to_server", "server_to_client", "round_trip", "compute"];
const COMPUTE_KEYS: &[&str] =
    &["transfers", "vectors", "payload", "hint", "products", "multiplications", "messages"];
const KINDS: &[&str] = &["iknp", "softspoken2", "softspoken4", "softspoken8", "silent"];
const RATE: &str = "a number above 0";
const SECONDS: &str = "seconds, 0 to 60";
const BANDWIDTH: &str = "bits a second, 1e3 to 1e13";

impl NetworkProfile {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// [`ProfileError`] that names the file and the key.
    pub fn read(path: &Path) -> Result<Self, ProfileError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ProfileError::Io { path: path.into(), source })?;
        Self::from_toml(&text, path)
    }

    /// The profile that a file's text describes; `path` names it in errors.
    ///
    /// # Errors
    /// [`ProfileError`] that names the key.
    pub fn from_toml(text: &str, path: &Path) -> Result<Self, ProfileError> {
        let table: Table = text
            .parse()
            .map_err(|fault| ProfileError::NotToml { path: path.into(), fault: Box::new(fault) })?;
        let reader = Reader { path, prefix: "" };
        reader.expect_known(&table, KEYS)?;
        let bandwidth =
            |key| reader.required(&table, key, BANDWIDTH, |bits| (1e3..=1e13).contains(&bits));
        let name = path.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into());
        Ok(Self {
            name,
            client_to_server: bandwidth("client_to_server")?,
            server_to_client: bandwidth("server_to_client")?,
            round_trip: reader
                .required(&table, "round_trip", SECONDS, |s| (0.0..=60.0).contains(&s))?,
            compute: read_compute(&reader, &table)?,
        })
    }

    /// The file that [`Self::from_toml`] reads as this profile.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let ComputeRates { transfers, vectors, payload, hint, products, multiplications, messages } =
            &self.compute;
        let mut text = format!(
            "client_to_server = {:e}\nserver_to_client = {:e}\nround_trip = {:e}\n\n\
             [compute]\nvectors = {vectors:e}\npayload = {payload:e}\nhint = {hint:e}\nproducts = {products:e}\n\
             multiplications = {multiplications:e}\nmessages = {messages:e}\n\n\
             [compute.transfers]\n",
            self.client_to_server, self.server_to_client, self.round_trip,
        );
        for (kind, rate) in transfers {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{kind} = {rate:e}");
        }
        text
    }
}

fn read_compute(reader: &Reader<'_>, table: &Table) -> Result<ComputeRates, ProfileError> {
    let mut rates = ComputeRates::default();
    let Some(compute) = reader.table(table, "compute")? else { return Ok(rates) };
    let inner = Reader { prefix: "compute.", ..*reader };
    inner.expect_known(compute, COMPUTE_KEYS)?;
    if let Some(kinds) = inner.table(compute, "transfers")? {
        let reader = Reader { prefix: "compute.transfers.", ..*reader };
        reader.expect_known(kinds, KINDS)?;
        for kind in OtKind::ALL {
            if let Some(rate) = reader.optional(kinds, kind.name(), RATE, is_rate)? {
                rates.transfers.insert(kind.name().into(), rate);
            }
        }
    }
    for (key, rate) in [
        ("vectors", &mut rates.vectors),
        ("payload", &mut rates.payload),
        ("hint", &mut rates.hint),
        ("products", &mut rates.products),
        ("multiplications", &mut rates.multiplications),
        ("messages", &mut rates.messages),
    ] {
        *rate = inner.optional(compute, key, RATE, is_rate)?.unwrap_or(*rate);
    }
    Ok(rates)
}

fn is_rate(rate: f64) -> bool {
    rate > 0.0 && rate.is_finite()
}

/// Takes values out of a table of the file.
struct Reader<'a> {
    path: &'a Path,
    /// What stands before a key of this table in errors.
    prefix: &'static str,
}

impl Reader<'_> {
    fn expect_known(
        &self,
        table: &Table,
        known: &'static [&'static str],
    ) -> Result<(), ProfileError> {
        match table.keys().find(|key| !known.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => {
                Err(ProfileError::UnknownKey { path: self.path.into(), key: self.full(key), known })
            }
        }
    }

    fn required(
        &self,
        table: &Table,
        key: &str,
        expected: &'static str,
        is_valid: impl Fn(f64) -> bool,
    ) -> Result<f64, ProfileError> {
        let missing =
            || ProfileError::MissingKey { path: self.path.into(), key: self.full(key), expected };
        self.optional(table, key, expected, is_valid)?.ok_or_else(missing)
    }

    fn optional(
        &self,
        table: &Table,
        key: &str,
        expected: &'static str,
        is_valid: impl Fn(f64) -> bool,
    ) -> Result<Option<f64>, ProfileError> {
        let Some(value) = table.get(key) else { return Ok(None) };
        let number = match value {
            Value::Float(number) => Some(*number),
            Value::Integer(number) => Some(*number as f64),
            _ => None,
        };
        match number.filter(|&number| is_valid(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.bad(key, expected, value)),
        }
    }

    fn table<'t>(&self, table: &'t Table, key: &str) -> Result<Option<&'t Table>, ProfileError> {
        match table.get(key) {
            None => Ok(None),
            Some(Value::Table(inner)) => Ok(Some(inner)),
            Some(other) => Err(self.bad(key, "a table", other)),
        }
    }

    fn bad(&self, key: &str, expected: &'static str, found: &Value) -> ProfileError {
        let (path, key) = (self.path.into(), self.full(key));
        ProfileError::BadValue { path, key, expected, found: found.to_string() }
    }

    fn full(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Direction, OtKind};

    const OFFICE: &str =
        "client_to_server = 100e6\nserver_to_client = 1_000_000_000\nround_trip = 0.02\n";

    fn read(text: &str) -> Result<NetworkProfile, ProfileError> {
        NetworkProfile::from_toml(text, Path::new("networks/office.toml"))
    }

    #[test]
    fn a_file_needs_a_link_and_may_say_how_fast_the_parties_are() {
        let office = read(OFFICE).expect("complete");
        assert_eq!(office.name(), "office");
        assert_eq!(office.bandwidth(Direction::ServerToClient), 1e9);
        assert_eq!(office.delay(), 0.01);
        assert_eq!(*office.compute(), ComputeRates::default());
        let text = format!("{OFFICE}[compute]\npayload = 2e9\n[compute.transfers]\niknp = 6e7\n");
        let office = read(&text).expect("complete");
        let mut expected = ComputeRates { payload: 2e9, ..ComputeRates::default() };
        expected.transfers.insert("iknp".into(), 6e7);
        assert_eq!(*office.compute(), expected);
    }

    #[test]
    fn a_profile_is_what_its_file_says() {
        let text = format!("{OFFICE}[compute]\nvectors = 12345678.9\n");
        for profile in [read(&text).expect("complete"), NetworkProfile::mobile()] {
            let path = format!("{}.toml", profile.name());
            let found = NetworkProfile::from_toml(&profile.to_toml(), Path::new(&path));
            assert_eq!(found.expect("complete"), profile);
        }
    }

    #[test]
    fn kinds_are_those_of_plans() {
        assert_eq!(KINDS, OtKind::ALL.map(OtKind::name));
    }

    #[test]
    fn names_need_no_file() {
        for name in NetworkProfile::NAMES {
            assert_eq!(NetworkProfile::open(name).expect("known").name(), name);
        }
        let error = NetworkProfile::open("no/such.toml").expect_err("no such file");
        assert!(matches!(error, ProfileError::Io { .. }), "{error}");
        assert!(error.to_string().contains("lan, wan, mobile"), "{error}");
    }

    #[test]
    fn errors_name_the_key() {
        let cases = [
            ("round_trip = ", "NotToml", "networks/office.toml"),
            ("client_to_server = 1e6", "MissingKey", "server_to_client"),
            (&format!("{OFFICE}speed = 1\n"), "UnknownKey", "speed"),
            (&OFFICE.replace("100e6", "-1"), "BadValue", "client_to_server"),
            (&OFFICE.replace("100e6", "nan"), "BadValue", "client_to_server"),
            (&OFFICE.replace("0.02", "\"fast\""), "BadValue", "round_trip"),
            (&format!("{OFFICE}compute = 3\n"), "BadValue", "compute"),
            (&format!("{OFFICE}[compute]\npayloads = 3\n"), "UnknownKey", "compute.payloads"),
            (
                &format!("{OFFICE}[compute.transfers]\niknp = 0\n"),
                "BadValue",
                "compute.transfers.iknp",
            ),
            (&format!("{OFFICE}[compute.transfers]\nkk13 = 1\n"), "UnknownKey", "kk13"),
        ];
        for (text, variant, key) in cases {
            let error = read(text).expect_err(text);
            assert!(format!("{error:?}").starts_with(variant), "{error:?}");
            assert!(error.to_string().contains(key), "{error}");
        }
    }
}
