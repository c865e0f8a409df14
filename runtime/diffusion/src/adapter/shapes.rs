//! What makes a patch, from shapes alone: found from a file's header, before anything is read.

use std::collections::BTreeMap;

use super::names::Slot;
use super::patch::PatchKind;
use super::{AdapterError, MAX_ADAPTER_RANK, MAX_PATCH_ELEMENTS};

/// The tensors of one module: the name and shape of each.
#[derive(Clone, Debug)]
pub(super) struct Module {
    /// As the file names it.
    pub(super) name: String,
    pub(super) tensors: BTreeMap<Slot, (String, Vec<usize>)>,
}

/// What a module makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) kind: PatchKind,
    /// By which alpha is divided; `None` where a format has no rank, and alpha then has no meaning.
    pub(super) rank: Option<usize>,
    /// Elements it takes in memory.
    pub(super) elements: u64,
}

impl Module {
    pub(super) fn shape(&self, slot: Slot) -> Option<&[usize]> {
        self.tensors.get(&slot).map(|(_, shape)| shape.as_slice())
    }

    fn has(&self, slot: Slot) -> bool {
        self.tensors.contains_key(&slot)
    }

    fn incomplete(&self, reason: impl Into<String>) -> AdapterError {
        AdapterError::Incomplete { module: self.name.clone(), reason: reason.into() }
    }

    fn misfit(&self, reason: impl Into<String>) -> AdapterError {
        AdapterError::InnerShapes { module: self.name.clone(), reason: reason.into() }
    }

    /// The shape of a tensor that must be there.
    fn need(&self, slot: Slot) -> Result<&[usize], AdapterError> {
        self.shape(slot).ok_or_else(|| self.incomplete(format!("{} is missing", slot.name())))
    }

    /// The two sides of a matrix that must be there.
    fn matrix(&self, slot: Slot) -> Result<(usize, usize), AdapterError> {
        match self.need(slot)? {
            [rows, columns] => Ok((*rows, *columns)),
            shape => Err(self.misfit(format!("{} has shape {shape:?} and must be a matrix", slot.name()))),
        }
    }

    /// Checks all shapes against each other.
    pub(super) fn plan(&self) -> Result<Plan, AdapterError> {
        if let Some((_, (name, shape))) = self.tensors.iter().find(|(_, (_, shape))| shape.contains(&0) || shape.len() > 4) {
            return Err(self.misfit(format!("`{name}` has shape {shape:?}")));
        }
        if let Some(shape) = self.shape(Slot::Alpha).filter(|shape| shape.iter().product::<usize>() != 1) {
            return Err(self.misfit(format!("alpha has shape {shape:?} and must be one number")));
        }
        if self.has(Slot::DoraScale) && self.has(Slot::Magnitude) {
            return Err(self.incomplete("it has two magnitudes"));
        }
        let plans = [
            (PatchKind::LowRank, &[Slot::Down, Slot::Up, Slot::Mid][..]),
            (PatchKind::Hadamard, &[Slot::Hada1A, Slot::Hada1B, Slot::Hada1Core, Slot::Hada2A, Slot::Hada2B, Slot::Hada2Core]),
            (PatchKind::Kronecker, &[Slot::Lokr1, Slot::Lokr1A, Slot::Lokr1B, Slot::Lokr2, Slot::Lokr2A, Slot::Lokr2B, Slot::Lokr2Core]),
            (PatchKind::Full, &[Slot::Full, Slot::FullBias]),
        ];
        let mut kinds = plans.iter().filter(|(_, slots)| slots.iter().any(|slot| self.has(*slot))).map(|(kind, _)| *kind);
        let (Some(kind), None) = (kinds.next(), kinds.next()) else {
            return Err(self.incomplete("it needs the tensors of exactly one format"));
        };
        let (rank, difference) = match kind {
            PatchKind::LowRank => self.low_rank()?,
            PatchKind::Hadamard => self.hadamard()?,
            PatchKind::Kronecker => self.kronecker()?,
            PatchKind::Full => (None, self.need(Slot::Full)?.iter().map(|side| *side as u64).product()),
        };
        if let Some(rank) = rank.filter(|rank| *rank > MAX_ADAPTER_RANK) {
            return Err(AdapterError::Rank { module: self.name.clone(), rank });
        }
        if difference > MAX_PATCH_ELEMENTS {
            return Err(AdapterError::PatchTooLarge { module: self.name.clone(), elements: difference });
        }
        let stored: u64 = self.tensors.values().map(|(_, shape)| shape.iter().map(|side| *side as u64).product::<u64>()).sum();
        // A Hadamard product has no side path that is smaller than itself.
        let elements = if kind == PatchKind::Hadamard { difference } else { stored };
        Ok(Plan { kind, rank, elements })
    }

