//! Whole networks: fused and unfused compute the same, layer by layer, borders included.

use copriv_ir::evaluate::{CheckpointEvaluator, FusedEvaluator};
use copriv_ir::{
    Activated, Architecture, BatchNormInit, Checkpoint, ConvGeometry, FusedLayer, FusedModel,
    FusedOp, Gates, Granularity, Network, Op, cost::oracle,
};
use copriv_reparam::{FuseConfig, fuse, fuse_with, verify, verify_random};
use proptest::prelude::*;
use proptest::test_runner::Config;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

fn checkpoint(network: &Network, mask: &str, seed: u64) -> Checkpoint {
    let made = Checkpoint::initialise(network.clone(), seed, BatchNormInit::Random);
    let gates = Gates::from_mask(network, mask).expect("a mask of this network");
    let (tensors, provenance) = (made.tensors().clone(), made.provenance().clone());
    Checkpoint::new(network.clone(), gates, tensors, provenance).expect("only the gates changed")
}

fn random_mask(network: &Network, random: &mut ChaCha8Rng) -> String {
    let gates = network.graph().blocks().len();
    (0..gates).map(|_| if random.random() { '1' } else { '0' }).collect()
}

/// The same checkpoint, about half of the activations that its gates leave in part, by channel or by pixel; a tenth of the
/// channels or values of some, nine tenths of others.
fn in_part(checkpoint: &Checkpoint, random: &mut ChaCha8Rng) -> Checkpoint {
    let graph = checkpoint.network().graph();
    let gates = checkpoint.gates();
    let is_there = |op: &Op| matches!(op, Op::Activation(condition) if gates.admit(*condition));
    let mut parts = std::collections::BTreeMap::new();
    for node in graph.nodes().iter().filter(|node| is_there(&node.op)) {
        let by = [Granularity::Channel, Granularity::Pixel][usize::from(random.random::<bool>())];
        let share = random.random_range(0.1..0.9);
        let bits = (0..by.bits(node.shape)).map(|_| random.random_bool(share)).collect();
        let activated = Activated::of_bits(node.shape, by, bits).expect("of its shape");
        if let (Activated::Part(mask), true) = (activated, random.random::<bool>()) {
            parts.insert(node.name.clone(), mask);
        }
    }
    let gates = gates.clone().with_parts(parts);
    let (network, tensors) = (checkpoint.network().clone(), checkpoint.tensors().clone());
    let provenance = checkpoint.provenance().clone();
    Checkpoint::new(network, gates, tensors, provenance).expect("masks of its activations")
}

fn random_image(network: &Network, random: &mut ChaCha8Rng) -> Vec<f32> {
    (0..network.input().shape.elements()).map(|_| random.random_range(-2.0..2.0)).collect()
}

/// The largest difference between the two in the logits and after any activation, sum or pooling, over
/// the largest value there.
fn distance(checkpoint: &Checkpoint, fused: &FusedModel, image: &[f32]) -> f32 {
    let expected = CheckpointEvaluator::new(checkpoint).layers(image);
    let found = FusedEvaluator::new(fused).layers(image);
    let distance = |expected: &[f32], found: &[f32]| {
        assert_eq!(expected.len(), found.len());
        let size = expected.iter().fold(f32::MIN_POSITIVE, |size, x| size.max(x.abs()));
        let differences = expected.iter().zip(found).map(|(a, b)| (a - b).abs());
        differences.fold(0.0, f32::max) / size
    };
    let graph = checkpoint.network().graph();
    let compared = fused.layers().iter().zip(&found).filter_map(|(layer, found)| {
        let same = graph.nodes().iter().position(|node| node.name == layer.name)?;
        let is_itself = !matches!(layer.op, FusedOp::Conv(_));
        is_itself.then(|| distance(&expected[same], found))
    });
    let logits = distance(&expected[expected.len() - 1], &found[found.len() - 1]);
    compared.fold(logits, f32::max)
}

fn assert_equal(network: &Network, mask: &str, seed: u64) {
    assert_fuses(&checkpoint(network, mask, seed), mask, seed);
}

fn assert_fuses(checkpoint: &Checkpoint, mask: &str, seed: u64) {
    let network = checkpoint.network();
    for config in [FuseConfig::COPRIV, FuseConfig::FEWEST] {
        let fused = fuse_with(checkpoint, &config).expect("fuses");
        let image = random_image(network, &mut ChaCha8Rng::seed_from_u64(seed));
        let distance = distance(checkpoint, &fused, &image);
        assert!(distance < 1e-4, "{network}, gates {mask}, seed {seed}, {config:?}: {distance}");
    }
}

