//! CRC-32, which finds every changed byte of a snapshot.
//!
//! Polynomial 0x04c11db7 (reflected 0xedb88320), initial value and final exclusive or 0xffffffff, bits
//! reflected: the CRC of zip, PNG and Ethernet, which every language's library has.

const POLYNOMIAL: u32 = 0xedb8_8320;

/// The remainder of each byte.
const TABLE: [u32; 256] = table();

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

/// The remainder of each byte with `i` bytes of zeros behind it, for sixteen bytes at a time: 16 KB, which a
/// microcontroller does not have to give.
#[cfg(target_pointer_width = "64")]
static TABLES: [[u32; 256]; 16] = {
    let mut tables = [TABLE; 16];
    let mut i = 1;
    while i < 16 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[i - 1][byte];
            tables[i][byte] = (before >> 8) ^ TABLE[(before & 255) as usize];
            byte += 1;
        }
        i += 1;
    }
    tables
};

/// The CRC-32 of `bytes`.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    #[cfg(target_pointer_width = "64")]
    {
        let (chunks, rest) = bytes.as_chunks::<16>();
        one_by_one(
            chunks.iter().fold(u32::MAX, |crc, chunk| {
                let [a, b, c, d] = crc.to_le_bytes();
                let mut chunk = *chunk;
                chunk.iter_mut().zip([a, b, c, d]).for_each(|(byte, crc)| *byte ^= crc);
                chunk
                    .iter()
                    .zip(TABLES.iter().rev())
                    .fold(0, |crc, (&byte, table)| crc ^ table[usize::from(byte)])
            }),
            rest,
        )
    }
    #[cfg(not(target_pointer_width = "64"))]
    one_by_one(u32::MAX, bytes)
}

/// The CRC-32 of `bytes` behind what left `before`, which is `u32::MAX` for nothing.
pub(crate) const fn one_by_one(before: u32, bytes: &[u8]) -> u32 {
    let mut crc = before;
    let mut i = 0;
    while i < bytes.len() {
        crc = (crc >> 8) ^ TABLE[(crc as u8 ^ bytes[i]) as usize];
        i += 1;
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_is_that_of_the_catalogues() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    fn sixteen_bytes_at_a_time_are_the_bytes_one_by_one() {
        let bytes: [u8; 100] = core::array::from_fn(|i| (i * i + 3 * i) as u8);
        for end in 0..bytes.len() {
            assert_eq!(crc32(&bytes[..end]), one_by_one(u32::MAX, &bytes[..end]), "{end} bytes");
        }
    }
}
