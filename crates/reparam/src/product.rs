//! Matrix products in double precision, of matrices that lie scattered in a tensor.

/// A matrix in a slice: entry `(i, j)` at `i row + j column`.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) values: &'a [f64],
    pub(crate) row: usize,
    pub(crate) column: usize,
}

/// The same, to be written.
pub(crate) struct ViewMut<'a> {
    pub(crate) values: &'a mut [f64],
    pub(crate) row: usize,
    pub(crate) column: usize,
}

impl<'a> View<'a> {
    /// Rows of this length, one after the other.
    pub(crate) fn rows(values: &'a [f64], length: usize) -> Self {
        Self { values, row: length, column: 1 }
    }
}

impl<'a> ViewMut<'a> {
    /// Rows of this length, one after the other.
    pub(crate) fn rows(values: &'a mut [f64], length: usize) -> Self {
        Self { values, row: length, column: 1 }
    }
}

/// `c += a b` for `a` of `m x k`, `b` of `k x n` and `c` of `m x n`.
///
/// # Panics
/// Where a matrix does not lie within its slice, or entries of `c` share a place.
pub(crate) fn add_product([m, k, n]: [usize; 3], a: View, b: View, c: ViewMut) {
    if m == 0 || k == 0 || n == 0 {
        return;
    }
    let last = |rows: usize, row: usize, columns: usize, column: usize| {
        (rows - 1) * row + (columns - 1) * column
    };
    assert!(last(m, a.row, k, a.column) < a.values.len(), "left factor");
    assert!(last(k, b.row, n, b.column) < b.values.len(), "right factor");
    assert!(last(m, c.row, n, c.column) < c.values.len(), "product");
    assert!(c.column > 0 && (n - 1) * c.column < c.row, "rows of the product lie apart");
    // SAFETY: every entry that the strides reach lies within its slice, as asserted; no stride is large
    // enough to wrap, and `c` is borrowed exclusively, its entries at distinct places.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.values.as_mut_ptr(),
            c.column as isize,
            c.row as isize,
            true,
            a.values.as_ptr(),
            a.column as isize,
            a.row as isize,
            b.values.as_ptr(),
            b.column as isize,
            b.row as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scattered_matrices_multiply_like_others() {
        // (1 2; 3 4) (5 6; 7 8), the left one column by column, the right one with gaps.
        let a = View { values: &[1.0, 3.0, 2.0, 4.0], row: 1, column: 2 };
        let b = View { values: &[5.0, 0.0, 6.0, 0.0, 7.0, 0.0, 8.0], row: 4, column: 2 };
        let mut values = [1.0; 8];
        add_product([2, 2, 2], a, b, ViewMut { values: &mut values[1..], row: 4, column: 2 });
        assert_eq!(values, [1.0, 20.0, 1.0, 23.0, 1.0, 44.0, 1.0, 51.0]);
        let a = View::rows(&[1.0, 2.0], 2);
        add_product([1, 2, 1], a, View::rows(&[3.0, 4.0], 1), ViewMut::rows(&mut values, 1));
        assert_eq!(values[0], 12.0);
    }

    #[test]
    #[should_panic(expected = "right factor")]
    fn a_matrix_beyond_its_slice_is_refused() {
        let mut c = [0.0; 4];
        let a = View::rows(&[1.0; 4], 2);
        add_product([2, 2, 2], a, View::rows(&[1.0; 3], 2), ViewMut::rows(&mut c, 2));
    }
}
