//! The board that this was built for; the sizes are those of its `memory.x`.

/// Its name, a folder of `boards/`.
pub const NAME: &str = env!("KVQ_BOARD");

/// Flash that the linker script allows.
pub const FLASH_BYTES: usize = number(env!("KVQ_FLASH_BYTES")) as usize;

/// RAM that the linker script allows: `.data`, `.bss` and the stack.
pub const RAM_BYTES: usize = number(env!("KVQ_RAM_BYTES")) as usize;

/// A decimal number that the build script wrote.
pub const fn number(text: &str) -> u64 {
    match u64::from_str_radix(text, 10) {
        Ok(number) => number,
        Err(_) => panic!("the build script wrote something that is no number"),
    }
}
