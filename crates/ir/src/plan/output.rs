//! What is known of a step's output, from what is known of its inputs.

use super::{
    Comparison, Correlation, ExtendMethod, Fact, LinearStep, Sign, StepOp, TruncateMethod,
    Visibility, class_digits,
};
use crate::{ActivationMask, PoolWindow, Ring, Shape};

/// Most multiplications of a linear step, against hostile plans: predictions of its traffic must fit 64 bits.
const MAX_MULTIPLICATIONS: u128 = 1 << 44;

impl StepOp {
    /// The fact of the output, from those of the inputs in the operation's order.
    ///
    /// # Errors
    /// What is wrong, where the operation does not apply to such inputs. [`Self::Input`] has none to go by.
    pub fn output(&self, inputs: &[&Fact]) -> Result<Fact, String> {
        match (self, inputs) {
            (Self::Linear(linear), [x]) => linear_output(linear, x),
            (Self::Add, [x, y]) => sum(x, y),
            (Self::SumPool, [x]) => Ok(Fact {
                shape: Shape::vector(x.shape.channels),
                scale: x.scale + x.shape.area().next_power_of_two().trailing_zeros(),
                ..**x
            }),
            (Self::Truncate { shift, method }, [x]) => truncated(*shift, *method, x),
            (Self::Extend { ring, method }, [x]) => extended(*ring, *method, x),
            (Self::Reduce { ring }, [x]) if *ring < x.ring => Ok(Fact { ring: *ring, ..**x }),
            (Self::Reduce { ring }, [x]) => Err(format!("cannot reduce {x} to {ring}")),
            (Self::Activation { comparison, mask, .. }, [x]) => {
                check_signs(*comparison, x)?;
                activated(mask.as_ref(), x)
            }
            (Self::MaxPool { window, comparison }, [x]) => pooled(*window, *comparison, x),
            (Self::ArgMax { comparison }, [x]) => greatest(*comparison, x),
            (Self::Reveal, [x]) => Ok(Fact { visibility: Visibility::Client, ..**x }),
            (Self::Input, _) => Err("its fact follows from no others".into()),
            _ => Err("has the wrong number of inputs".into()),
        }
    }
}

fn sum(x: &Fact, y: &Fact) -> Result<Fact, String> {
    if (x.shape, x.ring, x.scale) != (y.shape, y.ring, y.scale) {
        return Err(format!("cannot add {x} and {y}"));
    }
    let both = x.sign == Sign::NonNegative && y.sign == Sign::NonNegative;
    let sign = if both { Sign::NonNegative } else { Sign::Any };
    Ok(Fact { sign, visibility: Visibility::Shared, ..*x })
}

fn truncated(shift: u32, method: TruncateMethod, x: &Fact) -> Result<Fact, String> {
    if shift == 0 || shift >= x.ring.bits() || shift > x.scale {
        return Err(format!("cannot drop {shift} bits of {x}"));
    }
    let fact = Fact { scale: x.scale - shift, visibility: Visibility::Shared, ..*x };
    match method {
        TruncateMethod::Faithful(comparison) | TruncateMethod::OneOff(comparison) => {
            check_comparison(comparison)?;
        }
        TruncateMethod::KnownSign(_) => check_known(x)?,
        TruncateMethod::Reduce => {
            let ring = Ring::new(x.ring.bits() - shift).map_err(|fault| fault.to_string())?;
            return Ok(Fact { ring, ..fact });
        }
    }
    Ok(fact)
}

fn extended(ring: Ring, method: ExtendMethod, x: &Fact) -> Result<Fact, String> {
    if ring <= x.ring {
        return Err(format!("cannot extend {x} to {ring}"));
    }
    let fact = Fact { ring, visibility: Visibility::Shared, ..*x };
    match method {
        ExtendMethod::Compare(comparison) => check_comparison(comparison)?,
        ExtendMethod::KnownSign(_) => check_known(x)?,
        ExtendMethod::Offset(_) if x.ring.bits() < 2 => {
            return Err(format!("no room for an offset in {x}"));
        }
        ExtendMethod::Offset(_) => {}
        ExtendMethod::Local if x.visibility != Visibility::Client => {
            return Err("only what the client alone knows is extended without a message".into());
        }
        ExtendMethod::Local => return Ok(Fact { visibility: Visibility::Client, ..fact }),
    }
    Ok(fact)
}

