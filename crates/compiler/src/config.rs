//! The settings of a compilation: a preset, then `KEY=VALUE` on top.

use crate::CompileError;
use copriv_ir::{FusedModel, NetworkProfile, OtKind, Party, Ring, Widths};
use serde::Serialize;
use std::fmt;
use std::str::FromStr;

/// A named set of settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// CrypTFlow2 (CCS 2020): direct convolutions, the server always the OT sender.
    CrypTFlow2,
    /// CoPriv (NeurIPS 2023): Winograd with tile aggregation and adaptive choosers.
    CoPriv,
    /// Everything, chosen by cost: mixed precision, every lowering, every kind of transfer and correlation.
    Fast,
}

impl Preset {
    /// All presets.
    pub const ALL: [Self; 3] = [Self::CrypTFlow2, Self::CoPriv, Self::Fast];
    /// Those of the papers, with one ring for all values.
    pub const PUBLISHED: [Self; 2] = [Self::CrypTFlow2, Self::CoPriv];

    /// The name on the command line and in plans.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::CrypTFlow2 => "cryptflow2",
            Self::CoPriv => "copriv",
            Self::Fast => "fast",
        }
    }
}

impl FromStr for Preset {
    type Err = ConfigError;

    fn from_str(name: &str) -> Result<Self, ConfigError> {
        parse("preset", name, &Self::ALL.map(|preset| (preset.name(), preset)), &[])
    }
}

/// How wide the rings are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// One ring and one scale for all values.
    Uniform,
    /// Each value has the bits that it needs.
    Mixed,
}

/// Which lowerings a convolution may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LoweringRule {
    /// The cheapest.
    Auto,
    /// The cheapest of CoPriv's: direct, and for dense convolutions Winograd with 2x2 outputs a tile.
    CoPriv,
    /// Direct alone.
    Direct,
    /// Winograd wherever it fits.
    Winograd,
}

/// Whose bits may be OT choices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChooserRule {
    /// The cheaper party's.
    Auto,
    /// Always this party's.
    #[serde(untagged)]
    Always(Party),
}

/// What makes a plan cheap. The offline part of a session's first inference counts with its setup, and a hint's
/// download, shared among the inferences that are expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Objective {
    /// Bytes of both phases together.
    Bytes,
    /// Predicted seconds of both phases together on the network.
    Total,
    /// Predicted online seconds, or online bytes where no network is given; then what is offline.
    Online,
}

/// A setting that may be left to the objective.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Rule<T> {
    /// Whatever is cheapest.
    Auto,
    /// This alone.
    #[serde(untagged)]
    Only(T),
}

impl<T: Copy + PartialEq> Rule<T> {
    /// Those of `all` that may be taken.
    pub(crate) fn allowed(self, all: &[T]) -> impl Iterator<Item = T> {
        all.iter().copied().filter(move |one| match self {
            Self::Auto => true,
            Self::Only(only) => *one == only,
        })
    }

    /// What may be taken; `default` where anything may.
    pub(crate) fn or(self, default: T) -> T {
        match self {
            Self::Auto => default,
            Self::Only(only) => only,
        }
    }
}

/// How linear steps get their correlations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CorrelationRule {
    /// The kind that is cheaper, step by step.
    Auto,
    /// Oblivious transfer.
    Ot,
    /// Lattices: see [`LatticeRule`].
    Lattice,
}

/// Which lattice correlations there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LatticeRule {
    /// The cheaper of both, step by step.
    Auto,
    /// Those with a hint that every client downloads once.
    Hint,
    /// Those with a reply, for clients that run once.
    Reply,
}

/// What the client learns of its image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Output {
    /// All logits.
    Logits,
    /// The class with the greatest logit, and nothing else.
    ArgMax,
}

