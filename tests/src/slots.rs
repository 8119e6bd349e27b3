//! Slots: places of a file that a test writes whole, each time with a higher number, so that whatever is found
//! there later tells which write it is of, and whether all of it is there.

/// Bytes of a slot: over a page, and not a whole number of them, so that a slot may lie across pages and blocks.
pub const SLOT_LEN: usize = 6000;
const WORD: usize = 8;

/// A slot and what is known of its writes.
#[derive(Clone, Debug)]
pub struct Slot {
    /// First byte.
    pub offset: u64,
    /// The last write that was answered.
    pub acknowledged: u64,
    /// The last write that was begun.
    pub tried: u64,
    /// The last write that was answered before a sync that was answered began.
    pub synced: u64,
    name: u64,
}

impl Slot {
    /// A slot that was never written: zeros. `name` tells it from others.
    pub fn new(name: u64, offset: u64) -> Self {
        Self { offset, acknowledged: 0, tried: 0, synced: 0, name }
    }

    /// The bytes of its next write, which is begun by that.
    pub fn next_write(&mut self) -> Vec<u8> {
        self.tried += 1;
        self.word(self.tried).repeat(SLOT_LEN / WORD)
    }

    /// Which write these bytes are of.
    ///
    /// # Errors
    /// They are of no one write of this slot.
    pub fn read(&self, bytes: &[u8]) -> Result<u64, String> {
        let [first, ..] = bytes.as_chunks::<WORD>().0 else { return Err(format!("{} bytes", bytes.len())) };
        let number = u64::from_le_bytes(*first) & 0xFFFF_FFFF;
        let expected = self.word(number);
        match bytes.chunks(WORD).position(|word| word != expected) {
            None if bytes.len() == SLOT_LEN => Ok(number),
            None => Err(format!("{} bytes", bytes.len())),
            Some(at) => Err(format!("write {number} at its start and something else at byte {}", at * WORD)),
        }
    }

    /// Takes over what was found after the server came back.
    ///
    /// # Errors
    /// An acknowledged write is not there, or one is there that was never begun, or one is half there.
    pub fn check_survivor(&mut self, bytes: &[u8]) -> Result<(), String> {
        let found = self.read(bytes)?;
        if !(self.acknowledged..=self.tried).contains(&found) {
            return Err(format!("write {found}; acknowledged were {}, begun {}", self.acknowledged, self.tried));
        }
        (self.acknowledged, self.tried) = (found, found);
        Ok(())
    }

    /// Checks what the store has.
    ///
    /// # Errors
    /// A synced write is not there, or one is there that was never begun, or one is half there.
    pub fn check_stored(&self, bytes: &[u8]) -> Result<(), String> {
        let found = self.read(bytes)?;
        match (self.synced..=self.tried).contains(&found) {
            true => Ok(()),
            false => Err(format!("write {found} in the store; synced were {}, begun {}", self.synced, self.tried)),
        }
    }

    fn word(&self, number: u64) -> [u8; WORD] {
        if number == 0 { [0; WORD] } else { (self.name << 32 | number).to_le_bytes() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_a_half_and_a_foreign_write_are_found() {
        let mut slot = Slot::new(3, 0);
        let first = slot.next_write();
        slot.acknowledged = 1;
        let second = slot.next_write();
        assert_eq!((slot.read(&first), slot.read(&second)), (Ok(1), Ok(2)));
        assert!(slot.clone().check_survivor(&first).is_ok() && slot.clone().check_survivor(&second).is_ok());
        assert!(slot.clone().check_survivor(&[0; SLOT_LEN]).is_err(), "the acknowledged write is lost");
        let half = [&second[..SLOT_LEN / 2], &first[SLOT_LEN / 2..]].concat();
        assert!(slot.check_survivor(&half).is_err() && slot.check_stored(&half).is_err());
        assert!(slot.check_stored(&Slot::new(4, 0).next_write()).is_err());
        slot.synced = 2;
        assert!(slot.check_stored(&first).is_err() && slot.check_stored(&second).is_ok());
    }
}
