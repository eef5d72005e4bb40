//! Where the inputs, kernels and outputs of a convolution stand in polynomials.
//!
//! An input polynomial (a *chunk*) carries a window of several channels, one block of `M` coefficients a channel,
//! rows of `S`. A weight stands at `K - c M - (dy S + dx)`, `K = (C - 1) M + (k - 1) S + k - 1` for `C` channels a
//! chunk, so that output `(y, x)` is coefficient `K + stride (y S + x)` of the product and no term that reaches it
//! wraps around. Where a map fits one polynomial, the padding to the right of a row is that to the left of the
//! next, and the padding below a channel that above the next. Larger maps are cut into *tiles* with explicit halos.

use super::parameters::LatticeSet;
use crate::{ConvGeometry, Shape};
use std::ops::Range;

/// Bits that the choice of layouts takes an own cell, another cell, a tile and what comes back of a product to cost: about
/// right for all rings, and the same for both parties.
#[derive(Clone, Copy)]
pub(super) struct Bits {
    pub own: u64,
    pub full: u64,
    pub tile: u64,
    pub product: u64,
}

impl Bits {
    pub(super) const fn of(set: LatticeSet) -> Self {
        match set {
            // A product is a part of the hint: the same for all tiles.
            LatticeSet::R512x5 | LatticeSet::R512x6 => {
                Self { own: 30, full: 60, tile: 40_000, product: 2560 * 57 }
            }
            LatticeSet::R4096x1 => Self { own: 53, full: 83, tile: 0, product: 4096 * 40 },
        }
    }
}

/// Largest map that has a layout, against hostile sizes.
const MOST_AREA: usize = 1 << 19;

/// The layout of one convolution on one shape of input. A function of public data alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    geometry: ConvGeometry,
    input: Shape,
    /// Coefficients of a polynomial.
    degree: usize,
    /// Output channels that share a product.
    slots: usize,
    /// Channels of a full chunk.
    chunk_channels: usize,
    /// Coefficients of a row and of a channel, and those that follow the last channel.
    pitch: usize,
    block: usize,
    tail: usize,
    /// Distance of outputs in the window.
    stride: usize,
    tiles: Vec<Tile>,
    /// Own cells of all chunks, and other cells that are sent.
    sent: (u64, u64),
}

/// A part of the output, and the window of the input under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tile {
    cells: Vec<Cell>,
    rows: Range<usize>,
    columns: Range<usize>,
}

/// What stands in one coefficient of a channel's block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// An input, by its position in the channel, that no earlier tile holds: its mask is read off here.
    Own(usize),
    /// An input that an earlier tile holds.
    Twin(usize),
    /// Zero.
    Pad,
    /// Nothing: no output reaches it, and it is not sent.
    Unused,
}

/// The window of the input that one tile of outputs needs.
#[derive(Clone, Copy)]
struct Window {
    rows: usize,
    columns: usize,
}

impl Layout {
    /// The layout in polynomials of a parameter set, with so many output channels to a product; `None` where not even a
    /// single output's window fits a polynomial, where so many channels do not, or the map has more than 2^19 positions.
    #[must_use]
    pub fn new(
        geometry: &ConvGeometry,
        input: Shape,
        set: LatticeSet,
        slots: usize,
    ) -> Option<Self> {
        let frame = Frame::new(geometry, input, set);
        let area = frame.output.area().max(input.area());
        if frame.output.elements() == 0 || area > MOST_AREA || slots > geometry.out_channels {
            return None;
        }
        match slots {
            0 => None,
            1 => frame.whole(1).or_else(|| frame.tiled()),
            _ => frame.whole(slots),
        }
    }

    /// Output channels that share a polynomial of the hint.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Polynomials of the hint.
    #[must_use]
    pub fn polynomials(&self) -> usize {
        self.geometry.out_channels.div_ceil(self.slots)
    }

    /// Number of input polynomials of a tile.
    #[must_use]
    pub fn chunks(&self) -> usize {
        self.input.channels.div_ceil(self.chunk_channels)
    }

    /// Channels of a chunk.
    #[must_use]
    pub fn channels(&self, chunk: usize) -> Range<usize> {
        let first = chunk * self.chunk_channels;
        first..self.input.channels.min(first + self.chunk_channels)
    }

