use std::sync::atomic::{AtomicU8, Ordering};

/// How far a layer may act: observed before enforced.
///
/// Every layer that refuses, delays or cuts off has a mode, and it can be switched while the service runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Mode {
    /// The layer does what it is for.
    #[default]
    Enforce,
    /// The layer decides and reports what it *would* have done, and lets every call through as it is.
    Observe,
    /// The layer is transparent: it neither acts nor records.
    Off,
}

impl Mode {
    /// The inverse of `mode as u8`; anything else is [`Mode::Enforce`].
    pub const fn from_u8(value: u8) -> Self {
        match value {
            1 => Self::Observe,
            2 => Self::Off,
            _ => Self::Enforce,
        }
    }
}

/// A [`Mode`] that all clones of a layer share and that can be switched while they run.
#[derive(Debug, Default)]
pub struct ModeCell(AtomicU8);

impl ModeCell {
    /// A cell that holds this mode.
    pub const fn new(mode: Mode) -> Self {
        Self(AtomicU8::new(mode as u8))
    }

    /// The mode that calls starting now obey.
    #[inline]
    pub fn get(&self) -> Mode {
        Mode::from_u8(self.0.load(Ordering::Relaxed))
    }

    /// Switches the mode for every call that starts from now on.
    pub fn set(&self, mode: Mode) {
        self.0.store(mode as u8, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_survives_its_cell() {
        for mode in [Mode::Enforce, Mode::Observe, Mode::Off] {
            let cell = ModeCell::default();
            cell.set(mode);
            assert_eq!(cell.get(), mode);
        }
    }
}
