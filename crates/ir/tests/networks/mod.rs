//! The linear layers of the usual networks.

use copriv_ir::{ConvGeometry, Shape};

/// Convolutions and the shapes of their inputs.
pub type Layers = Vec<(ConvGeometry, Shape)>;
pub type Network = (&'static str, fn() -> Layers);

/// Name and layers of the usual networks; the last two are large.
pub const ALL: [Network; 6] = [
    ("mobilenet_v2-fused-32", || mobilenet_v2(32, true)),
    ("resnet18-32", resnet18),
    ("resnet32-32", resnet32),
    ("mobilenet_v2-32", || mobilenet_v2(32, false)),
    ("mobilenet_v2-fused-224", || mobilenet_v2(224, true)),
    ("mobilenet_v2-224", || mobilenet_v2(224, false)),
];

fn square(layers: &mut Layers, geometry: ConvGeometry, size: usize) -> usize {
    layers.push((geometry, Shape::new(geometry.in_channels, size, size)));
    geometry.output_extent(size)
}

fn mobilenet_v2(resolution: usize, fused: bool) -> Layers {
    let stride = if resolution == 224 { 2 } else { 1 };
    let mut layers = Vec::new();
    let mut size = square(&mut layers, ConvGeometry::same(3, 32, 3, stride), resolution);
    let mut channels = 32;
    for (growth, outputs, repeats, first) in [
        (1, 16, 1, 1),
        (6, 24, 2, stride),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ] {
        for number in 0..repeats {
            let stride = if number == 0 { first } else { 1 };
            let wide = channels * growth;
            if fused {
                size = square(&mut layers, ConvGeometry::same(channels, outputs, 3, stride), size);
            } else {
                if growth > 1 {
                    square(&mut layers, ConvGeometry::same(channels, wide, 1, 1), size);
                }
                size = square(&mut layers, ConvGeometry::depthwise(wide, 3, stride), size);
                square(&mut layers, ConvGeometry::same(wide, outputs, 1, 1), size);
            }
            channels = outputs;
        }
    }
    square(&mut layers, ConvGeometry::same(320, 1280, 1, 1), size);
    let classes = if resolution == 224 { 1000 } else { 100 };
    square(&mut layers, ConvGeometry::fully_connected(1280, classes), 1);
    layers
}

fn resnet18() -> Layers {
    resnet((64, 2), &[(64, 1), (128, 2), (256, 2), (512, 2)], (512, 100))
}

fn resnet32() -> Layers {
    resnet((16, 5), &[(16, 1), (32, 2), (64, 2)], (64, 100))
}

fn resnet(
    (stem, blocks): (usize, usize),
    stages: &[(usize, usize)],
    head: (usize, usize),
) -> Layers {
    let mut layers = Vec::new();
    let mut size = square(&mut layers, ConvGeometry::same(3, stem, 3, 1), 32);
    let mut channels = stem;
    for &(outputs, first) in stages {
        for number in 0..blocks {
            let stride = if number == 0 { first } else { 1 };
            if stride != 1 || channels != outputs {
                square(&mut layers, ConvGeometry::same(channels, outputs, 1, stride), size);
            }
            size = square(&mut layers, ConvGeometry::same(channels, outputs, 3, stride), size);
            square(&mut layers, ConvGeometry::same(outputs, outputs, 3, 1), size);
            channels = outputs;
        }
    }
    square(&mut layers, ConvGeometry::fully_connected(head.0, head.1), 1);
    layers
}