    /// The parts of the output.
    #[must_use]
    pub fn tiles(&self) -> &[Tile] {
        &self.tiles
    }

    /// Coefficients of a chunk that an output may reach: beyond them nothing is sent.
    #[must_use]
    pub fn touched(&self, chunk: usize) -> usize {
        self.channels(chunk).len() * self.block + self.tail_of(chunk)
    }

    /// Zeros after the last channel of a chunk. Where outputs share a product, all the rest, for the kernels of the others
    /// reach it.
    fn tail_of(&self, chunk: usize) -> usize {
        let used = self.channels(chunk).len() * self.block;
        if self.slots == 1 { self.tail } else { self.degree - used }
    }

    /// What stands in the touched coefficients of a chunk, with the channel it belongs to.
    pub fn cells<'a>(
        &'a self,
        tile: &'a Tile,
        chunk: usize,
    ) -> impl Iterator<Item = (usize, Cell)> + 'a {
        let channels = self.channels(chunk);
        let tail = std::iter::repeat_n((channels.end - 1, Cell::Pad), self.tail_of(chunk));
        channels.flat_map(|channel| tile.cells.iter().map(move |&cell| (channel, cell))).chain(tail)
    }

    /// Cells of all chunks whose masks are read off, and other cells that are sent.
    #[must_use]
    pub const fn sent(&self) -> (u64, u64) {
        self.sent
    }

    /// Position in the kernel polynomial of tap `(row, column)` of an input channel for the output channel in a slot.
    #[must_use]
    pub fn weight_at(&self, slot: usize, channel: usize, row: usize, column: usize) -> usize {
        let place = channel % self.chunk_channels * self.block;
        self.first_output(slot) - place - row * self.pitch - column
    }

    /// Chunk of a channel.
    #[must_use]
    pub fn chunk_of(&self, channel: usize) -> usize {
        channel / self.chunk_channels
    }

    /// Coefficient of a tile's first output of the channel in a slot.
    #[must_use]
    pub fn first_output(&self, slot: usize) -> usize {
        let reach = self.geometry.kernel - 1;
        ((slot + 1) * self.chunk_channels - 1) * self.block + reach * (self.pitch + 1)
    }

    /// Distances of a tile's outputs, row by row, from the first one.
    pub fn offsets<'a>(&'a self, tile: &'a Tile) -> impl Iterator<Item = usize> + Clone + 'a {
        let (rows, columns) = (0..tile.rows.len(), tile.columns.len());
        rows.flat_map(move |row| {
            (0..columns).map(move |column| self.stride * (row * self.pitch + column))
        })
    }

    /// Coefficients from a tile's first to its last output.
    #[must_use]
    pub fn span(&self, tile: &Tile) -> usize {
        let last = (tile.rows.len() - 1) * self.pitch + tile.columns.len() - 1;
        self.stride * last + 1
    }

    /// Coefficients from the first output of the first slot to the last one of the last slot.
    #[must_use]
    pub fn reach(&self, tile: &Tile) -> usize {
        (self.slots - 1) * self.chunk_channels * self.block + self.span(tile)
    }

    /// Positions of a tile's outputs in a channel of the output map, in the order of [`Self::offsets`].
    pub fn positions<'a>(&'a self, tile: &'a Tile) -> impl Iterator<Item = usize> + Clone + 'a {
        let width = self.geometry.output_shape(self.input).width;
        let columns = tile.columns.clone();
        tile.rows
            .clone()
            .flat_map(move |row| columns.clone().map(move |column| row * width + column))
    }

    /// Coefficient of a chunk under tap `(row, column)` of a channel for a tile's first output.
    #[must_use]
    pub fn input_at(&self, channel: usize, row: usize, column: usize) -> usize {
        channel % self.chunk_channels * self.block + row * self.pitch + column
    }

    /// The convolution.
    #[must_use]
    pub fn geometry(&self) -> &ConvGeometry {
        &self.geometry
    }

    /// The shape of its input.
    #[must_use]
    pub fn input(&self) -> Shape {
        self.input
    }
}

impl Tile {
    /// Number of outputs in each channel.
    #[must_use]
    pub fn outputs(&self) -> usize {
        self.rows.len() * self.columns.len()
    }
}

