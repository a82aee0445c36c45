//! The flash that a program takes.

unsafe extern "C" {
    // Symbols of the linker script of `cortex-m-rt`.
    static __vector_table: u8;
    static __erodata: u8;
    static __sdata: u8;
    static __edata: u8;
}

/// Vector table, code, constants, and the initial values of static variables, in bytes.
///
/// The linker script lays `.vector_table`, `.text` and `.rodata` out one after the other.
pub fn bytes() -> usize {
    let code = (&raw const __erodata).addr() - (&raw const __vector_table).addr();
    let data = (&raw const __edata).addr() - (&raw const __sdata).addr();
    code + data
}