/// The complete settings.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CompileConfig {
    /// The preset that was started from.
    pub preset: Preset,
    /// One ring for all values, or each its own.
    pub precision: Precision,
    /// The ring of every value, where precision is uniform.
    pub ring: Ring,
    /// Fractional bits of activations, where precision is uniform.
    pub scale: u32,
    /// Fractional bits of weights, where precision is uniform.
    pub weight_scale: u32,
    /// Bits of values and weights, where precision is mixed; those of single layers are chosen where there is a budget.
    #[serde(flatten)]
    pub widths: Widths,
    /// The OT extensions behind linear correlations and comparisons: one kind for each of the two.
    pub ot: Rule<OtKind>,
    /// Bits of a comparison's digit, step by step.
    pub leaf_bits: Rule<u32>,
    /// Whether digits are looked up in one-time truth tables, step by step.
    pub tables: Rule<bool>,
    /// Every value must hold this many times the largest one that calibration saw.
    pub head_room: u32,
    /// Lowerings to weigh.
    pub lowering: LoweringRule,
    /// Choosers to weigh.
    pub chooser: ChooserRule,
    /// Kinds of correlation to weigh.
    pub correlation: CorrelationRule,
    /// Kinds of lattice correlation to weigh.
    pub lattice: LatticeRule,
    /// Inferences that a client is expected to run: it downloads a hint once for all of them.
    pub inferences: u64,
    /// What to make small.
    pub objective: Objective,
    /// Points of accuracy that may be lost against floating point: see [`crate::Allocation`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_drop: Option<f64>,
    /// Bytes that an inference may take, its part of the session's setup and of the hint included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// What the client learns.
    pub output: Output,
    /// The network whose latency the objective means.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkProfile>,
}

impl CompileConfig {
    /// What can be [`set`](Self::set).
    pub const KEYS: [&str; 19] = [
        "precision",
        "ring",
        "scale",
        "weight_scale",
        "activation_bits",
        "weight_bits",
        "ot",
        "leaf_bits",
        "tables",
        "head_room",
        "lowering",
        "chooser",
        "correlation",
        "lattice",
        "inferences",
        "objective",
        "max_drop",
        "max_bytes",
        "output",
    ];

    /// The settings of a preset: 41 bits, 12 of them fractional, digits of 4 bits, room for four times
    /// the calibrated range. What `fast` can choose by cost it does.
    #[must_use]
    pub fn new(preset: Preset) -> Self {
        let (lowering, chooser) = match preset {
            Preset::CrypTFlow2 => (LoweringRule::Direct, ChooserRule::Always(Party::Client)),
            Preset::CoPriv => (LoweringRule::CoPriv, ChooserRule::Auto),
            Preset::Fast => (LoweringRule::Auto, ChooserRule::Auto),
        };
        let is_fast = preset == Preset::Fast;
        let precision = if is_fast { Precision::Mixed } else { Precision::Uniform };
        Self {
            preset,
            precision,
            widths: Widths::uniform(8, 8),
            ot: if is_fast { Rule::Auto } else { Rule::Only(OtKind::Iknp) },
            ring: Ring::new(41).expect("between 1 and 64"),
            scale: 12,
            weight_scale: 12,
            leaf_bits: if is_fast { Rule::Auto } else { Rule::Only(4) },
            tables: if is_fast { Rule::Auto } else { Rule::Only(false) },
            head_room: 4,
            lowering,
            chooser,
            correlation: if is_fast { CorrelationRule::Auto } else { CorrelationRule::Ot },
            lattice: LatticeRule::Auto,
            inferences: 1,
            objective: Objective::Bytes,
            max_drop: None,
            max_bytes: None,
            output: Output::Logits,
            network: None,
        }
    }

    /// Compiles for a network: from here on the objective is the predicted latency of both phases, until another one is
    /// [`set`](Self::set).
    pub fn set_network(&mut self, network: NetworkProfile) {
        (self.network, self.objective) = (Some(network), Objective::Total);
    }

    /// Whether the settings can go together.
    ///
    /// # Errors
    /// [`CompileError::NoNetwork`] where the objective is a latency that nothing is known of.
    pub(crate) fn check(&self) -> Result<(), CompileError> {
        match (self.objective, &self.network) {
            (Objective::Total, None) => Err(CompileError::NoNetwork),
            _ => Ok(()),
        }
    }

