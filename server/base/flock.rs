//! An advisory lock on an open file or directory (`flock`), released when it is dropped.
//!
//! Closing the file is not enough: the lock is the open file description's, which a child process
//! has too between `fork` and `exec`. So the lock is released by name, and whoever asks next in
//! this process gets it whatever its children do. When the process dies instead, the kernel
//! releases the lock with the last of them.

use std::{
    fs::{File, TryLockError},
    ops::{Deref, DerefMut},
};

/// A file that no other open file description has locked while this one lives.
#[derive(Debug)]
pub struct Flock(File);

impl Flock {
    /// Locks the file or gives it back with the reason.
    pub fn try_on(file: File) -> Result<Flock, (File, TryLockError)> {
        match file.try_lock() {
            Ok(()) => Ok(Flock(file)),
            Err(e) => Err((file, e)),
        }
    }
}

impl Deref for Flock {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl DerefMut for Flock {
    fn deref_mut(&mut self) -> &mut File {
        &mut self.0
    }
}

impl Drop for Flock {
    fn drop(&mut self) {
        // A failure leaves what closing does.
        let _ = self.0.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_released_although_a_child_process_still_has_the_file_open() {
        let directory = tempfile::tempdir().unwrap();
        let open = || File::open(directory.path()).unwrap();
        let lock = Flock::try_on(open()).unwrap();
        // The same open file description again, as a child has it before it becomes another
        // program.
        let childs = lock.try_clone().unwrap();
        assert!(matches!(Flock::try_on(open()), Err((_, TryLockError::WouldBlock))));
        drop(lock);
        Flock::try_on(open()).unwrap();
        drop(childs);
    }
}