    /// down [r, K…], up [N, r, 1…], mid [r, r, …] → the rank, and the elements of their product.
    fn low_rank(&self) -> Result<(Option<usize>, u64), AdapterError> {
        let (down, up) = (self.need(Slot::Down)?, self.need(Slot::Up)?);
        let mid = self.shape(Slot::Mid);
        let ([rank, ..], [_, up_rank, rest @ ..]) = (down, up) else {
            return Err(self.misfit(format!("down has shape {down:?}, up has {up:?}")));
        };
        let joins = match mid {
            None => up_rank == rank,
            Some([outer, inner, _, _]) => up_rank == outer && inner == rank,
            Some(_) => false,
        };
        if !joins || down.len() < 2 || rest.iter().any(|side| *side != 1) {
            return Err(self.misfit(format!("down has shape {down:?}, up has {up:?}, mid has {mid:?}")));
        }
        let kernel: u64 = mid.map_or(1, |mid| (mid[2] * mid[3]) as u64);
        let elements = product(&[up[0], product(&down[1..]) as usize]).saturating_mul(kernel);
        Ok((Some(*rank), elements))
    }

    /// w1 = w1_a·w1_b, w2 = w2_a·w2_b, or both with a core between.
    fn hadamard(&self) -> Result<(Option<usize>, u64), AdapterError> {
        let first = self.factors(Slot::Hada1A, Slot::Hada1B, Slot::Hada1Core)?;
        let second = self.factors(Slot::Hada2A, Slot::Hada2B, Slot::Hada2Core)?;
        if (first.outputs, first.features, first.kernel) != (second.outputs, second.features, second.kernel) {
            return Err(self.misfit("w1 and w2 have different shapes"));
        }
        Ok((Some(first.rank), first.elements()))
    }

    /// w1 ⊗ w2, each whole or as factors.
    fn kronecker(&self) -> Result<(Option<usize>, u64), AdapterError> {
        let whole = |slot: Slot, factors: [Slot; 3]| match factors.iter().find(|factor| self.has(**factor)) {
            Some(factor) if self.has(slot) => Err(self.incomplete(format!("it has both {} and {}", slot.name(), factor.name()))),
            Some(_) => Ok(None),
            None => self.need(slot).map(Some),
        };
        let first = match whole(Slot::Lokr1, [Slot::Lokr1A, Slot::Lokr1B, Slot::Lokr1B])? {
            Some(shape) => (None, product(shape)),
            None => {
                let (outputs, rank) = self.matrix(Slot::Lokr1A)?;
                let (inner, features) = self.matrix(Slot::Lokr1B)?;
                if inner != rank {
                    return Err(self.misfit(format!("lokr_w1_a has rank {rank}, lokr_w1_b has {inner}")));
                }
                (Some(rank), product(&[outputs, features]))
            }
        };
        let second = match whole(Slot::Lokr2, [Slot::Lokr2A, Slot::Lokr2B, Slot::Lokr2Core])? {
            Some(shape) => (None, product(shape)),
            None => {
                let factors = self.factors(Slot::Lokr2A, Slot::Lokr2B, Slot::Lokr2Core)?;
                (Some(factors.rank), factors.elements())
            }
        };
        // Where both are factors, LyCORIS divides by the rank of the second one.
        Ok((second.0.or(first.0), first.1.saturating_mul(second.1)))
    }

    /// a [N, r] and b [r, M]; with a core [r, r, h, w] instead a [r, N] and b [r, M].
    fn factors(&self, a: Slot, b: Slot, core: Slot) -> Result<Factors, AdapterError> {
        let (a_shape, b_shape) = (self.matrix(a)?, self.matrix(b)?);
        let misfit = || self.misfit(format!("{} has shape {a_shape:?}, {} has {b_shape:?}", a.name(), b.name()));
        match self.shape(core) {
            None if a_shape.1 == b_shape.0 => Ok(Factors { outputs: a_shape.0, features: b_shape.1, kernel: 1, rank: b_shape.0 }),
            Some([outer, inner, height, width]) if (a_shape.0, b_shape.0) == (*outer, *inner) => {
                Ok(Factors { outputs: a_shape.1, features: b_shape.1, kernel: height * width, rank: b_shape.0 })
            }
            _ => Err(misfit()),
        }
    }
}

/// The sides of a product of factors.
struct Factors {
    outputs: usize,
    features: usize,
    kernel: usize,
    rank: usize,
}

impl Factors {
    fn elements(&self) -> u64 {
        product(&[self.outputs, self.features, self.kernel])
    }
}

/// Saturates: headers may claim anything.
fn product(sides: &[usize]) -> u64 {
    sides.iter().fold(1, |all: u64, side| all.saturating_mul(*side as u64))
}
