//! ONNX Runtime values over memory of ours.

use std::marker::PhantomData;
use std::ptr::NonNull;

use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::{AsPointer, sys};

use sys::ONNXTensorElementDataType as ElementType;

/// A number that a tensor may hold.
pub trait Number: Copy {
    const TYPE: ElementType;
}

impl Number for f32 {
    const TYPE: ElementType = ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}

impl Number for i32 {
    const TYPE: ElementType = ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
}

impl Number for i64 {
    const TYPE: ElementType = ElementType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
}

/// Turns a status into a result; the status is released.
pub fn check(status: sys::OrtStatusPtr) -> ort::Result<()> {
    // SAFETY: every caller hands over a status that ONNX Runtime has just returned, once.
    unsafe { ort::Error::result_from_status(status) }
}

/// A tensor whose elements lie in memory that is borrowed for `'a`; nothing is copied.
pub struct Tensor<'a> {
    value: NonNull<sys::OrtValue>,
    _memory: PhantomData<&'a mut [u8]>,
}

// SAFETY: the value is a descriptor that is never changed after its creation; ONNX Runtime allows its use from any
// thread. Memory of a shared borrow is only read, memory of an exclusive one is reached through the one run that the
// descriptor is an output of.
unsafe impl Send for Tensor<'_> {}
// SAFETY: see above.
unsafe impl Sync for Tensor<'_> {}

impl<'a> Tensor<'a> {
    /// A tensor to be read, an input.
    pub fn reading<T: Number>(data: &'a [T], dims: &[usize]) -> ort::Result<Self> {
        expect_len(data.len(), dims)?;
        // SAFETY: the slice is valid for 'a and ONNX Runtime never writes to the memory of an input.
        unsafe {
            Self::over(
                data.as_ptr().cast_mut().cast(),
                size_of_val(data),
                dims,
                T::TYPE,
            )
        }
    }

    /// A tensor to be written, an output (or both, where an operator works in place).
    pub fn writing<T: Number>(data: &'a mut [T], dims: &[usize]) -> ort::Result<Self> {
        expect_len(data.len(), dims)?;
        // SAFETY: the slice is valid and ours alone for 'a.
        unsafe { Self::over(data.as_mut_ptr().cast(), size_of_val(data), dims, T::TYPE) }
    }

    /// # Safety
    /// `data` must be valid for `bytes` bytes during 'a, for writing too if the tensor becomes an output.
    unsafe fn over(
        data: *mut std::ffi::c_void,
        bytes: usize,
        dims: &[usize],
        element: ElementType,
    ) -> ort::Result<Self> {
        let memory = MemoryInfo::new(
            AllocationDevice::CPU,
            0,
            AllocatorType::Device,
            MemoryType::Default,
        )?;
        let dims: Vec<i64> = dims.iter().map(|dim| *dim as i64).collect();
        let mut value = std::ptr::null_mut();
        // SAFETY: `dims` outlives the call, which copies it; the caller vouches for the data.
        check(unsafe {
            (ort::api().CreateTensorWithDataAsOrtValue)(
                memory.ptr(),
                data,
                bytes,
                dims.as_ptr(),
                dims.len(),
                element,
                &mut value,
            )
        })?;
        let value =
            NonNull::new(value).ok_or_else(|| ort::Error::new("ONNX Runtime made no tensor"))?;
        Ok(Self {
            value,
            _memory: PhantomData,
        })
    }

    pub fn as_ptr(&self) -> *mut sys::OrtValue {
        self.value.as_ptr()
    }
}

impl Drop for Tensor<'_> {
    fn drop(&mut self) {
        // SAFETY: the value was made by `over`, is released once, and does not own its memory.
        unsafe { (ort::api().ReleaseValue)(self.value.as_ptr()) }
    }
}

fn expect_len(len: usize, dims: &[usize]) -> ort::Result<()> {
    let elements = dims
        .iter()
        .try_fold(1usize, |product, dim| product.checked_mul(*dim));
    if elements == Some(len) {
        Ok(())
    } else {
        Err(ort::Error::new(format!(
            "{len} elements for a tensor {dims:?}"
        )))
    }
}
