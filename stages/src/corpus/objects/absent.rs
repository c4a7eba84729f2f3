//! What stands for object stores in a program that was built without them.

use std::convert::Infallible;
use std::io::{self, Read, Seek, SeekFrom};

use super::{Fault, Problem, StoreError, UNAVAILABLE};
use crate::corpus::address::Address;
use crate::corpus::location::Stat;

/// No connections.
#[derive(Debug)]
pub struct Stores;

/// There are none.
#[derive(Debug, Clone)]
pub struct ObjectReader(Infallible);

impl Stores {
    /// Those of this process.
    pub fn shared() -> &'static Self {
        &Self
    }

    fn absent(address: &Address) -> StoreError {
        StoreError::new(address, Problem::Refused, UNAVAILABLE)
    }

    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn stat(&self, address: &Address) -> Result<Stat, StoreError> {
        Err(Self::absent(address))
    }

    /// Refuses.
    pub fn stats(&self, addresses: &[Address]) -> Vec<Result<Stat, StoreError>> {
        addresses.iter().map(|address| self.stat(address)).collect()
    }

    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn list(&self, folder: &Address, _found: &mut dyn FnMut(&str, Stat)) -> Result<u64, StoreError> {
        Err(Self::absent(folder))
    }

    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn reach(&self, address: &Address) -> Result<String, StoreError> {
        Err(Self::absent(address))
    }

    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub fn open(&self, address: &Address) -> Result<ObjectReader, StoreError> {
        Err(Self::absent(address))
    }
}

impl ObjectReader {
    /// Bytes.
    pub fn len(&self) -> u64 {
        match self.0 {}
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        match self.0 {}
    }

    /// What is known of the object.
    pub fn stat(&self) -> Stat {
        match self.0 {}
    }

    /// Whether the store has failed.
    pub fn fault(&self) -> Fault {
        match self.0 {}
    }

    /// Where to end.
    pub fn read_no_further_than(&mut self, _end: u64) {
        match self.0 {}
    }

    /// Drops what was read.
    pub fn forget(&mut self) {
        match self.0 {}
    }
}

impl Read for ObjectReader {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        match self.0 {}
    }
}

impl Seek for ObjectReader {
    fn seek(&mut self, _: SeekFrom) -> io::Result<u64> {
        match self.0 {}
    }
}