    /// Whether single layers of `model` can have the bits that they are given.
    ///
    /// # Errors
    /// [`CompileError::Widths`] where they cannot, or are another model's.
    pub(crate) fn check_widths(&self, model: &FusedModel) -> Result<(), CompileError> {
        if self.widths.layers.is_none() {
            return Ok(());
        }
        let refuse = |fault: String, remedy: &str| {
            Err(CompileError::Widths { fault, remedy: remedy.into() })
        };
        if self.precision != Precision::Mixed {
            let fault = "only layers of mixed precision have bits of their own".into();
            return refuse(fault, "set precision=mixed, as the preset fast does");
        }
        if self.max_drop.is_some() || self.max_bytes.is_some() {
            let fault = "max_drop and max_bytes would choose bits that are given already".into();
            return refuse(fault, "leave out one or the other");
        }
        let is_layer = |name: &str| model.layers().iter().any(|layer| layer.name == name);
        match self.widths.foreign_layer(is_layer) {
            Some(foreign) => {
                let fault = format!("the model has no layer {foreign}, which is given bits");
                refuse(fault, "take them from a plan of a network with the same gates, fused alike")
            }
            None => Ok(()),
        }
    }

    /// Changes one setting, from a command line's `KEY=VALUE`.
    ///
    /// # Errors
    /// [`ConfigError`] lists the keys, or the values that the key takes.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), ConfigError> {
        match key {
            "precision" => {
                let known = [("uniform", Precision::Uniform), ("mixed", Precision::Mixed)];
                self.precision = parse(key, value, &known, &[])?;
            }
            "activation_bits" => self.widths.activation_bits = number(key, value, Widths::RANGE)?,
            "weight_bits" => self.widths.weight_bits = number(key, value, Widths::RANGE)?,
            "ring" => {
                let bits = number(key, value, 8..=64)?;
                self.ring = Ring::new(bits).expect("between 8 and 64");
            }
            "scale" => self.scale = number(key, value, 1..=30)?,
            "weight_scale" => self.weight_scale = number(key, value, 1..=30)?,
            "ot" => {
                let kinds = OtKind::ALL.map(|kind| (kind.name(), kind));
                self.ot = rule(value, |value| parse(key, value, &kinds, &["auto"]))?;
            }
            "leaf_bits" => self.leaf_bits = rule(value, |value| number(key, value, 1..=4))?,
            "tables" => {
                let known = [("true", true), ("false", false)];
                self.tables = rule(value, |value| parse(key, value, &known, &["auto"]))?;
            }
            "head_room" => self.head_room = number(key, value, 1..=1 << 20)?,
            "lowering" => {
                use LoweringRule::{Auto, CoPriv, Direct, Winograd};
                let known = [
                    ("auto", Auto),
                    ("copriv", CoPriv),
                    ("direct", Direct),
                    ("winograd", Winograd),
                ];
                self.lowering = parse(key, value, &known, &[])?;
            }
            "chooser" => {
                use ChooserRule::{Always, Auto};
                let (server, client) = (Always(Party::Server), Always(Party::Client));
                let known = [("auto", Auto), ("server", server), ("client", client)];
                self.chooser = parse(key, value, &known, &[])?;
            }
            "correlation" => {
                use CorrelationRule::{Auto, Lattice, Ot};
                let known = [("auto", Auto), ("ot", Ot), ("lattice", Lattice)];
                self.correlation = parse(key, value, &known, &[])?;
            }
            "lattice" => {
                use LatticeRule::{Auto, Hint, Reply};
                let known = [("auto", Auto), ("hint", Hint), ("reply", Reply)];
                self.lattice = parse(key, value, &known, &[])?;
            }
            "inferences" => self.inferences = number(key, value, 1..=1 << 30)?.into(),
            "objective" => {
                use Objective::{Bytes, Online, Total};
                let known = [("bytes", Bytes), ("total", Total), ("online", Online)];
                self.objective = parse(key, value, &known, &[])?;
            }
            "max_drop" => self.max_drop = Some(points(key, value)?),
            "max_bytes" => self.max_bytes = Some(bytes(key, value)?),
            "output" => {
                let known = [("logits", Output::Logits), ("argmax", Output::ArgMax)];
                self.output = parse(key, value, &known, &[])?;
            }
            _ => return Err(ConfigError::UnknownKey { found: key.into() }),
        }
        Ok(())
    }
}

