//! Exported tensors are the network's; the graph is well-formed (its meaning is checked with onnxruntime by
//! `scripts/check_export.py`).

use super::*;
use crate::{
    Activation, Architecture, BatchNormInit, ConvGeometry, FusedLayer, FusedOp, Gates, LayerId,
    Network, Provenance, Shape, Tensor, import_safetensors,
};
use ::safetensors::SafeTensors;
use std::collections::BTreeMap;

fn network() -> Network {
    Network::new(Architecture::ResNet20, 0.25, 2, 16)
        .expect("small")
        .with_activation(Activation::Relu6)
}

/// A 3x3 convolution with a bias map, pooled and classified.
fn model() -> FusedModel {
    let conv = ConvGeometry::same(3, 2, 3, 1);
    let layer = |name: &str, op, inputs: &[usize], shape| FusedLayer {
        name: name.into(),
        op,
        inputs: inputs.iter().map(|id| LayerId(*id)).collect(),
        shape,
        block: None,
        mask: None,
    };
    let (image, map, vector) = (Shape::new(3, 16, 16), Shape::new(2, 16, 16), Shape::vector(2));
    let bits = vec![true, false];
    let mask = ActivationMask::new(map, Granularity::Channel, bits).expect("in part");
    let layers = vec![
        layer("input", FusedOp::Input, &[], image),
        layer("block", FusedOp::Conv(conv), &[0], map),
        FusedLayer {
            mask: Some(mask),
            ..layer("act", FusedOp::Activation(Activation::Relu6), &[1], map)
        },
        layer("pool", FusedOp::GlobalAveragePool, &[2], vector),
        layer("fc", FusedOp::Conv(ConvGeometry::fully_connected(2, 2)), &[3], vector),
    ];
    let counted = |shape: &[usize]| {
        let values = (0..shape.iter().product::<usize>()).map(|i| i as f32).collect();
        Tensor::new(shape.to_vec(), values).expect("fits")
    };
    let tensors = BTreeMap::from([
        ("block.weight".to_owned(), counted(&[2, 3, 3, 3])),
        ("block.bias".to_owned(), counted(&[3, 3, 2])),
        ("fc.weight".to_owned(), counted(&[2, 2, 1, 1])),
        ("fc.bias".to_owned(), counted(&[1, 1, 2])),
    ]);
    let provenance = Provenance::new("test", None, serde_json::Value::Null, None);
    FusedModel::new(network(), "1111111111".into(), layers, tensors, provenance).expect("sound")
}

fn written(write: impl Fn(&Path) -> Result<(), ExportError>) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("exported");
    write(&path).expect("exports");
    std::fs::read(path).expect("there")
}

#[test]
fn a_checkpoint_comes_back_as_it_went() {
    let checkpoint = Checkpoint::initialise(network(), 3, BatchNormInit::Random);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("weights.safetensors");
    export_checkpoint(&checkpoint, ExportFormat::Safetensors, &path).expect("exports");
    let imported = import_safetensors(&path, &network(), None).expect("imports");
    assert_eq!(imported.checkpoint.tensors(), checkpoint.tensors());
}

#[test]
fn bias_maps_go_by_channel_with_the_classes_of_rows_and_columns() {
    let bytes = written(|path| export_fused(&model(), ExportFormat::Safetensors, path));
    let file = SafeTensors::deserialize(&bytes).expect("safetensors");
    let floats = |name: &str| -> (Vec<usize>, Vec<f32>) {
        let view = file.tensor(name).expect("there");
        let values = view.data().as_chunks().0.iter().map(|x| f32::from_le_bytes(*x));
        (view.shape().to_vec(), values.collect())
    };
    let (shape, values) = floats("block.bias");
    assert_eq!(shape, [2, 3, 3]);
    let even = (0..9).map(|i| (2 * i) as f32);
    assert_eq!(values, even.clone().chain(even.map(|x| x + 1.0)).collect::<Vec<_>>());
    assert_eq!(floats("fc.bias"), (vec![2], vec![0.0, 1.0]));
    let rows = file.tensor("block.rows").expect("there");
    let classes: Vec<u8> = rows.data().iter().step_by(8).copied().collect();
    assert_eq!(classes, [&[0][..], &[1; 14], &[2]].concat());

    let (_, metadata) = SafeTensors::read_metadata(&bytes).expect("a header");
    let metadata = metadata.metadata().as_ref().expect("metadata");
    let layers: Vec<FusedLayer> = serde_json::from_str(&metadata["copriv.layers"]).expect("layers");
    let unmasked = |layer: &FusedLayer| FusedLayer { mask: None, ..layer.clone() };
    assert_eq!(layers, model().layers().iter().map(unmasked).collect::<Vec<_>>());
    let mask = file.tensor("act.mask").expect("there");
    assert_eq!((mask.dtype(), mask.shape()), (::safetensors::Dtype::BOOL, [2, 1, 1].as_slice()));
    assert_eq!(mask.data(), [1, 0]);
}

