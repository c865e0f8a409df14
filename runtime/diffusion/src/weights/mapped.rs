//! One part of a model in a file that names its tensors otherwise: a view over the mapped file, no second copy of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::key_map::{Arrangement, Layout, Original};
use super::{Mismatch, SafetensorsFolder, StoredDtype, TensorIndex, TensorInfo, WeightSource, WeightsError};

/// A part of a file, by the paths that its network asks for.
#[derive(Debug)]
pub struct MappedPart {
    file: Arc<SafetensorsFolder>,
    index: TensorIndex,
    originals: BTreeMap<String, Original>,
}

impl MappedPart {
    /// Finds all that a network asks for, by path and shape. Of `layouts`, which are not empty, the one that fits best counts.
    ///
    /// # Errors
    /// [`WeightsError::Mismatch`] with every tensor that is missing, misshapen or of another kind, by its name in the file.
    pub fn new(file: &Arc<SafetensorsFolder>, layouts: &[Layout], asked: &[(String, Vec<usize>)]) -> Result<Self, WeightsError> {
        let fits = layouts.iter().map(|layout| Fit::of(file.index(), *layout, asked));
        let best = fits.min_by_key(|fit| fit.mismatch.len()).unwrap_or_default();
        best.mismatch.into_result()?;
        Ok(Self { file: Arc::clone(file), index: file.index().view(best.infos), originals: best.originals })
    }

    /// Whether the file has any tensor of the part in this layout.
    pub fn answers(index: &TensorIndex, layout: Layout, asked: &[(String, Vec<usize>)]) -> bool {
        let paths: Vec<&str> = asked.iter().map(|(path, _)| path.as_str()).collect();
        layout.originals(&paths).into_iter().flatten().any(|original| index.get(&original.name).is_some())
    }

    /// Names of the tensors that are used, as the file has them.
    pub fn used(&self) -> impl Iterator<Item = &str> {
        self.originals.values().map(|original| original.name.as_str())
    }
}

/// How a file answers in one layout.
#[derive(Debug, Default)]
struct Fit {
    originals: BTreeMap<String, Original>,
    infos: BTreeMap<String, TensorInfo>,
    mismatch: Mismatch,
}

impl Fit {
    fn of(index: &TensorIndex, layout: Layout, asked: &[(String, Vec<usize>)]) -> Self {
        let paths: Vec<&str> = asked.iter().map(|(path, _)| path.as_str()).collect();
        let mut fit = Self::default();
        for ((path, shape), original) in asked.iter().zip(layout.originals(&paths)) {
            // What the layout has no name for is missing under its path.
            let original = original.unwrap_or_else(|| Original { name: path.clone(), arrangement: Arrangement::Same });
            if let Some(info) = fit.found(index, &original, shape) {
                fit.infos.insert(path.clone(), info);
                fit.originals.insert(path.clone(), original);
            }
        }
        fit
    }

    fn found(&mut self, index: &TensorIndex, original: &Original, shape: &[usize]) -> Option<TensorInfo> {
        let Some(stored) = index.get(&original.name) else {
            if original.arrangement == Arrangement::IdentityIfAbsent {
                return Some(TensorInfo { dtype: StoredDtype::F32, shape: shape.to_vec(), file: 0, range: 0..0 });
            }
            self.mismatch.missing.push(original.name.clone());
            return None;
        };
        if !original.arrangement.fits(&stored.shape, shape) {
            let expected = original.arrangement.original_shape(shape);
            self.mismatch.shapes.push((original.name.clone(), expected, stored.shape.clone()));
            return None;
        }
        if !stored.dtype.is_weight() {
            self.mismatch.dtypes.push((original.name.clone(), stored.dtype));
            return None;
        }
        let mut range = stored.range.clone();
        if let Arrangement::Rows { first, count, of } = original.arrangement {
            // Rows lie one behind another, so a part of them is a stretch of bytes; the shapes above divide.
            let part = (range.end - range.start) / of as u64;
            let begin = range.start + part * first as u64;
            range = begin..begin + part * count as u64;
        }
        Some(TensorInfo { dtype: stored.dtype, shape: shape.to_vec(), file: stored.file, range })
    }
}

impl WeightSource for MappedPart {
    fn index(&self) -> &TensorIndex {
        &self.index
    }

    fn tensor(&self, path: &str, shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor, WeightsError> {
        let info = self.index.expect(path, shape)?;
        let missing = || WeightsError::Missing { names: vec![path.to_owned()] };
        let Original { name, arrangement } = self.originals.get(path).ok_or_else(missing)?;
        let read = |info: &TensorInfo, device: &Device| self.file.read(name, info, dtype, device);
        let failed = |source| WeightsError::Tensor { name: name.clone(), source };
        match arrangement {
            Arrangement::IdentityIfAbsent if info.range.is_empty() => identity(shape, dtype, device).map_err(failed),
            Arrangement::Same | Arrangement::Rows { .. } | Arrangement::Pointwise | Arrangement::IdentityIfAbsent => read(info, device),
            Arrangement::Transposed => {
                let stored = TensorInfo { shape: arrangement.original_shape(shape), ..info.clone() };
                let transposed = read(&stored, &Device::Cpu)?.t().and_then(|view| view.contiguous()?.to_device(device));
                transposed.map_err(failed)
            }
            Arrangement::HalvesSwapped => {
                let stored = read(info, &Device::Cpu)?;
                let swapped = || {
                    let half = stored.dim(0)? / 2;
                    Tensor::cat(&[stored.narrow(0, half, half)?, stored.narrow(0, 0, half)?], 0)?.to_device(device)
                };
                swapped().map_err(failed)
            }
        }
    }
}

fn identity(shape: &[usize], dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
    match *shape {
        [rows, columns] if rows == columns => Tensor::eye(rows, dtype, device),
        _ => candle_core::bail!("a matrix of shape {shape:?} has no diagonal of ones"),
    }
}