impl fmt::Display for CompileConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ring, scale, weight_scale, .. } = self;
        let Widths { weight_bits, activation_bits, layers } = &self.widths;
        let preset = self.preset.name();
        match self.precision {
            Precision::Uniform => {
                write!(f, "{preset}, {ring}, scale {scale}, weights {weight_scale}")
            }
            Precision::Mixed if layers.is_some() => {
                write!(f, "{preset}, mixed rings, bits by layer")
            }
            Precision::Mixed => write!(
                f,
                "{preset}, mixed rings, {activation_bits} bits an activation, {weight_bits} a weight"
            ),
        }
    }
}

/// A setting that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum ConfigError {
    #[error(
        "there is no setting {found:?}; there are {}",
        CompileConfig::KEYS.join(", ")
    )]
    UnknownKey { found: String },
    #[error("{key} cannot be {found:?}; it can be {expected}")]
    UnknownValue { key: String, expected: String, found: String },
}

fn number(
    key: &str,
    value: &str,
    range: std::ops::RangeInclusive<u32>,
) -> Result<u32, ConfigError> {
    value.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        ConfigError::UnknownValue { key: key.into(), expected, found: value.into() }
    })
}

/// Points of accuracy.
fn points(key: &str, value: &str) -> Result<f64, ConfigError> {
    value.parse().ok().filter(|points| (0.0..=100.0).contains(points)).ok_or_else(|| {
        let expected = "a number of points from 0 to 100".into();
        ConfigError::UnknownValue { key: key.into(), expected, found: value.into() }
    })
}

/// A number of bytes, perhaps with a decimal prefix: `500MB`.
fn bytes(key: &str, value: &str) -> Result<u64, ConfigError> {
    let units = [("kB", 1e3), ("MB", 1e6), ("GB", 1e9), ("B", 1.0)];
    let split = units.iter().find_map(|(unit, size)| Some((value.strip_suffix(unit)?, *size)));
    let (digits, size) = split.unwrap_or((value, 1.0));
    let bytes = digits.trim().parse::<f64>().ok().map(|number| number * size);
    bytes.filter(|bytes| (1.0..=1e15).contains(bytes)).map(|bytes| bytes as u64).ok_or_else(|| {
        let expected = "a number of bytes, such as 750000000 or 750MB".into();
        ConfigError::UnknownValue { key: key.into(), expected, found: value.into() }
    })
}

/// `auto`, or what `parse` makes of the value.
fn rule<T>(
    value: &str,
    parse: impl FnOnce(&str) -> Result<T, ConfigError>,
) -> Result<Rule<T>, ConfigError> {
    if value == "auto" { Ok(Rule::Auto) } else { parse(value).map(Rule::Only) }
}

