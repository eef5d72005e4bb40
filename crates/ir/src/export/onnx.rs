//! Networks as ONNX graphs (operator set 13), numbers of fields as in `onnx.proto`.

use super::protobuf::Message;
use super::{ExportError, broadcast};
use crate::{
    Activation, ActivationMask, Checkpoint, ConvGeometry, FusedModel, FusedOp, Graph, Op, Shape,
    Tensor,
};

/// Version of the file format, and of the operators' meanings.
const IR_VERSION: i64 = 7;
const OPERATOR_SET: i64 = 13;
/// Number of single precision among ONNX's element types.
const FLOAT: i64 = 1;
/// And that of truth values, a byte each.
const BOOL: i64 = 9;
/// Protocol buffers end here.
const MOST_BYTES: usize = (1 << 31) - 1;

/// The trained network: convolutions, batch norms, and the activations whose gates are kept.
pub(super) fn checkpoint(checkpoint: &Checkpoint) -> Result<Vec<u8>, ExportError> {
    let graph = checkpoint.network().graph();
    let activation = checkpoint.network().activation();
    let mut onnx = Builder::default();
    let mut values: Vec<String> = Vec::new();
    for node in graph.nodes() {
        let inputs: Vec<String> = node.inputs.iter().map(|id| values[id.0].clone()).collect();
        let name = node.name.as_str();
        let parameter = |suffix: &str| &checkpoint.tensors()[&format!("{name}.{suffix}")];
        let value = match &node.op {
            Op::Input => "image".to_owned(),
            Op::Conv(geometry) => onnx.conv(name, geometry, inputs, parameter("weight"), None),
            Op::BatchNorm => {
                let parameters = ["weight", "bias", "running_mean", "running_var"].map(|suffix| {
                    onnx.constant(format!("{name}.{suffix}"), parameter(suffix).clone())
                });
                let inputs = [inputs, parameters.to_vec()].concat();
                let epsilon = vec![float_attribute("epsilon", Graph::BATCH_NORM_EPSILON)];
                onnx.node("BatchNormalization", name, inputs, epsilon)
            }
            Op::Activation(condition) if checkpoint.gates().admit(*condition) => {
                onnx.activation(name, (activation, checkpoint.gates().part(name)), inputs)
            }
            Op::Activation(_) => inputs.concat(),
            Op::Add => onnx.node("Add", name, inputs, vec![]),
            Op::MaxPool { kernel, stride, padding } => {
                onnx.node("MaxPool", name, inputs, windows(*kernel, *stride, *padding))
            }
            Op::GlobalAveragePool => onnx.node("GlobalAveragePool", name, inputs, vec![]),
            Op::Linear { inputs: from, outputs } => {
                let geometry = ConvGeometry::fully_connected(*from, *outputs);
                let (weight, bias) = (parameter("weight").clone(), parameter("bias"));
                let shape = geometry.weight_shape().to_vec();
                let weight = Tensor::new(shape, weight.into_data()).unwrap_or_else(|| bias.clone());
                onnx.conv(name, &geometry, inputs, &weight, Some(bias))
            }
        };
        values.push(value);
    }
    onnx.finish(checkpoint.network().input().shape, checkpoint.network().classes(), &values)
}

/// The fused network; a bias map is a constant of the map's size, added after its convolution.
pub(super) fn fused(model: &FusedModel) -> Result<Vec<u8>, ExportError> {
    let mut onnx = Builder::default();
    let mut values: Vec<String> = Vec::new();
    for layer in model.layers() {
        let inputs: Vec<String> = layer.inputs.iter().map(|id| values[id.0].clone()).collect();
        let name = layer.name.as_str();
        let value = match (&layer.op, model.conv(layer)) {
            (FusedOp::Conv(geometry), Some((_, weight, bias))) => {
                let outputs = geometry.out_channels;
                if bias.data().len() == outputs {
                    onnx.conv(name, geometry, inputs, weight, Some(bias))
                } else {
                    let input = model.layers()[layer.inputs[0].0].shape;
                    let map =
                        onnx.constant(format!("{name}.bias"), bias_map(geometry, input, bias));
                    let conv = onnx.conv(name, geometry, inputs, weight, None);
                    onnx.node("Add", &format!("{name}.border"), vec![conv, map], vec![])
                }
            }
            (FusedOp::Input | FusedOp::Conv(_), _) => "image".to_owned(),
            (FusedOp::Activation(function), _) => {
                onnx.activation(name, (*function, layer.mask.as_ref()), inputs)
            }
            (FusedOp::Add, _) => onnx.node("Add", name, inputs, vec![]),
            (FusedOp::MaxPool { kernel, stride, padding }, _) => {
                onnx.node("MaxPool", name, inputs, windows(*kernel, *stride, *padding))
            }
            (FusedOp::GlobalAveragePool, _) => onnx.node("GlobalAveragePool", name, inputs, vec![]),
        };
        values.push(value);
    }
    onnx.finish(model.network().input().shape, model.network().classes(), &values)
}

/// The bias of every position, `[1, out, height, width]`, from one for each pair of border classes.
fn bias_map(geometry: &ConvGeometry, input: Shape, bias: &Tensor) -> Tensor {
    let rows = geometry.border_classes(input.height);
    let columns = geometry.border_classes(input.width);
    let outputs = geometry.out_channels;
    let output = geometry.output_shape(input);
    let mut map = Tensor::filled(vec![1, outputs, output.height, output.width], 0.0);
    let positions = (0..outputs).flat_map(|channel| {
        let columns = &columns;
        rows.class_of_output().iter().flat_map(move |row| {
            let at = move |column: &usize| (row * columns.count() + column) * outputs + channel;
            columns.class_of_output().iter().map(at)
        })
    });
    for (value, at) in map.data_mut().iter_mut().zip(positions) {
        *value = bias.data().get(at).copied().unwrap_or_default();
    }
    map
}