fn convolutions(fused: &FusedModel) -> usize {
    fused.layers().iter().filter(|layer| matches!(layer.op, FusedOp::Conv(_))).count()
}

proptest! {
    #![proptest_config(Config::with_cases(24))]

    #[test]
    fn mobilenet_v2_of_any_size_and_mask(
        width in prop::sample::select(vec![0.1, 0.25, 0.5]),
        resolution in 16..=40usize,
        final_activation: bool,
        seed: u64,
    ) {
        let network = Network::new(Architecture::MobileNetV2, width, 10, resolution)
            .expect("a usual size")
            .with_final_activation(final_activation);
        let mask = random_mask(&network, &mut ChaCha8Rng::seed_from_u64(seed));
        assert_equal(&network, &mask, seed);
    }

    /// Of any activations removed, in part or whole, by blocks and by layers.
    #[test]
    fn networks_with_activations_in_part(
        architecture in prop::sample::select(vec![
            Architecture::MobileNetV2, Architecture::ResNet18, Architecture::ResNet20,
            Architecture::ResNet50,
        ]),
        layer_gates: bool,
        seed: u64,
    ) {
        let network = Network::new(architecture, 0.15, 10, 18)
            .expect("a usual size")
            .with_layer_gates(layer_gates);
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mask = random_mask(&network, &mut random);
        let checkpoint = in_part(&checkpoint(&network, &mask, seed), &mut random);
        assert_fuses(&checkpoint, &mask, seed);
    }

    #[test]
    fn resnets_of_any_size_and_mask(
        architecture in prop::sample::select(vec![
            Architecture::ResNet18, Architecture::ResNet20, Architecture::ResNet32,
            Architecture::ResNet50,
        ]),
        resolution in 16..=33usize,
        final_activation: bool,
        seed: u64,
    ) {
        let network = Network::new(architecture, 0.15, 10, resolution)
            .expect("a usual size")
            .with_final_activation(final_activation);
        let mask = random_mask(&network, &mut ChaCha8Rng::seed_from_u64(seed));
        assert_equal(&network, &mask, seed);
    }
}

#[test]
fn the_usual_networks_with_all_none_and_some_gates() {
    for (architecture, width) in [
        (Architecture::MobileNetV2, 0.25),
        (Architecture::MobileNetV2, 0.5),
        (Architecture::ResNet20, 1.0),
    ] {
        let network = Network::new(architecture, width, 100, 32).expect("usual");
        let gates = network.graph().blocks().len();
        let some: String = "01001".chars().cycle().take(gates).collect();
        for mask in ["0".repeat(gates), "1".repeat(gates), some] {
            assert_equal(&network, &mask, 11);
        }
    }
}

#[test]
fn the_imagenet_form_has_a_border_on_one_side_only() {
    let network = Network::new(Architecture::MobileNetV2, 0.1, 10, 96).expect("usual");
    assert_equal(&network, &"0".repeat(17), 5);
}

#[test]
fn a_removed_block_is_one_dense_convolution_named_after_it() {
    let network = Network::new(Architecture::MobileNetV2, 0.25, 10, 32).expect("usual");
    let fused = fuse(&checkpoint(&network, "10110111111111111", 1)).expect("fuses");
    assert_eq!(fused.mask(), "1101101111111111111");

    let of_block = |block: usize| -> Vec<(&str, FusedOp)> {
        let layers = fused.layers().iter().filter(|layer| layer.block == Some(block));
        layers.map(|layer| (layer.name.as_str(), layer.op)).collect()
    };
    let activation = FusedOp::Activation(network.activation());
    let dense = FusedOp::Conv(ConvGeometry::same(8, 8, 3, 1));
    assert_eq!(of_block(2), [("features.2", dense), ("features.2.activation", activation)]);
    assert_eq!(of_block(5), [("features.5", dense), ("features.5.activation", activation)]);
    let kept: Vec<&str> = of_block(6).iter().map(|(name, _)| *name).collect();
    assert_eq!(
        kept,
        [
            "features.6.conv.0.0",
            "features.6.expand.activation",
            "features.6.conv.1.0",
            "features.6.depthwise.activation",
            "features.6.conv.2",
            "features.6.add",
        ]
    );

    let bias_shape = |name: &str| fused.tensors()[&format!("{name}.bias")].shape().to_vec();
    assert_eq!(bias_shape("features.2"), [3, 3, 8]);
    assert_eq!(bias_shape("features.6.conv.1.0"), [1, 1, 48]);
}