/// A convolution as layouts see it: a 1x1 kernel with a stride is one without on the inputs that it meets.
struct Frame<'a> {
    geometry: &'a ConvGeometry,
    input: Shape,
    set: LatticeSet,
    output: Shape,
    stride: usize,
    /// Distance of the inputs that count.
    step: usize,
}

impl<'a> Frame<'a> {
    fn new(geometry: &'a ConvGeometry, input: Shape, set: LatticeSet) -> Self {
        let output = geometry.output_shape(input);
        let pointwise = geometry.kernel == 1;
        let (stride, step) = if pointwise { (1, geometry.stride) } else { (geometry.stride, 1) };
        Self { geometry, input, set, output, stride, step }
    }

    /// Rows and columns of inputs that count.
    fn extent(&self) -> (usize, usize) {
        if self.geometry.kernel == 1 {
            (self.output.height, self.output.width)
        } else {
            (self.input.height, self.input.width)
        }
    }

    /// The input at a row and column in padded coordinates.
    fn source(&self, row: usize, column: usize) -> Option<usize> {
        let padding = self.geometry.padding;
        let (row, column) = (row.checked_sub(padding)?, column.checked_sub(padding)?);
        let (height, width) = self.extent();
        (row < height && column < width)
            .then(|| row * self.step * self.input.width + column * self.step)
    }

    /// The whole map in one polynomial, that many times.
    fn whole(&self, slots: usize) -> Option<Layout> {
        let (height, width) = self.extent();
        let padding = self.geometry.padding;
        let pitch = width + padding;
        let block = (height + padding).checked_mul(pitch)?;
        let tail = padding * pitch + padding;
        let cell = |at: usize| match self.source(at / pitch, at % pitch) {
            Some(input) => Cell::Own(input),
            None => Cell::Pad,
        };
        if block.checked_mul(slots)?.checked_add(tail)? > self.set.degree() {
            return None;
        }
        let (rows, columns) = (0..self.output.height, 0..self.output.width);
        let tile = Tile { cells: (0..block).map(cell).collect(), rows, columns };
        Some(self.layout((pitch, block, tail), slots, vec![tile]))
    }

    /// The cheapest tiling.
    fn tiled(&self) -> Option<Layout> {
        let Shape { height, width, .. } = self.output;
        let degree = self.set.degree();
        let mut best: Option<(u64, (usize, usize))> = None;
        for rows in 1..=height {
            if self.window(rows, 1).cells() > degree {
                break;
            }
            for columns in 1..=width {
                if self.window(rows, columns).cells() > degree {
                    break;
                }
                let price = self.price(rows, columns);
                if best.is_none_or(|(least, _)| price < least) {
                    best = Some((price, (rows, columns)));
                }
            }
        }
        let (_, (rows, columns)) = best?;
        let window = self.window(rows, columns);
        let mut seen = vec![false; self.input.area()];
        let mut tiles = Vec::new();
        for row in (0..height).step_by(rows) {
            for column in (0..width).step_by(columns) {
                let rows = row..height.min(row + rows);
                let columns = column..width.min(column + columns);
                tiles.push(self.tile(window, rows, columns, &mut seen));
            }
        }
        Some(self.layout((window.columns, window.cells(), 0), 1, tiles))
    }

    fn window(&self, rows: usize, columns: usize) -> Window {
        let extent = |outputs: usize| (outputs - 1) * self.stride + self.geometry.kernel;
        Window { rows: extent(rows), columns: extent(columns) }
    }

    /// Bits of all tiles of so many outputs, roughly.
    fn price(&self, rows: usize, columns: usize) -> u64 {
        let Shape { height, width, .. } = self.output;
        let (down, across) = (height.div_ceil(rows), width.div_ceil(columns));
        let side = |outputs: usize, tiles: usize| {
            (outputs - tiles) * self.stride + tiles * self.geometry.kernel
        };
        let cells = side(height, down) * side(width, across);
        let own = (self.extent().0 * self.extent().1).min(cells);
        let bits = Bits::of(self.set);
        let channel = own as u64 * bits.own + (cells - own) as u64 * bits.full;
        let replies = match self.set {
            LatticeSet::REPLY => self.geometry.out_channels as u64 * bits.product,
            _ => 0,
        };
        channel * self.input.channels as u64 + (down * across) as u64 * (bits.tile + replies)
    }