/// The known value of this name; `others` are names that the caller knows.
fn parse<T: Copy>(
    key: &str,
    value: &str,
    known: &[(&str, T)],
    others: &[&str],
) -> Result<T, ConfigError> {
    if let Some(&(_, known)) = known.iter().find(|(name, _)| *name == value) {
        return Ok(known);
    }
    let names = others.iter().copied().chain(known.iter().map(|(name, _)| *name));
    let expected = names.collect::<Vec<_>>().join(", ");
    Err(ConfigError::UnknownValue { key: key.to_owned(), expected, found: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_have_names() {
        for preset in Preset::ALL {
            assert_eq!(preset.name().parse(), Ok(preset));
        }
        assert!(matches!("slow".parse::<Preset>(), Err(ConfigError::UnknownValue { .. })));
    }

    #[test]
    fn settings_change_one_thing() {
        let mut config = CompileConfig::new(Preset::CoPriv);
        for (key, value) in [
            ("precision", "mixed"),
            ("activation_bits", "7"),
            ("weight_bits", "6"),
            ("ring", "37"),
            ("scale", "10"),
            ("weight_scale", "11"),
            ("ot", "softspoken4"),
            ("leaf_bits", "3"),
            ("tables", "true"),
            ("head_room", "2"),
            ("lowering", "direct"),
            ("chooser", "client"),
            ("correlation", "lattice"),
            ("lattice", "reply"),
            ("inferences", "100"),
            ("objective", "online"),
            ("max_drop", "0.5"),
            ("max_bytes", "1.5MB"),
            ("output", "argmax"),
        ] {
            assert!(CompileConfig::KEYS.contains(&key));
            config.set(key, value).expect("a known setting");
        }
        let expected = CompileConfig {
            preset: Preset::CoPriv,
            precision: Precision::Mixed,
            widths: Widths::uniform(6, 7),
            ring: Ring::new(37).expect("in range"),
            scale: 10,
            weight_scale: 11,
            ot: Rule::Only(OtKind::SoftSpoken4),
            leaf_bits: Rule::Only(3),
            tables: Rule::Only(true),
            head_room: 2,
            lowering: LoweringRule::Direct,
            chooser: ChooserRule::Always(Party::Client),
            correlation: CorrelationRule::Lattice,
            lattice: LatticeRule::Reply,
            inferences: 100,
            objective: Objective::Online,
            max_drop: Some(0.5),
            max_bytes: Some(1_500_000),
            output: Output::ArgMax,
            network: None,
        };
        assert_eq!(config, expected);
        for key in ["ot", "leaf_bits", "tables"] {
            config.set(key, "auto").expect("a known setting");
        }
        assert_eq!((config.ot, config.leaf_bits), (Rule::Auto, Rule::Auto));
        assert_eq!(config.tables, Rule::Auto);
    }

    #[test]
    fn a_network_asks_for_its_latency() {
        let mut config = CompileConfig::new(Preset::Fast);
        config.set("objective", "total").expect("known");
        assert!(matches!(config.check(), Err(CompileError::NoNetwork)));
        config.set_network(NetworkProfile::wan());
        assert_eq!((config.objective, config.check().is_ok()), (Objective::Total, true));
        config.set("objective", "bytes").expect("known");
        let json = serde_json::to_value(&config).expect("json");
        assert_eq!((&json["objective"], &json["ot"]), (&"bytes".into(), &"auto".into()));
        assert_eq!(json["network"]["name"], "wan");
    }

    #[test]
    fn errors_list_what_there_is() {
        let mut config = CompileConfig::new(Preset::CoPriv);
        let mut text = |key, value| config.set(key, value).expect_err("refused").to_string();
        assert_eq!(
            text("ring", "65"),
            "ring cannot be \"65\"; it can be a whole number from 8 to 64"
        );
        assert_eq!(
            text("correlation", "pcg"),
            "correlation cannot be \"pcg\"; it can be auto, ot, lattice"
        );
        assert_eq!(
            text("objective", "speed"),
            "objective cannot be \"speed\"; it can be bytes, total, online"
        );
        assert_eq!(text("tables", "1"), "tables cannot be \"1\"; it can be auto, true, false");
        assert_eq!(
            text("chooser", "both"),
            "chooser cannot be \"both\"; it can be auto, server, client"
        );
        assert_eq!(
            text("max_drop", "-1"),
            "max_drop cannot be \"-1\"; it can be a number of points from 0 to 100"
        );
        assert_eq!(
            text("max_bytes", "1 TB"),
            "max_bytes cannot be \"1 TB\"; it can be a number of bytes, such as 750000000 or 750MB"
        );
        assert_eq!(
            text("speed", "0.5"),
            "there is no setting \"speed\"; there are precision, ring, scale, weight_scale, \
             activation_bits, weight_bits, ot, leaf_bits, tables, head_room, lowering, chooser, \
             correlation, lattice, inferences, objective, max_drop, max_bytes, output"
        );
    }

    #[test]
    fn settings_are_recorded_by_name() {
        let json = serde_json::to_value(CompileConfig::new(Preset::CrypTFlow2)).expect("json");
        assert_eq!(json["preset"], "cryptflow2");
        assert_eq!((&json["lowering"], &json["chooser"]), (&"direct".into(), &"client".into()));
        assert_eq!((&json["ring"], &json["ot"]), (&41.into(), &"iknp".into()));
    }
}
