//! What a state dict's pickle names: tensors, the storages they lie in, and the few things that it may call.

/// How a storage's bytes are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ElementType {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// 16-bit floats with 8 bits of exponent.
    BF16,
    /// 64-bit floats.
    F64,
    /// 64-bit integers.
    I64,
}

impl ElementType {
    /// Bytes per value.
    pub fn size(self) -> usize {
        match self {
            Self::F16 | Self::BF16 => 2,
            Self::F32 => 4,
            Self::F64 | Self::I64 => 8,
        }
    }

    fn of_storage(name: &str) -> Option<Self> {
        Some(match name {
            "FloatStorage" => Self::F32,
            "HalfStorage" => Self::F16,
            "BFloat16Storage" => Self::BF16,
            "DoubleStorage" => Self::F64,
            "LongStorage" => Self::I64,
            _ => return None,
        })
    }
}

/// Where the values of a tensor are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorDescription {
    /// Name of the storage in the archive.
    pub storage: String,
    /// Type of its values.
    pub element: ElementType,
    /// Values in the storage.
    pub storage_len: usize,
    /// First value.
    pub offset: usize,
    /// Shape, slowest dimension first.
    pub shape: Vec<usize>,
    /// Values from one index to the next, per dimension.
    pub strides: Vec<usize>,
}

/// The functions and types that a state dict refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(ElementType),
    /// A shape or a set: what training frameworks save beside a state dict, and no tensor needs.
    Beside,
}

impl Global {
    pub(super) fn of(module: &str, name: &str) -> Option<Self> {
        match (module, name) {
            ("collections", "OrderedDict") => Some(Self::OrderedDict),
            ("torch._utils", "_rebuild_tensor_v2") => Some(Self::RebuildTensor),
            ("torch._utils", "_rebuild_parameter") => Some(Self::RebuildParameter),
            ("torch", "Size") | ("builtins" | "__builtin__", "set") => Some(Self::Beside),
            ("torch", storage) => ElementType::of_storage(storage).map(Self::Storage),
            _ => None,
        }
    }
}
