//! A network before and after fusing, block by block: what `copriv inspect` draws.

use crate::format;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use copriv_ir::cost::oracle::{Bytes, Method, Oracle, layer_costs, node_costs};
use copriv_ir::{Condition, FusedLayer, FusedModel, FusedOp, Gates, Node, Op, Shape};
use serde_json::{Value, json};
use std::iter::Sum;
use std::ops::Add;

/// Every block, and what lies outside of blocks, in network order.
pub struct Blocks {
    rows: Vec<Row>,
    method: Method,
}

struct Row {
    name: String,
    state: State,
    /// The gate's importance, where it is known.
    alpha: Option<f32>,
    output: Shape,
    /// Unfused, with all activations.
    before: Size,
    after: Size,
}

/// What became of a block.
#[derive(Clone, Copy, PartialEq)]
enum State {
    /// It has its activations.
    Kept,
    /// It lost them and is one convolution.
    Fused,
    /// It lost them; its convolutions are cheaper apart, or not one.
    Linear,
    /// It lost them and went into the block after it.
    Absorbed,
    /// It has no gate.
    Fixed,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Fused => "fused",
            Self::Linear => "linear",
            Self::Absorbed => "absorbed",
            Self::Fixed => "",
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Size {
    parameters: usize,
    multiplications: u64,
    relus: usize,
    bytes: Bytes,
}

impl Add for Size {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            parameters: self.parameters + other.parameters,
            multiplications: self.multiplications + other.multiplications,
            relus: self.relus + other.relus,
            bytes: self.bytes + other.bytes,
        }
    }
}

impl Sum for Size {
    fn sum<I: Iterator<Item = Self>>(sizes: I) -> Self {
        sizes.fold(Self::default(), Self::add)
    }
}

impl Blocks {
    /// The blocks of a fused model's network; `gates` gives the importances where they are known. Bytes are
    /// those of CoPriv's protocol.
    pub fn new(model: &FusedModel, gates: Option<&Gates>) -> Self {
        let (network, method) = (model.network(), Method::WinogradStride2);
        let graph = network.graph();
        let costs = node_costs(&Oracle::PAPER, method, network);
        let before: Vec<Size> = graph
            .nodes()
            .iter()
            .zip(costs)
            .map(|(node, bytes)| node_size(graph.nodes(), node, bytes))
            .collect();
        let costs = layer_costs(&Oracle::PAPER, method, model);
        let after: Vec<(&FusedLayer, Size)> = model
            .layers()
            .iter()
            .zip(costs)
            .map(|(layer, bytes)| (layer, layer_size(model, layer, bytes)))
            .collect();

        let mut rows: Vec<Row> = Vec::new();
        for (number, block) in graph.blocks().iter().enumerate() {
            let own = after.iter().filter(|(layer, _)| layer.block == Some(number));
            let convolutions = own.clone().filter(|(layer, _)| is_conv(layer)).count();
            let is_kept = model.mask().as_bytes().get(number) != Some(&b'0');
            rows.push(Row {
                name: block.name.clone(),
                state: match convolutions {
                    _ if is_kept => State::Kept,
                    0 => State::Absorbed,
                    1 if block.is_residual => State::Fused,
                    _ => State::Linear,
                },
                alpha: gates.and_then(|gates| gates.alphas().get(number).copied()),
                output: graph.nodes()[block.nodes.end - 1].shape,
                before: before[block.nodes.clone()].iter().copied().sum(),
                after: own.map(|(_, size)| *size).sum(),
            });
        }
        let in_blocks = graph.blocks().iter().map(|block| block.nodes.end).max().unwrap_or(0);
        let tail = before.iter().skip(in_blocks).copied().sum();
        rows.extend(graph.nodes().last().map(|node| Row {
            name: node.name.clone(),
            state: State::Fixed,
            alpha: None,
            output: node.shape,
            before: tail,
            after: after.iter().filter(|(layer, _)| layer.block.is_none()).map(|row| row.1).sum(),
        }));
        Self { rows, method }
    }

    pub fn table(&self) -> Table {
        let has_alphas = self.rows.iter().any(|row| row.alpha.is_some());
        let mut header = vec!["block", "gate", "output"];
        header.extend(["k param\nbefore", "\nafter", "MMAC\nbefore", "\nafter"]);
        header.extend(["k ReLU\nbefore", "\nafter", "MB sent\nbefore", "\nafter"]);
        if has_alphas {
            header.push("\nalpha");
        }
        let mut table = Table::new();
        table.load_style(presets::UTF8_BORDERS_ONLY.with_rounded_corners());
        table.set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(header);
        for row in &self.rows {
            let [name, gate] = [row.name.clone(), row.state.name().to_owned()];
            let output = row.output.to_string();
            let mut cells = vec![name, gate, output];
            cells.extend(numbers(&row.before, &row.after));
            if has_alphas {
                cells.push(row.alpha.map(|alpha| format!("{alpha:.2}")).unwrap_or_default());
            }
            table.add_row(cells);
        }
        let [before, after] = self.totals();
        let mut total = vec!["total".into(), String::new(), String::new()];
        total.extend(numbers(&before, &after));
        table.add_row(total);
        // Columns are a space apart without any padding.
        let last = table.column_count().saturating_sub(1);
        for (number, column) in table.column_iter_mut().enumerate() {
            column.set_padding((u16::from(number == 0), u16::from(number == last)));
            if number > 2 {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }

    /// What the table's numbers mean.
    pub fn legend(&self) -> String {
        let Oracle { bits, scale, .. } = Oracle::PAPER;
        format!(
            "before: unfused, all activations; after: fused by the gates' state.\n\
             MB sent: one inference, offline and online, by the formulae of the copriv preset\n\
             ({bits} bits, scale {scale}); `copriv inspect PLANDIR` has exact bytes."
        )
    }

    pub fn json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            json!({
                "name": row.name,
                "state": if row.state == State::Fixed { Value::Null } else { json!(row.state.name()) },
                "shape": row.output,
                "before": size_json(&row.before),
                "after": size_json(&row.after),
            })
        });
        let [before, after] = self.totals().map(|size| size_json(&size));
        json!({
            "method": format!("{:?}", self.method),
            "rows": rows.collect::<Vec<_>>(),
            "total": { "before": before, "after": after },
        })
    }

    fn totals(&self) -> [Size; 2] {
        let total = |size: fn(&Row) -> Size| self.rows.iter().map(size).sum();
        [total(|row| row.before), total(|row| row.after)]
    }
}

