//! Prints what the C program of `firmware-example/c` is to arrive at, as a header: the results of this host.

use kvq_codec::Backend;
use kvq_replay::{SMALL_BYTES, small};

fn main() -> Result<(), kvq_codec::Error> {
    let result = small(Backend::SCALAR, &mut [0; SMALL_BYTES])?;
    println!("#define SMALL_BYTES {SMALL_BYTES}");
    println!("#define EXPECTED_CACHE {:#018x}ULL", result.cache);
    println!("#define EXPECTED_OUTPUTS {:#018x}ULL", result.outputs);
    Ok(())
}