fn linear_output(linear: &LinearStep, x: &Fact) -> Result<Fact, String> {
    let LinearStep { geometry, lowering, correlation, weight_scale, weight_bits } = linear;
    if let Some(fault) = geometry.fault() {
        return Err(fault);
    }
    if geometry.in_channels != x.shape.channels {
        return Err(format!("{geometry} does not take {}", x.shape));
    }
    let output = geometry.output_shape(x.shape);
    let products = [output.channels, output.height, output.width, geometry.fan_in()];
    if products.into_iter().map(|side| side as u128).product::<u128>() > MAX_MULTIPLICATIONS {
        return Err(format!("{geometry} on {} is absurdly large", x.shape));
    }
    if lowering.mat_mul(geometry, x.shape).is_none() {
        return Err(format!("{geometry} has no lowering {lowering}"));
    }
    if !(1..=x.ring.bits()).contains(weight_bits) {
        return Err(format!("weights of {weight_bits} bits in {}", x.ring));
    }
    match correlation {
        Correlation::Ot { .. } | Correlation::Lattice(_) | Correlation::Reply(_) => {}
    }
    Ok(Fact {
        shape: output,
        ring: x.ring,
        scale: x.scale.saturating_add(*weight_scale).saturating_add(lowering.extra_scale()),
        sign: Sign::Any,
        visibility: Visibility::Shared,
    })
}

/// Values that pass as they are keep their sign: it is known only where it was before, or where none passes.
fn activated(mask: Option<&ActivationMask>, x: &Fact) -> Result<Fact, String> {
    if let Some(mask) = mask
        && mask.shape() != x.shape
    {
        return Err(format!("a mask of {} on values of {}", mask.shape(), x.shape));
    }
    let sign = if mask.is_none() { Sign::NonNegative } else { x.sign };
    Ok(Fact { sign, visibility: Visibility::Shared, ..*x })
}

fn pooled(window: PoolWindow, comparison: Comparison, x: &Fact) -> Result<Fact, String> {
    check_signs(comparison, x)?;
    let geometry = window.geometry(x.shape.channels);
    if let Some(fault) = geometry.fault() {
        return Err(fault);
    }
    let shape = geometry.output_shape(x.shape);
    // Between its rows and its columns a map is of this shape.
    let between = Shape { height: x.shape.height, ..shape };
    if !between.is_possible() || !shape.is_possible() {
        return Err(format!("windows {window} do not fit {}", x.shape));
    }
    Ok(Fact { shape, visibility: Visibility::Shared, ..*x })
}

fn greatest(comparison: Comparison, x: &Fact) -> Result<Fact, String> {
    check_signs(comparison, x)?;
    Ok(Fact {
        shape: Shape::vector(class_digits(x.shape.elements())),
        ring: Ring::new(1).map_err(|fault| fault.to_string())?,
        scale: 0,
        sign: Sign::Any,
        visibility: Visibility::Shared,
    })
}

fn check_known(x: &Fact) -> Result<(), String> {
    match x.sign {
        Sign::NonNegative => Ok(()),
        Sign::Any => Err(format!("the sign of {x} is not known")),
    }
}

fn check_signs(comparison: Comparison, x: &Fact) -> Result<(), String> {
    if x.ring.bits() < 2 {
        return Err(format!("no sign in {x}"));
    }
    check_comparison(comparison)
}

fn check_comparison(comparison: Comparison) -> Result<(), String> {
    let leaf_bits = comparison.leaf_bits;
    if (1..=4).contains(&leaf_bits) {
        Ok(())
    } else {
        Err(format!("comparison digits have 1 to 4 bits, not {leaf_bits}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ConvGeometry, Lowering, OtKind, Party};

    #[test]
    fn steps_whose_traffic_overflows_are_refused() {
        let channels = 1 << 20;
        let input = Fact {
            shape: Shape::new(channels, 16, 16),
            ring: Ring::new(41).expect("in range"),
            scale: 12,
            sign: Sign::Any,
            visibility: Visibility::Shared,
        };
        let step = |outputs| LinearStep {
            geometry: ConvGeometry::same(channels, outputs, 1, 1),
            lowering: Lowering::Direct,
            correlation: Correlation::Ot { kind: OtKind::Iknp, chooser: Party::Client },
            weight_scale: 0,
            weight_bits: 41,
        };
        assert!(linear_output(&step(16), &input).is_ok());
        let fault = linear_output(&step(channels), &input).expect_err("absurd");
        assert!(fault.contains("absurdly large"), "{fault}");
    }
}
