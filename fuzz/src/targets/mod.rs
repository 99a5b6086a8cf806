pub(crate) mod block;
pub(crate) mod canonical;
pub(crate) mod gguf;
mod input;
pub(crate) mod safetensors;
pub(crate) mod tensorblock;
pub(crate) mod uploads;
