//! Who starts next. Pure: it sees numbers, no generations and no clock.

/// Generations that may start before an older one whose model waits for room. Beyond it nobody starts until that model has its place:
/// without a bound a hot model would never leave memory, and a cold one never enter it.
pub(super) const MAX_PASSED_OVER: u32 = 16;

/// What an applicant's model is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weights {
    Resident,
    /// On the way, or next to be.
    Coming,
    /// Could come if something in use went.
    NeedRoom,
}

/// A waiting generation, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Applicant {
    pub(super) weights: Weights,
    pub(super) images: u32,
    pub(super) passed_over: u32,
}

/// Indices of those that start now, oldest first, with `free_images` places. A cold model holds up nobody else's; a request that is too large
/// for the places left is not overtaken, or small ones could keep it out for ever.
pub(super) fn admit(applicants: &[Applicant], mut free_images: u32) -> Vec<usize> {
    let mut admitted = Vec::new();
    for (index, applicant) in applicants.iter().enumerate() {
        match applicant.weights {
            Weights::Coming => {}
            Weights::NeedRoom if applicant.passed_over >= MAX_PASSED_OVER => break,
            Weights::NeedRoom => {}
            Weights::Resident if applicant.images > free_images => break,
            Weights::Resident => {
                free_images -= applicant.images;
                admitted.push(index);
            }
        }
    }
    admitted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applicant(weights: Weights, images: u32) -> Applicant {
        Applicant { weights, images, passed_over: 0 }
    }

    #[test]
    fn oldest_start_first_while_there_are_places() {
        let applicants = [applicant(Weights::Resident, 2), applicant(Weights::Resident, 1), applicant(Weights::Resident, 1)];
        assert_eq!(admit(&applicants, 3), [0, 1]);
        assert_eq!(admit(&applicants, 0), [0_usize; 0]);
    }

    #[test]
    fn large_request_is_not_overtaken() {
        let applicants = [applicant(Weights::Resident, 4), applicant(Weights::Resident, 1)];
        assert_eq!(admit(&applicants, 3), [0_usize; 0]);
    }

    #[test]
    fn cold_model_holds_up_nobody() {
        let applicants = [applicant(Weights::Coming, 1), applicant(Weights::NeedRoom, 1), applicant(Weights::Resident, 1)];
        assert_eq!(admit(&applicants, 4), [2]);
    }

    #[test]
    fn model_that_needs_room_is_passed_over_only_so_often() {
        let mut applicants = [applicant(Weights::Resident, 1), applicant(Weights::NeedRoom, 1), applicant(Weights::Resident, 1)];
        applicants[1].passed_over = MAX_PASSED_OVER - 1;
        assert_eq!(admit(&applicants, 4), [0, 2]);
        applicants[1].passed_over = MAX_PASSED_OVER;
        assert_eq!(admit(&applicants, 4), [0]);
    }
}
