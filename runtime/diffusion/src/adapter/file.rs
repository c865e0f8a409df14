//! An adapter's file: opened and checked, inspected, loaded.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde::Serialize;

use super::names::{Slot, split};
use super::patch::{Delta, Magnitude, PatchKind, WeightPatch};
use super::shapes::{Module, Plan};
use super::training_record::TrainingRecord;
use super::{Adapter, AdapterError, MAX_ADAPTER_BYTES, MAX_ADAPTER_TENSORS, matrix};
use crate::family;
use crate::weights::{SafetensorsFolder, StoredDtype, TensorIndex, WeightSource, open_file, sha256_of_file};

/// A file whose header was read and found to be an adapter's.
#[derive(Debug)]
pub struct AdapterFile {
    path: PathBuf,
    weights: SafetensorsFolder,
    modules: Vec<(Module, Plan)>,
    record: TrainingRecord,
    family: Option<&'static str>,
}

/// What an adapter's file holds.
#[derive(Clone, Debug, Serialize)]
pub struct AdapterInspection {
    /// The family it was made for, where names or shapes say so.
    pub family: Option<&'static str>,
    /// Bytes of all tensors, as stored.
    pub bytes: u64,
    /// sha256 of the file, in hex.
    pub digest: String,
    /// In the order of their names.
    pub modules: Vec<ModuleInspection>,
}

/// What acts on one layer.
#[derive(Clone, Debug, Serialize)]
pub struct ModuleInspection {
    /// As the file names it.
    pub name: String,
    /// How its difference is stored.
    pub kind: PatchKind,
    /// Whether it also has DoRA's lengths.
    pub dora: bool,
    /// Its rank, where its format has one.
    pub rank: Option<usize>,
}

impl AdapterFile {
    /// Opens a file and checks all names and shapes against each other; reads no tensor.
    ///
    /// # Errors
    /// [`AdapterError`] naming what is wrong. Pickle files get an answer that says how to convert.
    pub fn open(path: &Path) -> Result<Self, AdapterError> {
        let weights = open_file(path)?;
        let modules = modules(weights.index())?;
        let shapes = |module: &Module| (module.name.clone(), module.shape(Slot::Down).map(<[usize]>::to_vec));
        let names: Vec<_> = modules.iter().map(|(module, _)| shapes(module)).collect();
        let family = family::of_adapter(names.iter().map(|(name, shape)| (name.as_str(), shape.as_deref())));
        let record = TrainingRecord::of(weights.index());
        Ok(Self { path: path.to_path_buf(), weights, modules, record, family })
    }

