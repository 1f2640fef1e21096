//! Redis' replies, taken apart.

use std::str::FromStr;

use redis::Value;

/// The bytes of a string; none when it is not there (or is no string).
pub(super) fn bytes(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        _ => None,
    }
}

/// A string, where it lies.
pub(super) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// A number, whether Redis says it as one or as digits.
pub(super) fn number<T: TryFrom<i64> + FromStr>(value: &Value) -> Option<T> {
    match value {
        Value::Int(number) => T::try_from(*number).ok(),
        other => text(other)?.parse().ok(),
    }
}

/// The items of an array or a set.
pub(super) fn items(value: Value) -> Vec<Value> {
    match value {
        Value::Array(items) | Value::Set(items) => items,
        _ => Vec::new(),
    }
}

/// The fields of a hash.
pub(super) fn pairs(value: Value) -> Vec<(Value, Value)> {
    match value {
        Value::Map(pairs) => pairs,
        other => {
            let mut items = items(other).into_iter();
            std::iter::from_fn(|| Some((items.next()?, items.next()?))).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_in_both_forms() {
        assert_eq!(number::<u64>(&Value::Int(7)), Some(7));
        assert_eq!(number::<u64>(&Value::BulkString(b"9007199254740991".to_vec())), Some(9_007_199_254_740_991));
        assert_eq!(number::<u64>(&Value::Int(-1)), None);
        assert_eq!(number::<i64>(&Value::BulkString(b"-1".to_vec())), Some(-1));
        assert_eq!(number::<u64>(&Value::Nil), None);
    }
}