#[test]
fn an_exported_checkpoint_says_which_values_are_activated() {
    let whole = Checkpoint::initialise(network(), 3, BatchNormInit::Random);
    let shape = Shape::new(8, 16, 16);
    let bits = (0..shape.elements()).map(|i| i % 7 == 0).collect();
    let mask = ActivationMask::new(shape, Granularity::Pixel, bits).expect("in part");
    let parts = BTreeMap::from([("layer1.0.conv1.activation".to_owned(), mask)]);
    let gates = Gates::all_kept(10).with_parts(parts.clone());
    let (tensors, provenance) = (whole.tensors().clone(), whole.provenance().clone());
    let part = Checkpoint::new(network(), gates, tensors, provenance).expect("belongs");
    let written =
        |checkpoint| written(|path| export_checkpoint(checkpoint, ExportFormat::Safetensors, path));
    let metadata = |bytes: &[u8]| {
        let (_, metadata) = SafeTensors::read_metadata(bytes).expect("a header");
        metadata.metadata().clone().expect("metadata")
    };
    let (whole, part) = (written(&whole), written(&part));
    assert!(!metadata(&whole).contains_key("copriv.activation_masks"));
    let found: BTreeMap<String, ActivationMask> =
        serde_json::from_str(&metadata(&part)["copriv.activation_masks"]).expect("masks");
    assert_eq!(found, parts);
    let names = |bytes: &[u8]| -> Vec<String> {
        let file = SafeTensors::deserialize(bytes).expect("safetensors");
        let mut names: Vec<String> = file.names().into_iter().map(str::to_owned).collect();
        names.sort();
        names
    };
    assert_eq!(names(&whole), names(&part), "load_state_dict takes both");
}

/// The fields of a message: number and content (of a varint: none).
fn fields(mut bytes: &[u8]) -> Vec<(u64, &[u8])> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let length = bytes.iter().take_while(|byte| **byte >= 0x80).count() + 1;
        let (number, rest) = bytes.split_at(length);
        *bytes = rest;
        number.iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f))
    }
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let length = match key & 7 {
            0 => {
                varint(&mut bytes);
                0
            }
            2 => varint(&mut bytes) as usize,
            _ => 4,
        };
        let (content, rest) = bytes.split_at(length);
        fields.push((key >> 3, content));
        bytes = rest;
    }
    fields
}

#[test]
fn onnx_graphs_define_values_before_they_use_them() {
    let checkpoint = Checkpoint::initialise(network(), 3, BatchNormInit::Random);
    let files = [
        // Two convolutions, a sum, an activation and what it chooses, pooling, flattening.
        (written(|path| export_fused(&model(), ExportFormat::Onnx, path)), 7),
        // 21 convolutions and batch norms, 9 sums, 19 activations, pooling, classifier, flattening.
        (written(|path| export_checkpoint(&checkpoint, ExportFormat::Onnx, path)), 73),
    ];
    for (bytes, nodes) in &files {
        let model = fields(bytes);
        let graph = model.iter().find(|(field, _)| *field == 7).expect("a graph").1;
        let graph = fields(graph);
        let mut known = vec![b"image".to_vec()];
        for (_, constant) in graph.iter().filter(|(field, _)| *field == 5) {
            let fields = fields(constant);
            known.extend(fields.iter().filter(|(f, _)| *f == 8).map(|(_, name)| name.to_vec()));
        }
        let mut count = 0;
        for (_, node) in graph.iter().filter(|(field, _)| *field == 1) {
            for (field, name) in fields(node) {
                assert!(field != 1 || known.contains(&name.to_vec()), "{name:?}");
                if field == 2 {
                    assert!(!known.contains(&name.to_vec()), "{name:?}");
                    known.push(name.to_vec());
                }
            }
            count += 1;
        }
        assert!(known.contains(&b"logits".to_vec()));
        assert_eq!(count, *nodes);
    }
}
