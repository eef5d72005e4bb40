//! What all passes see.

use crate::lattice::LatticeLayers;
use crate::pricing::Pricing;
use crate::{ChooserRule, CompileConfig};
use copriv_ir::{Comparison, OtKind, Party};

/// The settings, and what holds for the whole plan in the making.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub config: &'a CompileConfig,
    pub pricing: Pricing<'a>,
    /// The extension behind the correlations of linear steps.
    pub ot: OtKind,
    /// Layers that are to have lattice correlations: they are multiplied directly.
    pub lattice: &'a LatticeLayers,
}

impl Context<'_> {
    /// What comparisons start from; `compare.rs` has the last word.
    pub(crate) fn comparison(&self) -> Comparison {
        let (leaf_bits, tables) = (self.config.leaf_bits.or(4), self.config.tables.or(false));
        Comparison { ot: self.ot, leaf_bits, tables }
    }

    /// The choosers that the settings allow; CrypTFlow2's first.
    pub(crate) fn choosers(&self) -> impl Iterator<Item = Party> + Clone + use<> {
        let rule = self.config.chooser;
        let allowed = move |party: &Party| match rule {
            ChooserRule::Auto => true,
            ChooserRule::Always(chooser) => *party == chooser,
        };
        [Party::Client, Party::Server].into_iter().filter(allowed)
    }
}
