//! Dequantizing blocks of hostile bytes: a length that is wrong is an error; what is right gives values that the
//! layout has, and touches nothing else.

use kvq_codec::Layout;
use kvq_codec::block::dequantize_into;

/// The layout, the number of values, the exponent in two bytes; the rest are the codes.
pub fn run(data: &[u8]) {
    let [layout, n_values, low, high, codes @ ..] = data else { return };
    let layout = Layout::ALL[usize::from(*layout) % Layout::ALL.len()];
    let n_values = usize::from(*n_values) + 1;
    let exponent = i16::from_le_bytes([*low, *high]);
    let mut out = vec![f32::NAN; n_values + 1];
    let result = dequantize_into(layout, codes, exponent, &mut out[..n_values]);
    assert_eq!(result.is_ok(), codes.len() == layout.row_bytes(n_values));
    if result.is_err() {
        assert!(out.iter().all(|v| v.is_nan()), "written in spite of the error");
        return;
    }
    assert!(out[n_values].is_nan(), "written beyond the values");
    let mut unit = vec![0.0; n_values];
    dequantize_into(layout, codes, 0, &mut unit).unwrap();
    for (&value, &level) in out.iter().zip(&unit) {
        let is_level = level.fract() == 0.0 && level.abs() <= 128.0;
        assert!(is_level && (layout == Layout::Q8 || layout.codewords().contains(&(level as i8))), "{level}");
        let scaled = f64::from(level) * (f64::from(exponent) / 8.0).exp2();
        let normal = scaled.abs() < 1e38 && (f64::from(exponent) / 8.0).exp2() > 1.2e-38;
        assert!(!normal || (f64::from(value) - scaled).abs() <= 1e-6 * scaled.abs(), "{value} {scaled}");
    }
}
