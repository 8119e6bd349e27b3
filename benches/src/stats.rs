//! The middle of several values and how far they lie apart; numbers for people.

use serde::{Deserialize, Serialize};

/// Several values of one thing: the median, and the smallest and greatest beside it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The smallest.
    pub low: f64,
    /// The median.
    pub middle: f64,
    /// The greatest.
    pub high: f64,
}

impl Spread {
    /// Of no values there is none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (low, high) = (*values.first()?, *values.last()?);
        let upper = values[values.len() / 2];
        let lower = values[(values.len() - 1) / 2];
        Some(Self { low, middle: f64::midpoint(lower, upper), high })
    }
}

/// The value that `per_mille` of a thousand are not greater than; sorts them.
pub fn quantile(values: &mut [f64], per_mille: usize) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let last = values.len().checked_sub(1)?;
    Some(values[(values.len() * per_mille / 1000).min(last)])
}

/// Three digits that count, thousands apart: `1.23`, `45.6`, `123,456`.
pub fn digits(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if !value.is_finite() => "?".to_owned(),
        _ if size >= 1000.0 => grouped(&format!("{value:.0}")),
        _ if size >= 100.0 => format!("{value:.0}"),
        _ if size >= 10.0 => format!("{value:.1}"),
        _ if size >= 0.01 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

fn grouped(number: &str) -> String {
    let mut text = String::with_capacity(number.len() * 4 / 3);
    let (sign, digits) = number.strip_prefix('-').map_or(("", number), |digits| ("-", digits));
    text.push_str(sign);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_an_odd_number_of_values_is_one_of_them_and_of_an_even_number_lies_between() {
        let spread = |values: &[f64]| Spread::of(values.iter().copied());
        assert_eq!(spread(&[5.0, 1.0, 3.0]), Some(Spread { low: 1.0, middle: 3.0, high: 5.0 }));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 8.0]), Some(Spread { low: 1.0, middle: 3.0, high: 8.0 }));
        assert_eq!(spread(&[7.0]), Some(Spread { low: 7.0, middle: 7.0, high: 7.0 }));
        assert_eq!(spread(&[]), None);
    }

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let mut values: Vec<f64> = (0..100).rev().map(f64::from).collect();
        assert_eq!(quantile(&mut values, 500), Some(50.0));
        assert_eq!(quantile(&mut values, 990), Some(99.0));
        assert_eq!(quantile(&mut values, 1000), Some(99.0));
        assert_eq!(quantile(&mut [], 500), None);
    }

    #[test]
    fn numbers_keep_three_digits_and_have_thousands_apart() {
        let shown: Vec<_> =
            [0.0, 0.001_23, 0.5, 1.234, 45.67, 678.9, 1234.5, 1_234_567.8, -4321.0].map(digits).to_vec();
        assert_eq!(shown, ["0.00", "0.0012", "0.50", "1.23", "45.7", "679", "1,234", "1,234,568", "-4,321"]);
        assert_eq!(digits(f64::NAN), "?");
    }
}