/// What is left of an activation keeps layers apart; where nothing is left they are one.
#[test]
fn runs_end_at_activations_in_part() {
    let network = Network::new(Architecture::MobileNetV2, 0.25, 10, 32).expect("usual");
    let network = network.with_layer_gates(true);
    let graph = network.graph();
    let position = |name: &str| graph.blocks().iter().position(|block| block.name == name);
    let [expand, depthwise] = ["features.6.expand", "features.6.depthwise"]
        .map(|name| position(name).expect("a gate of its own"));
    let mut digits = vec![b'1'; graph.blocks().len()];
    (digits[expand], digits[depthwise]) = (b'0', b'0');
    let removed = String::from_utf8(digits.clone()).expect("digits");
    digits[expand] = b'1';
    let kept = String::from_utf8(digits).expect("digits");
    let of_block = |checkpoint: &Checkpoint| -> Vec<(String, usize)> {
        let fused = fuse(checkpoint).expect("fuses");
        let is_inside = |name: &str| name.starts_with("features.6");
        let inside = fused.layers().iter().filter(|layer| is_inside(&layer.name));
        inside.map(|layer| (layer.name.clone(), layer.activated())).collect()
    };
    let names = |layers: &[(String, usize)]| -> Vec<String> {
        layers.iter().map(|(name, _)| name.clone()).collect()
    };
    let one = of_block(&checkpoint(&network, &removed, 1));
    assert_eq!(names(&one), ["features.6.depthwise"], "one dense convolution");

    let whole = checkpoint(&network, &kept, 1);
    let node = graph.nodes().iter().find(|node| node.name == "features.6.expand.activation");
    let shape = node.expect("there").shape;
    let bits = (0..shape.channels).map(|channel| channel == 5).collect();
    let Ok(Activated::Part(mask)) = Activated::of_bits(shape, Granularity::Channel, bits) else {
        panic!("one channel is a part")
    };
    let gates =
        whole.gates().clone().with_parts([(node.expect("there").name.clone(), mask)].into());
    let (tensors, provenance) = (whole.tensors().clone(), whole.provenance().clone());
    let part = Checkpoint::new(network.clone(), gates, tensors, provenance).expect("belongs");
    let (whole, part) = (of_block(&whole), of_block(&part));
    assert_eq!(names(&part), names(&whole));
    let activated =
        |layers: &[(String, usize)]| layers.iter().map(|(_, count)| count).sum::<usize>();
    assert_eq!((activated(&whole), activated(&part)), (shape.elements(), shape.area()));
}

/// The convolutions of a fused network by name and shape.
fn shapes(fused: &FusedModel) -> Vec<(String, ConvGeometry)> {
    let conv = |layer: &copriv_ir::FusedLayer| match layer.op {
        FusedOp::Conv(geometry) => Some((layer.name.clone(), geometry)),
        _ => None,
    };
    fused.layers().iter().filter_map(conv).collect()
}

#[test]
fn bytes_decide_what_is_merged() {
    // Without its expansion a block has no wide layer to save; bottlenecks have a narrow one to lose.
    let network = Network::new(Architecture::MobileNetV2, 1.0, 10, 32).expect("usual");
    let made = checkpoint(&network, &"0".repeat(17), 1);
    let kept: Vec<String> = shapes(&fuse(&made).expect("fuses"))
        .into_iter()
        .filter(|(name, _)| name.contains(".conv."))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(kept, ["features.1.conv.0.0", "features.1.conv.1"]);
    let fewest = fuse_with(&made, &FuseConfig::FEWEST).expect("fuses");
    assert!(shapes(&fewest).iter().all(|(name, _)| !name.contains(".conv.")));

    let network = Network::new(Architecture::ResNet50, 0.25, 10, 32).expect("usual");
    let made = checkpoint(&network, &"0".repeat(16), 1);
    let [cheap, fewest] = [FuseConfig::COPRIV, FuseConfig::FEWEST]
        .map(|config| convolutions(&fuse_with(&made, &config).expect("fuses")));
    // As one, a bottleneck multiplies many times more. The first 1x1 of a stage does pay inside the 3x3 at
    // stride 2 behind it, as it would run on the larger map; so it does where nothing is narrow.
    assert_eq!((cheap, fewest), (50, 18), "54 unfused, 18 with one for each block");
}

