//! A message that was read before it is sent.

use bytes::Bytes;

use super::state::compact;

/// The message, without the buffer around it, which is many times its size and thereby free for the next one while the
/// processor has it at hand. Whoever sends it and whoever keeps it share it: so it lies beside its count, in one allocation where
/// [`Bytes`] makes two.
pub(super) fn message(data: &Bytes) -> Bytes {
    match data.len() {
        0 => Bytes::new(),
        1..=112 => Bytes::copy_from_slice(data),
        113..=496 => Bytes::from_owner(Short::<496>::of(data)),
        _ => compact(data),
    }
}

struct Short<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Short<N> {
    fn of(data: &[u8]) -> Self {
        let mut bytes = [0; N];
        bytes[..data.len()].copy_from_slice(data);
        Self { bytes, length: data.len() }
    }
}

impl<const N: usize> AsRef<[u8]> for Short<N> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_the_same_outside_of_its_buffer() {
        for length in [0, 1, 111, 112, 113, 495, 496, 497, 4095, 4096, 9000] {
            let bytes: Vec<u8> = (0..length).map(|n| n as u8).collect();
            assert_eq!(message(&Bytes::from(bytes.clone())), bytes, "{length}");
        }
    }

    #[test]
    fn the_buffer_of_a_small_message_is_let_go() {
        let buffer = Bytes::from(vec![7; 8192]);
        for length in [1, 112, 113, 497, 4095] {
            let kept = message(&buffer.slice(..length));
            assert!(buffer.is_unique(), "{length}");
            assert_eq!(kept.len(), length);
        }
    }
}
