//! Writes GGUF files for tests, sound ones and others.

/// Bytes of a GGUF text.
pub fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A metadata entry.
pub fn entry(key: &str, code: u32, value: &[u8]) -> Vec<u8> {
    [&text(key)[..], &code.to_le_bytes(), value].concat()
}

/// A list of texts, as the value of an entry with code 9.
pub fn texts(list: &[&str]) -> Vec<u8> {
    let mut out = [&8_u32.to_le_bytes()[..], &(list.len() as u64).to_le_bytes()].concat();
    list.iter().for_each(|item| out.extend(text(item)));
    out
}

/// A line of the tensor table.
pub fn tensor(name: &str, dims: &[u64], code: u32, offset: u64) -> Vec<u8> {
    let mut out = text(name);
    out.extend((dims.len() as u32).to_le_bytes());
    dims.iter().for_each(|dim| out.extend(dim.to_le_bytes()));
    out.extend(code.to_le_bytes());
    out.extend(offset.to_le_bytes());
    out
}

/// A header with these counts.
pub fn header(tensors: u64, entries: u64) -> Vec<u8> {
    [
        &b"GGUF"[..],
        &3_u32.to_le_bytes(),
        &tensors.to_le_bytes(),
        &entries.to_le_bytes(),
    ]
    .concat()
}

/// A file whose data section is aligned to 32.
pub fn file(entries: &[Vec<u8>], tensors: &[Vec<u8>], data: &[u8]) -> Vec<u8> {
    let mut out = header(tensors.len() as u64, entries.len() as u64);
    out.extend(entries.concat());
    out.extend(tensors.concat());
    out.resize(out.len().next_multiple_of(32), 0);
    out.extend(data);
    out
}