#[test]
fn padded_3x3_kernels_in_a_row_merge_only_where_the_border_does_not_show() {
    let fewest = |resolution| {
        let network = Network::new(Architecture::ResNet20, 0.5, 10, resolution).expect("usual");
        let made = checkpoint(&network, &"0".repeat(9), 1);
        assert_equal(&network, &"0".repeat(9), 3);
        shapes(&fuse_with(&made, &FuseConfig::FEWEST).expect("fuses"))
    };
    assert!(fewest(32).iter().all(|(_, geometry)| geometry.kernel <= 3));
    // 33 is odd: 3x3 at stride 2 and the 3x3 after it are one, the 1x1 shortcut beside them included.
    let strided = ConvGeometry { padding: 3, ..ConvGeometry::same(8, 16, 7, 2) };
    assert!(fewest(33).contains(&("layer2.0".into(), strided)));
}

#[test]
fn runs_go_on_across_blocks_without_an_activation_between() {
    let network = Network::new(Architecture::MobileNetV2, 0.5, 10, 32)
        .expect("usual")
        .with_final_activation(false);
    // Blocks 6 and 7 have shortcuts; 5 ends, and 8 begins, with a 1x1 convolution.
    let made = checkpoint(&network, "11110001111111111", 1);
    let fused = fuse_with(&made, &FuseConfig::FEWEST).expect("fuses");
    let names: Vec<String> = shapes(&fused).into_iter().map(|(name, _)| name).collect();
    // The project 1x1 of each block vanishes in the next one's expand 1x1 unless a shortcut needs it.
    assert!(names.contains(&"features.8.conv.0.0".into()));
    assert!(!names.contains(&"features.1.conv.1".into()), "{names:?}");
    let apart = fuse(&made).expect("fuses");
    assert!(convolutions(&fused) < convolutions(&apart));
    let image = random_image(&network, &mut ChaCha8Rng::seed_from_u64(3));
    assert!(distance(&made, &fused, &image) < 1e-4);
}

/// What the trainer's loss charges a removed block is what the fused block costs.
#[test]
fn fused_blocks_cost_what_the_loss_charges() {
    for (architecture, width) in [
        (Architecture::MobileNetV2, 0.5),
        (Architecture::ResNet20, 1.0),
        (Architecture::ResNet18, 0.25),
    ] {
        let network = Network::new(architecture, width, 10, 32).expect("usual");
        let gates = network.graph().blocks().len();
        let fused = fuse(&checkpoint(&network, &"0".repeat(gates), 1)).expect("fuses");
        let method = oracle::Method::WinogradStride2;
        let layers = oracle::layer_costs(&oracle::Oracle::PAPER, method, &fused);
        for (block, cost) in oracle::block_costs(&network).iter().enumerate() {
            let of_block = fused.layers().iter().zip(&layers);
            let found: f64 = of_block
                .filter(|(layer, _)| layer.block == Some(block))
                .map(|(_, cost)| cost.total())
                .sum();
            let expected = cost.after.total();
            assert!((found / expected - 1.0).abs() < 1e-12, "{network}, block {block}");
        }
    }
}