    /// The family it was made for, where names or shapes say so.
    pub fn family(&self) -> Option<&'static str> {
        self.family
    }

    /// Its tensors, and their bytes as stored.
    pub fn size(&self) -> (usize, u64) {
        (self.weights.index().len(), self.weights.index().bytes())
    }

    /// The sha256 of the file, in hex. Reads everything.
    ///
    /// # Errors
    /// [`AdapterError::Weights`].
    pub fn digest(&self) -> Result<String, AdapterError> {
        Ok(sha256_of_file(&self.path)?)
    }

    /// Bytes its tensors will take in `dtype`.
    pub fn footprint(&self, dtype: DType) -> u64 {
        let elements = self.modules.iter().fold(0_u64, |all, (_, plan)| all.saturating_add(plan.elements));
        elements.saturating_mul(dtype.size_in_bytes() as u64)
    }

    /// What the file holds.
    ///
    /// # Errors
    /// [`AdapterError::Weights`].
    pub fn inspect(&self) -> Result<AdapterInspection, AdapterError> {
        let module = |(module, plan): &(Module, Plan)| ModuleInspection {
            name: module.name.clone(),
            kind: plan.kind,
            dora: module.shape(Slot::DoraScale).or(module.shape(Slot::Magnitude)).is_some(),
            rank: plan.rank,
        };
        Ok(AdapterInspection {
            family: self.family,
            bytes: self.weights.index().bytes(),
            digest: self.digest()?,
            modules: self.modules.iter().map(module).collect(),
        })
    }

    /// Reads the tensors onto `device` in `dtype`. `declared` is the sha256 the file must have, in lowercase hex.
    ///
    /// # Errors
    /// [`AdapterError`] if the file is another one than declared, a value is not finite, or the device refuses a tensor.
    pub fn load(&self, device: &Device, dtype: DType, declared: Option<&str>) -> Result<Adapter, AdapterError> {
        let digest = self.digest()?;
        if let Some(declared) = declared.filter(|declared| *declared != digest) {
            return Err(AdapterError::Digest { found: digest, declared: declared.to_owned() });
        }
        let load = |(module, plan): &(Module, Plan)| Ok((module.name.clone(), self.patch(module, plan, device, dtype)?));
        let modules = self.modules.iter().map(load).collect::<Result<Vec<_>, AdapterError>>()?;
        Ok(Adapter { digest, family: self.family, modules, bytes: self.footprint(dtype), bindings: std::sync::Mutex::default() })
    }

    /// Reads one module. Dense products are made in f32 on the CPU and rounded once.
    fn patch(&self, module: &Module, plan: &Plan, device: &Device, dtype: DType) -> Result<WeightPatch, AdapterError> {
        let read = |slot: Slot| module.tensors.get(&slot).map(|(name, shape)| self.read(name, shape)).transpose();
        let need = |slot: Slot| read(slot)?.ok_or_else(|| missing(module, slot));
        // LyCORIS turns the outer factor around where there is a core.
        let factor_product = |a: Slot, core: Slot, b: Slot| {
            let core = read(core)?;
            let a = if core.is_some() { need(a)?.t()?.contiguous()? } else { need(a)? };
            Ok::<_, AdapterError>(matrix::product(&a, core.as_ref(), &need(b)?)?)
        };
        let delta = match plan.kind {
            PatchKind::LowRank => Delta::LowRank { down: need(Slot::Down)?, mid: read(Slot::Mid)?, up: need(Slot::Up)? },
            PatchKind::Hadamard => {
                let first = factor_product(Slot::Hada1A, Slot::Hada1Core, Slot::Hada1B)?;
                Delta::Dense((first * factor_product(Slot::Hada2A, Slot::Hada2Core, Slot::Hada2B)?)?)
            }
            PatchKind::Kronecker => {
                let left = match read(Slot::Lokr1)? {
                    Some(whole) => whole.flatten_from(1)?,
                    None => need(Slot::Lokr1A)?.matmul(&need(Slot::Lokr1B)?)?,
                };
                let right = match read(Slot::Lokr2)? {
                    Some(whole) => whole,
                    None => factor_product(Slot::Lokr2A, Slot::Lokr2Core, Slot::Lokr2B)?,
                };
                Delta::Kronecker { left, right }
            }
            PatchKind::Full => Delta::Dense(need(Slot::Full)?),
        };
        let factor = match (read(Slot::Alpha)?, plan.rank) {
            (Some(alpha), Some(rank)) => f64::from(alpha.flatten_all()?.to_vec1::<f32>()?.first().copied().unwrap_or(1.0)) / rank as f64,
            (None, Some(rank)) if plan.kind == PatchKind::LowRank => self.record.factor(&module.name, rank).unwrap_or(1.0),
            _ => 1.0,
        };
        let bias = read(Slot::FullBias)?.map(|bias| bias.flatten_all()?.to_dtype(dtype)?.to_device(device)).transpose()?;
        let lengths = |tensor: Tensor| tensor.flatten_all()?.to_device(device);
        let magnitude = match read(Slot::Magnitude)? {
            Some(found) => Some(Magnitude { lengths: lengths(found)?, shaped_for_inputs: false }),
            None => read(Slot::DoraScale)?
                .map(|found| {
                    let shaped_for_inputs = matches!(found.dims(), [1, features, ..] if *features > 1);
                    Ok::<_, AdapterError>(Magnitude { lengths: lengths(found)?, shaped_for_inputs })
                })
                .transpose()?,
        };
        Ok(WeightPatch { delta: delta.to(device, dtype)?, factor, bias, magnitude })
    }

    /// One tensor in f32 on the CPU, all of its values finite.
    fn read(&self, name: &str, shape: &[usize]) -> Result<Tensor, AdapterError> {
        Ok(self.weights.tensor(name, shape, DType::F32, &Device::Cpu)?)
    }
}

fn missing(module: &Module, slot: Slot) -> AdapterError {
    AdapterError::Incomplete { module: module.name.clone(), reason: format!("{} is missing", slot.name()) }
}

/// The modules of a file, each with what it makes.
fn modules(index: &TensorIndex) -> Result<Vec<(Module, Plan)>, AdapterError> {
    if index.is_empty() {
        return Err(AdapterError::Empty);
    }
    if index.len() > MAX_ADAPTER_TENSORS {
        return Err(AdapterError::TooManyTensors { count: index.len() });
    }
    if index.bytes() > MAX_ADAPTER_BYTES {
        return Err(AdapterError::TooLarge { bytes: index.bytes() });
    }
    let mut modules: BTreeMap<&str, Module> = BTreeMap::new();
    for (name, info) in index.iter() {
        let (module, slot) = split(name)?;
        if !matches!(info.dtype, StoredDtype::F16 | StoredDtype::BF16 | StoredDtype::F32) {
            return Err(AdapterError::StoredDtype { name: name.to_owned(), found: info.dtype });
        }
        let entry = modules.entry(module).or_insert_with(|| Module { name: module.to_owned(), tensors: BTreeMap::new() });
        if entry.tensors.insert(slot, (name.to_owned(), info.shape.clone())).is_some() {
            return Err(AdapterError::Twice { module: module.to_owned(), part: slot.name() });
        }
    }
    modules.into_values().map(|module| module.plan().map(|plan| (module, plan))).collect()
}