fn node_size(nodes: &[Node], node: &Node, bytes: Bytes) -> Size {
    let (parameters, multiplications) = match &node.op {
        Op::Conv(geometry) => {
            let input = nodes[node.inputs[0].0].shape;
            (geometry.weight_elements(), geometry.multiplications(input))
        }
        Op::Linear { inputs, outputs } => (inputs * outputs + outputs, (inputs * outputs) as u64),
        Op::BatchNorm => (2 * node.shape.channels, 0),
        _ => (0, 0),
    };
    let is_active = matches!(node.op, Op::Activation(Condition::Always | Condition::Kept(_)));
    let relus = if is_active { node.shape.elements() } else { 0 };
    Size { parameters, multiplications, relus, bytes }
}

fn layer_size(model: &FusedModel, layer: &FusedLayer, bytes: Bytes) -> Size {
    let (parameters, multiplications) = match model.conv(layer) {
        Some((geometry, weight, bias)) => {
            let input = model.layers()[layer.inputs[0].0].shape;
            (weight.data().len() + bias.data().len(), geometry.multiplications(input))
        }
        None => (0, 0),
    };
    Size { parameters, multiplications, relus: layer.activated(), bytes }
}

fn is_conv(layer: &FusedLayer) -> bool {
    matches!(layer.op, FusedOp::Conv(_))
}

/// Thousands of parameters, millions of products, thousands of ReLUs, megabytes: before and after each.
fn numbers(before: &Size, after: &Size) -> Vec<String> {
    let each = |size: &Size| {
        [
            size.parameters as f64 / 1e3,
            size.multiplications as f64 / 1e6,
            size.relus as f64 / 1e3,
            size.bytes.total() / 1e6,
        ]
    };
    let pairs = each(before).into_iter().zip(each(after));
    pairs.flat_map(|(before, after)| [before, after]).map(format::number).collect()
}

fn size_json(size: &Size) -> Value {
    json!({
        "parameters": size.parameters,
        "multiplications": size.multiplications,
        "relus": size.relus,
        "bytes": { "offline": size.bytes.offline.round(), "online": size.bytes.online.round() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use copriv_ir::{Architecture, BatchNormInit, Checkpoint, Network};

    fn blocks(architecture: Architecture, mask: &str) -> Blocks {
        let network = Network::new(architecture, 1.0, 100, 32).expect("usual");
        let made = Checkpoint::initialise(network.clone(), 1, BatchNormInit::Random);
        let gates = Gates::from_mask(&network, mask).expect("its mask");
        let (tensors, provenance) = (made.tensors().clone(), made.provenance().clone());
        let checkpoint = Checkpoint::new(network, gates, tensors, provenance).expect("whole");
        let fused = copriv_reparam::fuse(&checkpoint).expect("fuses");
        Blocks::new(&fused, Some(checkpoint.gates()))
    }

    #[test]
    fn the_table_fits_a_hundred_columns_and_adds_up() {
        for (architecture, mask) in [
            (Architecture::MobileNetV2, "01010101010101010"),
            (Architecture::ResNet20, "010101010"),
        ] {
            let blocks = blocks(architecture, mask);
            let text = format!("{}\n{}", blocks.table(), blocks.legend());
            let widest = text.lines().map(|line| line.chars().count()).max();
            assert!(widest <= Some(100), "{widest:?}\n{text}");
            let [before, after] = blocks.totals();
            let graph = Network::new(architecture, 1.0, 100, 32).expect("usual").graph();
            assert_eq!(before.multiplications, graph.multiplications());
            assert!(after.bytes.total() < before.bytes.total() && after.relus < before.relus);
        }
    }

    #[test]
    fn states_follow_gates_and_shapes() {
        let states = |blocks: &Blocks| -> Vec<&str> {
            blocks.rows.iter().map(|row| row.state.name()).collect()
        };
        let mobile = blocks(Architecture::MobileNetV2, "00111111111111111");
        assert_eq!(states(&mobile)[..4], ["kept", "linear", "fused", "kept"]);
        assert_eq!(mobile.rows.last().map(|row| row.name.as_str()), Some("classifier.1"));
        let resnet = blocks(Architecture::ResNet20, "011111111");
        assert_eq!(states(&resnet)[..3], ["kept", "linear", "kept"]);
        let json = mobile.json();
        assert_eq!(json["rows"][2]["state"], "fused");
        assert!(json["total"]["after"]["bytes"]["offline"].as_f64() > Some(1e9));
    }
}
