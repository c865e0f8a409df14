//! A checked door to `gemm`: strided views of slices, whose bounds are proven before the first pointer is made.

#![expect(unsafe_code, reason = "gemm takes raw pointers; every view is checked against its slice first")]

use gemm::Parallelism;

/// A matrix inside a slice: element (r, c) lies at `r * row_stride + c * column_stride`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strides {
    pub(crate) row: usize,
    pub(crate) column: usize,
}

impl Strides {
    /// Rows one after another, `columns` wide.
    pub(crate) fn row_major(columns: usize) -> Self {
        Self { row: columns, column: 1 }
    }

    /// The transpose of a row-major matrix that is `rows` wide.
    pub(crate) fn transposed(rows: usize) -> Self {
        Self { row: 1, column: rows }
    }

    fn last(self, rows: usize, columns: usize) -> usize {
        (rows - 1) * self.row + (columns - 1) * self.column
    }
}

/// What happens to the destination's old content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    Overwrite,
    Accumulate,
}

/// `destination (+)= scale * left · right` with left [m, k], right [k, n], destination [m, n], all f32.
///
/// # Panics
/// When a view reaches beyond its slice, or destination elements overlap: a mistake of the calling kernel, not of its input.
#[expect(clippy::too_many_arguments, reason = "the signature of a matrix product")]
pub(crate) fn multiply(
    (m, n, k): (usize, usize, usize),
    destination: &mut [f32],
    destination_strides: Strides,
    mode: Destination,
    left: &[f32],
    left_strides: Strides,
    right: &[f32],
    right_strides: Strides,
    scale: f32,
    parallelism: Parallelism,
) {
    if m == 0 || n == 0 {
        return;
    }
    let disjoint = (destination_strides.column == 1 && destination_strides.row >= n)
        || (destination_strides.row == 1 && destination_strides.column >= m)
        || (m == 1 && destination_strides.column >= 1)
        || (n == 1 && destination_strides.row >= 1);
    assert!(disjoint, "the elements of the destination overlap");
    assert!(destination_strides.last(m, n) < destination.len(), "destination out of bounds");
    if k > 0 {
        assert!(left_strides.last(m, k) < left.len(), "left matrix out of bounds");
        assert!(right_strides.last(k, n) < right.len(), "right matrix out of bounds");
    }
    // SAFETY: the last element of each view lies inside its slice (checked above), strides are not negative, and the destination is
    // borrowed exclusively, so it overlaps neither input. Both f32 slices are initialised. Strides fit isize because they index a slice.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            destination.as_mut_ptr(),
            destination_strides.column as isize,
            destination_strides.row as isize,
            mode == Destination::Accumulate,
            left.as_ptr(),
            left_strides.column as isize,
            left_strides.row as isize,
            right.as_ptr(),
            right_strides.column as isize,
            right_strides.row as isize,
            1.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn product_of_transposed_views_is_the_textbook_sum() {
        let left: Vec<f32> = (0..6).map(|i| i as f32).collect();
        let right: Vec<f32> = (0..12).map(|i| (i as f32).sin()).collect();
        let mut out = vec![1.0; 8];
        // left [2, 3] row-major, right stored [4, 3] and read as its transpose [3, 4].
        let shape = (2, 4, 3);
        multiply(
            shape,
            &mut out,
            Strides::row_major(4),
            Destination::Accumulate,
            &left,
            Strides::row_major(3),
            &right,
            Strides::transposed(3),
            2.0,
            Parallelism::None,
        );
        for r in 0..2 {
            for c in 0..4 {
                let sum: f32 = (0..3).map(|i| left[r * 3 + i] * right[c * 3 + i]).sum();
                assert!((out[r * 4 + c] - (1.0 + 2.0 * sum)).abs() < 1e-5);
            }
        }
    }

    #[test]
    #[should_panic(expected = "left matrix out of bounds")]
    fn view_beyond_its_slice_is_refused() {
        let mut out = vec![0.0; 4];
        let views = (Strides::row_major(2), Strides::row_major(2));
        multiply((2, 2, 2), &mut out, views.0, Destination::Overwrite, &[0.0; 3], views.0, &[0.0; 4], views.1, 1.0, Parallelism::None);
    }
}