    fn tile(
        &self,
        window: Window,
        rows: Range<usize>,
        columns: Range<usize>,
        seen: &mut [bool],
    ) -> Tile {
        let needed = self.window(rows.len(), columns.len());
        let (top, left) = (rows.start * self.stride, columns.start * self.stride);
        let mut cell = |at: usize| {
            let (row, column) = (at / window.columns, at % window.columns);
            if row >= needed.rows || column >= needed.columns {
                return Cell::Unused;
            }
            match self.source(top + row, left + column) {
                None => Cell::Pad,
                Some(input) if std::mem::replace(&mut seen[input], true) => Cell::Twin(input),
                Some(input) => Cell::Own(input),
            }
        };
        Tile { cells: (0..window.cells()).map(&mut cell).collect(), rows, columns }
    }

    fn layout(
        &self,
        (pitch, block, tail): (usize, usize, usize),
        slots: usize,
        tiles: Vec<Tile>,
    ) -> Layout {
        let mut layout = Layout {
            geometry: *self.geometry,
            input: self.input,
            degree: self.set.degree(),
            slots,
            chunk_channels: ((self.set.degree() - tail) / (block * slots)).min(self.input.channels),
            pitch,
            block,
            tail,
            stride: self.stride,
            sent: (0, 0),
            tiles,
        };
        layout.sent = sent(&layout);
        layout
    }
}

fn sent(layout: &Layout) -> (u64, u64) {
    let (mut own, mut full) = (0, 0);
    for cell in layout.tiles.iter().flat_map(|tile| &tile.cells) {
        match cell {
            Cell::Own(_) => own += 1,
            Cell::Twin(_) | Cell::Pad => full += 1,
            Cell::Unused => {}
        }
    }
    let channels = layout.input.channels as u64;
    let tails: usize = (0..layout.chunks()).map(|chunk| layout.tail_of(chunk)).sum();
    (own * channels, full * channels + (layout.tiles.len() * tails) as u64)
}

