//! Sizes and scores as numbers: what the reference's pipelines call `add_time_ids`. They differ in what they fall back to.

use crate::conditioning::Description;
use crate::guidance::Branch;

/// Which numbers a network is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MicroIds {
    /// Original size, place of the cut, target size.
    Sizes,
    /// Original size, place of the cut, aesthetic score.
    SizeAndScore,
}

impl MicroIds {
    pub(super) const ALL: [Self; 2] = [Self::Sizes, Self::SizeAndScore];

    pub(super) fn count(self) -> usize {
        match self {
            Self::Sizes => 6,
            Self::SizeAndScore => 5,
        }
    }

    /// Sizes are height, width; places top, left.
    pub(super) fn of(self, asked: &Description<'_>) -> Vec<f32> {
        let micro = asked.micro;
        let original = micro.original_size.unwrap_or(asked.size);
        let target = micro.target_size.unwrap_or(asked.size);
        let positive = (original, micro.crops_coords_top_left, target, micro.aesthetic_score);
        let (original, crop, target, score) = match (asked.branch, asked.from_picture) {
            (Branch::Positive, _) => positive,
            // All that is negative counts, or nothing.
            (Branch::Negative, false) => match (micro.negative_original_size, micro.negative_target_size) {
                (Some(original), Some(target)) => (original, micro.negative_crops_coords_top_left, target, micro.aesthetic_score),
                _ => positive,
            },
            (Branch::Negative, true) => {
                // Where there is no score, the reference passes over the negative place.
                let crop = match self {
                    Self::Sizes => micro.crops_coords_top_left,
                    Self::SizeAndScore => micro.negative_crops_coords_top_left,
                };
                let original = micro.negative_original_size.unwrap_or(original);
                (original, crop, micro.negative_target_size.unwrap_or(target), micro.negative_aesthetic_score)
            }
        };
        let sides = [original, crop].concat().into_iter().map(|side| side as f32);
        match self {
            Self::Sizes => sides.chain(target.map(|side| side as f32)).collect(),
            Self::SizeAndScore => sides.chain([score as f32]).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conditioning::MicroConditioning;
    use crate::text::{PromptSyntax, RequestWords};

    fn ids(kind: MicroIds, branch: Branch, from_picture: bool, micro: &MicroConditioning) -> Vec<f32> {
        let words = RequestWords::new(Vec::new());
        kind.of(&Description {
            branch,
            prompts: [None; 3],
            syntax: PromptSyntax::Plain,
            words: &words,
            clip_skip: 0,
            max_sequence_length: None,
            size: [64, 128],
            from_picture,
            micro,
        })
    }

    #[test]
    fn what_is_not_said_is_the_images_own() {
        let usual = MicroConditioning::default();
        for branch in [Branch::Positive, Branch::Negative] {
            for from_picture in [false, true] {
                assert_eq!(ids(MicroIds::Sizes, branch, from_picture, &usual), [64.0, 128.0, 0.0, 0.0, 64.0, 128.0]);
            }
        }
        assert_eq!(ids(MicroIds::SizeAndScore, Branch::Positive, true, &usual), [64.0, 128.0, 0.0, 0.0, 6.0]);
        assert_eq!(ids(MicroIds::SizeAndScore, Branch::Negative, true, &usual), [64.0, 128.0, 0.0, 0.0, 2.5]);
    }

    #[test]
    fn negative_sizes_count_together_without_a_picture_and_one_by_one_with_one() {
        let one = MicroConditioning {
            original_size: Some([1, 2]),
            crops_coords_top_left: [3, 4],
            target_size: Some([5, 6]),
            negative_original_size: Some([7, 8]),
            negative_crops_coords_top_left: [9, 10],
            ..MicroConditioning::default()
        };
        let both = MicroConditioning { negative_target_size: Some([11, 12]), ..one.clone() };
        let negative = |from_picture, micro| ids(MicroIds::Sizes, Branch::Negative, from_picture, micro);
        assert_eq!(ids(MicroIds::Sizes, Branch::Positive, false, &both), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(negative(false, &one), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(negative(false, &both), [7.0, 8.0, 9.0, 10.0, 11.0, 12.0]);
        assert_eq!(negative(true, &one), [7.0, 8.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(ids(MicroIds::SizeAndScore, Branch::Negative, true, &one), [7.0, 8.0, 9.0, 10.0, 2.5]);
    }
}