#[derive(Default)]
struct Builder {
    nodes: Vec<Message>,
    constants: Vec<Message>,
}

impl Builder {
    /// Adds a constant; its name.
    fn constant(&mut self, name: String, tensor: Tensor) -> String {
        let dims = tensor.shape().iter().map(|side| *side as i64);
        let bytes: Vec<u8> = tensor.data().iter().flat_map(|x| x.to_le_bytes()).collect();
        let message = Message::default().integers(1, dims).integer(2, FLOAT);
        self.constants.push(message.text(8, &name).bytes(9, &bytes));
        name
    }

    /// Adds an operation; the name of its result.
    fn node(
        &mut self,
        op: &str,
        name: &str,
        inputs: Vec<String>,
        attributes: Vec<Message>,
    ) -> String {
        let output = format!("{name}:{}", self.nodes.len());
        let node = inputs.iter().fold(Message::default(), |node, input| node.text(1, input));
        let node = node.text(2, &output).text(3, &output).text(4, op);
        self.nodes.push(node.messages(5, &attributes));
        output
    }

    fn conv(
        &mut self,
        name: &str,
        geometry: &ConvGeometry,
        mut inputs: Vec<String>,
        weight: &Tensor,
        bias: Option<&Tensor>,
    ) -> String {
        inputs.push(self.constant(format!("{name}.weight"), weight.clone()));
        if let Some(bias) = bias {
            let values = bias.data().to_vec();
            let flat = Tensor::new(vec![values.len()], values).unwrap_or_else(|| bias.clone());
            inputs.push(self.constant(format!("{name}.bias"), flat));
        }
        let ConvGeometry { kernel, stride, padding, groups, .. } = *geometry;
        let mut attributes = windows(kernel, stride, padding);
        attributes
            .push(Message::default().text(1, "group").integer(3, groups as i64).integer(20, 2));
        self.node("Conv", name, inputs, attributes)
    }

    /// The function of all values, or of those of a mask.
    fn activation(
        &mut self,
        name: &str,
        (function, mask): (Activation, Option<&ActivationMask>),
        inputs: Vec<String>,
    ) -> String {
        let activated = self.whole_activation(name, function, inputs.clone());
        let Some(mask) = mask else { return activated };
        let (dims, bytes) = broadcast(mask);
        let dims = std::iter::once(1).chain(dims).map(|side| side as i64);
        let message = Message::default().integers(1, dims).integer(2, BOOL);
        let constant = format!("{name}.mask");
        self.constants.push(message.text(8, &constant).bytes(9, &bytes));
        self.node("Where", name, [vec![constant, activated], inputs].concat(), vec![])
    }

    fn whole_activation(
        &mut self,
        name: &str,
        function: Activation,
        inputs: Vec<String>,
    ) -> String {
        match function {
            Activation::Relu => self.node("Relu", name, inputs, vec![]),
            Activation::Relu6 => {
                let bounds = [("low", 0.0), ("high", 6.0)].map(|(bound, value)| {
                    self.constant(format!("{name}.{bound}"), Tensor::filled(vec![], value))
                });
                self.node("Clip", name, [inputs, bounds.to_vec()].concat(), vec![])
            }
        }
    }

    /// The file: `image` `[batch, 3, side, side]` in, `logits` `[batch, classes]` out.
    fn finish(
        mut self,
        input: Shape,
        classes: usize,
        values: &[String],
    ) -> Result<Vec<u8>, ExportError> {
        let last = values.last().cloned().unwrap_or_default();
        let flatten = Message::default().text(1, &last).text(2, "logits").text(3, "logits");
        self.nodes.push(flatten.text(4, "Flatten"));
        let Shape { channels, height, width } = input;
        let graph = Message::default()
            .messages(1, &self.nodes)
            .text(2, "copriv")
            .messages(5, &self.constants)
            .message(11, &value_info("image", &[channels, height, width]))
            .message(12, &value_info("logits", &[classes]));
        let operators = Message::default().text(1, "").integer(2, OPERATOR_SET);
        let model = Message::default()
            .integer(1, IR_VERSION)
            .text(2, "copriv")
            .text(3, env!("CARGO_PKG_VERSION"))
            .message(7, &graph)
            .message(8, &operators)
            .into_bytes();
        if model.len() > MOST_BYTES {
            return Err(ExportError::TooLarge { bytes: model.len() });
        }
        Ok(model)
    }
}

/// A value of single precision, the first dimension free.
fn value_info(name: &str, sides: &[usize]) -> Message {
    let dimension = |side: &usize| Message::default().integer(1, *side as i64);
    let mut dimensions = vec![Message::default().text(2, "batch")];
    dimensions.extend(sides.iter().map(dimension));
    let shape = Message::default().messages(1, &dimensions);
    let tensor = Message::default().integer(1, FLOAT).message(2, &shape);
    Message::default().text(1, name).message(2, &Message::default().message(1, &tensor))
}

/// Kernel, stride and padding, the same in both directions.
fn windows(kernel: usize, stride: usize, padding: usize) -> Vec<Message> {
    let attribute = |name: &str, value: usize, count: usize| {
        let values = std::iter::repeat_n(value as i64, count);
        Message::default().text(1, name).integers(8, values).integer(20, 7)
    };
    vec![
        attribute("kernel_shape", kernel, 2),
        attribute("strides", stride, 2),
        attribute("pads", padding, 4),
    ]
}

fn float_attribute(name: &str, value: f32) -> Message {
    Message::default().text(1, name).float(2, value).integer(20, 1)
}
