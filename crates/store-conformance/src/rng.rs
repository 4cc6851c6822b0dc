//! Reproducible randomness.

/// xorshift64 (Marsaglia 2003).
pub struct Rng(u64);

impl Rng {
    /// Rng that always fall the same way for one seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `sides`.
    pub fn roll(&mut self, sides: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from((self.0 >> 16) % u64::from(sides.max(1))).unwrap_or(0)
    }

    /// True `percent` times out of a hundred.
    pub fn lucky(&mut self, percent: u32) -> bool {
        self.roll(100) < percent
    }
}