impl Window {
    fn cells(self) -> usize {
        self.rows * self.columns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::reference_convolution;
    use proptest::prelude::*;

    /// The convolution by polynomial products, as the layout says; other coefficients hold rubbish.
    fn by_polynomials(layout: &Layout, w: &[i64], x: &[i64]) -> Vec<i64> {
        let ConvGeometry { kernel, groups, .. } = *layout.geometry();
        let [outputs, group_inputs, ..] = layout.geometry().weight_shape();
        let area = layout.geometry().output_shape(layout.input()).area();
        let mut result = vec![0; outputs * area];
        for tile in layout.tiles() {
            for chunk in 0..layout.chunks() {
                let degree = layout.degree;
                let mut poly: Vec<i64> = (0..degree as i64).map(|i| 1000 + i).collect();
                for (at, (channel, cell)) in layout.cells(tile, chunk).enumerate() {
                    match cell {
                        Cell::Own(i) | Cell::Twin(i) => {
                            poly[at] = x[channel * layout.input().area() + i];
                        }
                        Cell::Pad => poly[at] = 0,
                        Cell::Unused => {}
                    }
                }
                for polynomial in 0..layout.polynomials() {
                    let channels = polynomial * layout.slots()..;
                    let channels = channels.take(layout.slots()).take_while(|j| *j < outputs);
                    let mut omega: Vec<(usize, i64)> = Vec::new();
                    for (slot, j) in channels.clone().enumerate() {
                        let first = j / (outputs / groups) * group_inputs;
                        let own = first..first + group_inputs;
                        for c in layout.channels(chunk).filter(|c| own.contains(c)) {
                            for tap in 0..kernel * kernel {
                                let at = layout.weight_at(slot, c, tap / kernel, tap % kernel);
                                let weight = (j * group_inputs + c - first) * kernel * kernel;
                                omega.push((at, w[weight + tap]));
                            }
                        }
                    }
                    for (slot, j) in channels.enumerate() {
                        let places = layout.positions(tile).zip(layout.offsets(tile));
                        for (position, offset) in places {
                            let at = layout.first_output(slot) + offset;
                            assert!(at - layout.first_output(0) < layout.reach(tile));
                            assert!(offset < layout.span(tile) && at < degree);
                            let term = |&(i, weight): &(usize, i64)| {
                                let term = weight * poly[(degree + at - i) % degree];
                                if i <= at { term } else { -term }
                            };
                            let value: i64 = omega.iter().map(term).sum();
                            result[j * area + position] += value;
                        }
                    }
                }
            }
        }
        result
    }

    fn check(geometry: ConvGeometry, input: Shape) {
        for set in [LatticeSet::R512x5, LatticeSet::REPLY] {
            let slots = [1, 2, 3, 7, 20].into_iter();
            let layouts = slots.filter_map(|slots| Layout::new(&geometry, input, set, slots));
            assert_ne!(layouts.map(|layout| check_layout(&layout)).count(), 0);
        }
    }

    fn check_layout(layout: &Layout) {
        let (geometry, input) = (*layout.geometry(), layout.input());
        let x: Vec<i64> = (0..input.elements()).map(|i| (i * 37 % 19) as i64 - 9).collect();
        let w: Vec<i64> =
            (0..geometry.weight_elements()).map(|i| (i * 53 % 17) as i64 - 8).collect();
        let expected = reference_convolution(&geometry, input, &w, &x);
        assert_eq!(by_polynomials(layout, &w, &x), expected, "{geometry} on {input}");
        let own = layout.tiles().iter().flat_map(|tile| &tile.cells);
        let mut own: Vec<_> =
            own.filter_map(|c| if let Cell::Own(i) = c { Some(*i) } else { None }).collect();
        let count = own.len();
        own.sort_unstable();
        own.dedup();
        assert_eq!(own.len(), count, "every mask is read off once");
    }

    #[test]
    fn layers_of_the_usual_networks_come_out_right() {
        for (geometry, size) in [
            (ConvGeometry::same(3, 2, 3, 1), 32),
            (ConvGeometry::same(5, 2, 3, 2), 32),
            (ConvGeometry::same(7, 3, 3, 1), 8),
            (ConvGeometry::same(30, 2, 3, 2), 4),
            (ConvGeometry::same(70, 2, 3, 1), 2),
            (ConvGeometry::same(3, 2, 1, 1), 32),
            (ConvGeometry::same(5, 2, 1, 2), 16),
            (ConvGeometry::depthwise(6, 3, 1), 14),
            (ConvGeometry::depthwise(4, 3, 2), 28),
            (ConvGeometry::same(3, 1, 7, 2), 56),
            (ConvGeometry::fully_connected(700, 2), 1),
        ] {
            check(geometry, Shape::new(geometry.in_channels, size, size));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn any_convolution_comes_out_right(
            (groups, inputs, outputs) in (1usize..=3, 1usize..=4, 1usize..=3),
            (kernel, stride) in (1usize..=5, 1usize..=3),
            (height, width) in (1usize..=26, 1usize..=26),
            padding in 0usize..5,
        ) {
            let (in_channels, out_channels) = (groups * inputs, groups * outputs);
            let padding = padding.min(kernel - 1);
            let geometry =
                ConvGeometry { in_channels, out_channels, kernel, stride, padding, groups };
            let input = Shape::new(in_channels, height, width);
            prop_assume!(geometry.output_shape(input).elements() > 0);
            check(geometry, input);
        }
    }

    #[test]
    fn kernels_that_no_polynomial_holds_have_no_layout() {
        let input = Shape::new(1, 40, 40);
        assert_eq!(
            Layout::new(&ConvGeometry::same(1, 1, 23, 1), input, LatticeSet::R512x5, 1),
            None
        );
        assert!(
            Layout::new(&ConvGeometry::same(1, 1, 21, 1), input, LatticeSet::R512x5, 1).is_some()
        );
    }

    #[test]
    fn a_map_of_one_polynomial_shares_its_padding() {
        let layout = Layout::new(
            &ConvGeometry::same(64, 64, 3, 1),
            Shape::new(64, 8, 8),
            LatticeSet::R512x5,
            1,
        )
        .expect("fits");
        assert_eq!((layout.chunk_channels, layout.chunks(), layout.tiles().len()), (6, 11, 1));
        assert_eq!(layout.sent(), (64 * 64, 64 * 17 + 11 * 10));
        let strips = Layout::new(
            &ConvGeometry::same(3, 8, 1, 1),
            Shape::new(3, 32, 32),
            LatticeSet::R512x5,
            1,
        )
        .expect("fits");
        assert_eq!((strips.tiles().len(), strips.sent()), (2, (3 * 1024, 0)));
    }
}
