//! TensorBlock v1 (TBLK): one two-dimensional tensor in one file that is used through a memory map.
//!
//! Little-endian throughout. Sections, without gaps and with nothing after the last:
//!
//! | section | bytes |
//! |---|---|
//! | header | 128, see [`HEADER_LEN`] |
//! | scales | quantisation 1: one fp32 a row. 2: one fp32 a block, row by row; for uint4 then one fp32 minimum a block |
//! | padding | zero, up to the next multiple of [`DATA_ALIGNMENT`] |
//! | data | row-major elements; uint4: 16 bytes a block of 32, byte i holds element i (low) and element i + 16 (high) |
//! | tree | the [`crate::merkle`] tree over everything before it |
//!
//! Header: `TBLOCK01`, version 1 (u32), dtype (u32), rows (u64), columns (u64), layout (u32), quantisation (u32), offset
//! of the scales (u64, always 128), of the data (u64), of the tree (u64), 64 zero bytes. Everything in it follows from
//! dtype, quantisation and shape, so the header fixes the length of the file.

mod buf;
mod cast;
mod fault;
mod spec;
mod stream;
mod tensor;
mod view;
mod write;

pub use buf::TensorBuf;
pub use fault::{Section, TensorError, TensorFault};
pub use spec::{
    DATA_ALIGNMENT, DType, HEADER_LEN, Layout, MAGIC, Quantisation, Sections, TensorSpec, VERSION,
};
pub use stream::{StreamError, verify_stream, verify_stream_bytes};
pub use tensor::{BLOCK_LEN, Tensor, TensorData};
pub use view::{TensorView, verify_proof};
pub use write::{Written, write_tensorblock};

#[cfg(not(target_endian = "little"))]
compile_error!("TensorBlocks are little-endian and are used in place, through a memory map");