/// What training takes to be one convolution is one, of the same name.
#[test]
fn convolutions_merge_where_the_oracle_says() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut cut_blocks = 0;
    for (architecture, width, layer_gates) in [
        (Architecture::MobileNetV2, 0.25, false),
        (Architecture::MobileNetV2, 1.0, false),
        (Architecture::MobileNetV2, 0.5, true),
        (Architecture::ResNet20, 0.5, false),
        (Architecture::ResNet18, 0.125, true),
        (Architecture::ResNet50, 0.125, false),
        (Architecture::ResNet50, 0.25, true),
    ] {
        let network = Network::new(architecture, width, 10, 32).expect("usual");
        let network = network.with_layer_gates(layer_gates);
        let graph = network.graph();
        for _ in 0..4 {
            let mask = random_mask(&network, &mut random);
            let made = checkpoint(&network, &mask, 1);
            let merged = oracle::merged_stretches(&network, made.gates());
            let has_weights =
                |id: &usize| matches!(graph.nodes()[*id].op, Op::Conv(_) | Op::Linear { .. });
            let all = (0..graph.nodes().len()).filter(has_weights).count();
            let gone = |stretch: &oracle::MergedStretch| {
                stretch.nodes.clone().filter(has_weights).count() - 1
            };
            let gone: usize = merged.iter().map(gone).sum();
            let fused = fuse(&made).expect("fuses");
            assert_eq!(convolutions(&fused), all - gone, "{network}, {mask}");

            let is_apart = |id: &usize| !merged.iter().any(|stretch| stretch.nodes.contains(id));
            let of_node = |id: usize| match graph.nodes()[id].op {
                Op::Conv(geometry) => Some((graph.nodes()[id].name.clone(), geometry)),
                _ => None,
            };
            let apart = (0..graph.nodes().len()).filter(is_apart).filter_map(of_node);
            let one = merged.iter().map(|stretch| (stretch.name.clone(), stretch.geometry));
            let expected: BTreeMap<String, ConvGeometry> = apart.chain(one).collect();
            let of_layer = |layer: &FusedLayer| match layer.op {
                FusedOp::Conv(geometry) => Some((layer.name.clone(), geometry)),
                _ => None,
            };
            let mut found: BTreeMap<String, ConvGeometry> =
                fused.layers().iter().filter_map(of_layer).collect();
            // Fully connected, no convolution of the network.
            found.remove(&fused.layers().last().expect("logits").name);
            assert_eq!(found, expected, "{network}, {mask}");
            let adds = |id: &usize| graph.nodes()[*id].op == Op::Add;
            let adds = (0..graph.nodes().len()).filter(is_apart).filter(adds).count();
            let found = fused.layers().iter().filter(|layer| layer.op == FusedOp::Add).count();
            assert_eq!(found, adds, "{network}, {mask}");
            let is_block = |name: &String| graph.blocks().iter().any(|block| block.name == *name);
            cut_blocks += merged.iter().filter(|stretch| !is_block(&stretch.name)).count();
        }
    }
    assert!(cut_blocks > 0, "bottlenecks merge in part");
}

#[test]
fn fusing_depends_on_the_checkpoint_alone() {
    let network = Network::new(Architecture::MobileNetV2, 0.25, 10, 32).expect("usual");
    let checkpoint = checkpoint(&network, "00000000000000000", 1);
    let (one, two) = (fuse(&checkpoint).expect("fuses"), fuse(&checkpoint).expect("fuses"));
    assert_eq!(one.digest(), two.digest());
    assert_eq!(one.provenance().parent, Some(checkpoint.digest()));
}

#[test]
fn parameters_beyond_single_precision_are_an_error() {
    let network = Network::new(Architecture::ResNet20, 0.5, 10, 32).expect("usual");
    let made = checkpoint(&network, "111111111", 1);
    let mut tensors = made.tensors().clone();
    for (name, tensor) in tensors.iter_mut().filter(|(name, _)| name.starts_with("layer1.0")) {
        if name.ends_with("conv1.weight") || name.ends_with("bn1.weight") {
            tensor.data_mut().fill(1e38);
        }
    }
    let provenance = made.provenance().clone();
    let made = Checkpoint::new(network, made.gates().clone(), tensors, provenance);
    let error = fuse(&made.expect("finite")).expect_err("1e38 squared");
    assert_eq!(
        error.to_string(),
        "the fused parameters of layer1.0.conv1 are beyond single precision"
    );
}

#[test]
fn verification_tells_equal_from_different() {
    let network = Network::new(Architecture::MobileNetV2, 0.25, 10, 32).expect("usual");
    let (one, other) = (
        checkpoint(&network, "01011001110001110", 1),
        checkpoint(&network, "01011001110001110", 2),
    );
    let fused = fuse(&one).expect("fuses");

    let good = verify_random(&one, &fused, 4, 9);
    assert!(good.is_good(), "{good}");
    assert_eq!((good.images, good.same_class), (4, 4));
    assert_eq!(verify_random(&one, &fused, 4, 9), good);

    let bad = verify_random(&other, &fused, 4, 9);
    assert!(!bad.is_good() && bad.max_rel > 0.1, "{bad}");

    let noise = random_image(&network, &mut ChaCha8Rng::seed_from_u64(3));
    let own = verify(&one, &fused, &[noise]);
    assert!(own.is_good() && own.images == 1, "{own}");
}
