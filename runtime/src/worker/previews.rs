//! When an unfinished image is shown. Pure.

/// After which of `evaluations` the `count` previews are made: evenly spaced, never after the last one, which the image itself follows.
/// Fewer where there are not enough evaluations.
pub(super) fn preview_points(evaluations: usize, count: u32) -> Vec<usize> {
    let count = count as usize;
    let mut points: Vec<usize> = (1..=count).map(|index| index * evaluations / (count + 1)).filter(|&point| point > 0).collect();
    points.dedup();
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn previews_are_evenly_spaced() {
        assert_eq!(preview_points(20, 3), [5, 10, 15]);
        assert_eq!(preview_points(20, 1), [10]);
        assert_eq!(preview_points(20, 0), [0_usize; 0]);
    }

    #[test]
    fn no_preview_is_made_twice_or_of_a_finished_image() {
        assert_eq!(preview_points(3, 16), [1, 2]);
        assert_eq!(preview_points(1, 4), [0_usize; 0]);
        assert_eq!(preview_points(0, 4), [0_usize; 0]);
    }
}
