//! Pass 2: how each convolution becomes matrix products.

use crate::context::Context;
use crate::draft::Draft;
use crate::{CompileError, LoweringRule};
use copriv_ir::{ConvGeometry, Correlation, LinearStep, Lowering, Shape, WinogradTile};

/// All lowerings, the plainest first.
const LOWERINGS: [Lowering; 4] = [
    Lowering::Direct,
    Lowering::Winograd(WinogradTile::F2X2_3X3),
    Lowering::Winograd(WinogradTile::F4X4_3X3),
    Lowering::WinogradStride2,
];

/// Gives every linear step its cheapest lowering, under the choosers that the settings allow.
///
/// The cost is that of the whole plan: Winograd's extra fractional bits make the truncation after it a
/// little dearer.
/// Steps that are to have lattice correlations stay direct.
pub(crate) fn lower(mut draft: Draft, context: &Context<'_>) -> Result<Draft, CompileError> {
    for (id, linear, input) in draft.linear_steps() {
        if context.lattice.contains(&draft.layer(id)) {
            continue;
        }
        let options = allowed(context.config.lowering, &linear.geometry, input).into_iter();
        let options = options.flat_map(|lowering| {
            context.choosers().map(move |chooser| LinearStep {
                lowering,
                correlation: Correlation::Ot { kind: context.ot, chooser },
                ..linear
            })
        });
        if let Some(cheapest) = draft.cheapest(id, options, context)? {
            let lowered = LinearStep { lowering: cheapest.lowering, ..linear };
            draft = draft.with_linear(id, lowered)?;
        }
    }
    Ok(draft)
}

/// The lowerings that fit a convolution.
pub(crate) fn fitting(geometry: &ConvGeometry, input: Shape) -> Vec<Lowering> {
    let fits = |lowering: &Lowering| lowering.mat_mul(geometry, input).is_some();
    LOWERINGS.into_iter().filter(fits).collect()
}

/// The lowerings that the settings allow.
pub(crate) fn allowed(rule: LoweringRule, geometry: &ConvGeometry, input: Shape) -> Vec<Lowering> {
    let mut fitting = fitting(geometry, input);
    match rule {
        LoweringRule::Auto => {}
        LoweringRule::CoPriv => fitting.retain(|lowering| is_published(*lowering, geometry)),
        LoweringRule::Direct => fitting.retain(|lowering| *lowering == Lowering::Direct),
        LoweringRule::Winograd if fitting.len() > 1 => {
            fitting.retain(|lowering| *lowering != Lowering::Direct);
        }
        LoweringRule::Winograd => {}
    }
    fitting
}

/// Whether CoPriv (NeurIPS 2023) lowers this convolution so. It builds neither larger tiles nor grouped
/// convolutions by Winograd.
fn is_published(lowering: Lowering, geometry: &ConvGeometry) -> bool {
    match lowering {
        Lowering::Direct => true,
        Lowering::Winograd(tile) => geometry.groups == 1 && tile == WinogradTile::F2X2_3X3,
        Lowering::WinogradStride2 => geometry.groups == 1,
    }
}
